import { copyFile, rename, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { describe, expect, it } from "vitest";
import { systemClock } from "../../src/base/clock.ts";
import { sqliteStore } from "../../src/stores/sqlite/index.ts";
import { advance, newSession } from "../../src/testing/store-contract/fixture.ts";
import { openedSqlite } from "./sqlite-fixture.ts";

const gone =
  /^sqliteStore: .*sessions\.db was deleted or replaced while it was open, so changes would be lost; put the file back, or restart the server to use what is there now$/;

describe("the file of sqliteStore", () => {
  it("is missed when it is deleted under the process, and used again when it is put back", async () => {
    await using fixture = await openedSqlite();
    const { store, file } = fixture;
    await store.insert(newSession());
    await rename(file, `${file}.away`);
    await expect(store.load("s1")).rejects.toThrow(gone);
    await expect(store.insert(newSession({ id: "s2" }))).rejects.toThrow(gone);
    await expect(store.refresh(advance(0))).rejects.toThrow(gone);
    await rename(`${file}.away`, file);
    expect((await store.refresh(advance(0))).record?.generation).toBe(1);
  });

  it("is missed when another one takes its place, so that two servers never write to two files", async () => {
    await using fixture = await openedSqlite();
    const { store, file } = fixture;
    await store.insert(newSession());
    await rm(file);
    const restarted = fixture.another();
    await restarted.open({ clock: systemClock });
    await restarted.insert(newSession({ id: "s2" }));
    await expect(store.revoke("s2", "revoked")).rejects.toThrow(gone);
    await expect(store.load("s1")).rejects.toThrow(gone);
    expect((await restarted.load("s2")).record?.revokedAt).toBeNull();
    await restarted.close();
  });

  it("is missed by a process that does nothing, which then reports that it learns of no change", async () => {
    await using fixture = await openedSqlite();
    const { store, file } = fixture;
    store.onChange(() => {});
    await expect.poll(() => store.pushed?.()).toBe(true);
    await rename(file, `${file}.away`);
    await expect.poll(() => store.pushed?.()).toBe(false);
    await rename(`${file}.away`, file);
    await expect.poll(() => store.pushed?.()).toBe(true);
  });

  it("is backed up by VACUUM INTO while it is in use, with everything that was acknowledged", async () => {
    await using fixture = await openedSqlite();
    const { store, file, folder } = fixture;
    await store.secret?.();
    await store.insert(newSession());
    await store.refresh(advance(0));
    const copy = join(folder, "copy.db");
    // The file alone lacks the write-ahead log.
    expect((await stat(`${file}-wal`)).size).toBeGreaterThan(0);
    const other = new DatabaseSync(file);
    other.exec(`vacuum into '${copy}'`);
    other.close();
    await store.insert(newSession({ id: "s2" }));
    await copyFile(`${file}.secret`, `${copy}.secret`);
    const restored = sqliteStore(copy);
    await restored.open({ clock: systemClock });
    expect(await restored.secret?.()).toEqual(await store.secret?.());
    expect((await restored.load("s1")).record?.generation).toBe(1);
    expect((await restored.load("s2")).record).toBeUndefined();
    await restored.close();
  });
});
