import { readdir, readFile, rm, writeFile } from "node:fs/promises";
import { describe, expect, it } from "vitest";
import { newSession } from "../../src/testing/store-contract/fixture.ts";
import { openedSqlite } from "./sqlite-fixture.ts";

describe("sqliteStore(file).secret()", () => {
  it("creates 32 random bytes once, and leaves no temporary files behind", async () => {
    await using fixture = await openedSqlite();
    const secrets = await Promise.all(
      Array.from({ length: 64 }, async (_, index) => {
        await turns(index);
        return fixture.store.secret?.();
      }),
    );
    const text = await readFile(`${fixture.file}.secret`, "utf8");
    for (const secret of secrets) {
      expect(secret).toHaveLength(32);
      expect(Buffer.from(secret ?? []).toString("base64url")).toBe(text.trim());
    }
    expect((await readdir(fixture.folder)).filter((file) => file.includes("tmp"))).toEqual([]);
  });

  it("uses an existing secret", async () => {
    await using fixture = await openedSqlite();
    const given = Buffer.alloc(48, 0xfb);
    await writeFile(`${fixture.file}.secret`, `${given.toString("base64")}\n`);
    expect(await fixture.store.secret?.()).toEqual(Uint8Array.from(given));
  });

  it("keeps the secret if the database is lost", async () => {
    await using fixture = await openedSqlite();
    const secret = await fixture.store.secret?.();
    await fixture.store.close();
    await rm(fixture.file);
    await fixture.store.open(fixture);
    expect(await fixture.store.secret?.()).toEqual(secret);
  });

  it("does not create a new secret while there are sessions, even ended ones", async () => {
    await using fixture = await openedSqlite();
    await fixture.store.secret?.();
    await fixture.store.insert(newSession());
    await fixture.store.revoke("s1", "signOut");
    await rm(`${fixture.file}.secret`);
    await expect(fixture.store.secret?.()).rejects.toThrow(/db\.secret is missing.*restore it/);
    await expect(fixture.another().secret?.()).rejects.toThrow("not open");
    expect(await readdir(fixture.folder)).not.toContain("sessions.db.secret");
  });

  it("does not create a new secret while there are signing keys", async () => {
    await using fixture = await openedSqlite();
    const key = { slot: 0, kid: "k", alg: "ES256", publicJwk: "{}", privateJwk: "sealed" };
    await fixture.store.addSigningKey(key);
    await expect(fixture.store.secret?.()).rejects.toThrow("restore it");
  });

  it.each([
    ["empty", ""],
    ["one byte short", Buffer.alloc(31, 1).toString("base64url")],
    ["not base64", "not a secret, but a sentence that is long enough to be one"],
  ])("refuses a secret file that is %s, and leaves it unchanged", async (_case, text) => {
    await using fixture = await openedSqlite();
    await writeFile(`${fixture.file}.secret`, text);
    await expect(fixture.store.secret?.()).rejects.toThrow("does not hold a secret");
    expect(await readFile(`${fixture.file}.secret`, "utf8")).toBe(text);
  });
});

/** Waits some turns of the event loop, so that calls start while earlier ones are under way. */
async function turns(count: number): Promise<void> {
  for (let turn = 0; turn < count; turn++) {
    await new Promise((resolve) => {
      setImmediate(resolve);
    });
  }
}
