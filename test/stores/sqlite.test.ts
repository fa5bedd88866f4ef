import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, it } from "vitest";
import { sqliteStore } from "../../src/stores/sqlite.ts";
import { describeDurableSessionStore } from "../../src/testing/store-contract.ts";
import { stillClock } from "./still-clock.ts";

async function create() {
  const folder = await mkdtemp(join(tmpdir(), "rpcsession-"));
  const file = join(folder, "sessions.db");
  const store = sqliteStore(file);
  return {
    store,
    file,
    clock: stillClock(),
    another: () => sqliteStore(file),
    async close() {
      await store.close();
      await rm(folder, { recursive: true });
    },
  };
}

describeDurableSessionStore({ describe, it }, "sqliteStore", create);
