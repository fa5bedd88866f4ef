import { readFileSync, rmSync } from "node:fs";
import { expect, it } from "vitest";
import { createFakeClock } from "../../src/testing/fake-clock.ts";
import { startEngine } from "../helpers/engine.ts";
import { createSqlite } from "./sqlite-fixture.ts";

const secret = "a secret of at least 32 bytes, for tests";

it("feat:H7, sec:R12: the files of sqliteStore hold no token, nor the part of one that is hard to guess", async () => {
  const fixture = await createSqlite();
  const { store, another, file } = fixture;
  try {
    const engine = await startEngine({ store, secret });
    const { token } = await engine.signIn();
    await engine.confirm(token);
    const { refreshToken = "", record, access } = await engine.exchange(token);
    const bytes = Buffer.concat([file, `${file}-wal`].map((part) => readFileSync(part)));
    expect(bytes.includes(record.salt)).toBe(true);
    const parts = [token, refreshToken].flatMap((one) => one.split(".").slice(3));
    // A key is encrypted under the secret; a private JWK would show its "d".
    for (const hidden of [secret, ...parts, ...access.token.split(".").slice(1), '"d":']) {
      expect(hidden.length).toBeGreaterThan(3);
      expect(bytes.includes(hidden), hidden).toBe(false);
    }
    // Under another secret the same files take none of these tokens, and their own are no good here.
    const copy = await startEngine({ store: another(), secret: `not ${secret}` });
    expect(await reason(copy.exchange(refreshToken))).toBe("unavailable");
    const own = await copy.signIn();
    expect(await reason(engine.exchange(own.token))).toBe("unavailable");
    await copy.close();
  } finally {
    await fixture.close();
  }
});

it("sec:R12: without its secret beside it the file opens for nobody", async () => {
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
