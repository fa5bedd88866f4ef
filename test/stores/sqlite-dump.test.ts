import { readFileSync, rmSync } from "node:fs";
import { expect, it } from "vitest";
import { createFakeClock } from "../../src/testing/fake-clock.ts";
import { startEngine } from "../helpers/engine.ts";
import { createSqlite } from "./sqlite-fixture.ts";

const secret = "a secret of at least 32 bytes, for tests";

it("feat:H7, sec:R12: the files of sqliteStore contain no token, and no part of a token that is hard to guess", async () => {
  const fixture = await createSqlite();
  const { store, another, file } = fixture;
  try {
    const engine = await startEngine({ store, secret });
    const { token } = await engine.signIn();
    await engine.confirm(token);
    const { refreshToken = "", record, access } = await engine.exchange(token);
    const bytes = Buffer.concat([file, `${file}-wal`].map((part) => readFileSync(part)));
    expect(bytes.includes(record.rootHash ?? "none")).toBe(true);
    const parts = [token, refreshToken].flatMap((one) => one.split(".").slice(4));
    // Signing keys are encrypted with the secret; a plain private JWK would show its "d".
    for (const hidden of [secret, ...parts, ...access.token.split(".").slice(1), '"d":']) {
      expect(hidden.length).toBeGreaterThan(3);
      expect(bytes.includes(hidden), hidden).toBe(false);
    }
    // Under another secret, an engine on the same files rejects these tokens, and its own are rejected here.
    const copy = await startEngine({ store: another(), secret: `not ${secret}` });
    expect(await reason(copy.exchange(refreshToken))).toBe("unavailable");
    const own = await copy.signIn();
    expect(await reason(engine.exchange(own.token))).toBe("unavailable");
    await copy.close();
  } finally {
    await fixture.close();
  }
});

it("sec:R12: the database file cannot be opened without its secret file", async () => {
  const fixture = await createSqlite();
  const { store, another, file } = fixture;
  try {
    const clock = createFakeClock();
    const engine = await startEngine({ store, clock });
    await engine.signIn();
    rmSync(`${file}.secret`);
    await expect(startEngine({ store: another(), clock })).rejects.toMatchObject({
      kind: "unavailable",
      cause: { message: expect.stringContaining("secret") },
    });
  } finally {
    await fixture.close();
  }
});

async function reason(work: Promise<unknown>): Promise<unknown> {
  return work.then(
    () => "accepted",
    (error: { readonly kind: string }) => error.kind,
  );
}
