import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { sqliteStore } from "../../src/stores/sqlite/index.ts";
import { stillClock } from "./still-clock.ts";

/** A store in a file of its own. */
export async function createSqlite() {
  const folder = await mkdtemp(join(tmpdir(), "rpcsession-"));
  const file = join(folder, "sessions.db");
  const store = sqliteStore(file);
  return {
    store,
    folder,
    file,
    clock: stillClock(),
    another: () => sqliteStore(file),
    async close() {
      await store.close();
      await rm(folder, { recursive: true });
    },
  };
}

/** An open store in a file of its own, removed at the end of the scope. */
export async function openedSqlite() {
  const fixture = await createSqlite();
  await fixture.store.open(fixture);
  return { ...fixture, [Symbol.asyncDispose]: () => fixture.close() };
}
