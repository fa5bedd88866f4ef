// How often 100 servers read the change log for 100 revocations.

import type { SessionStore } from "../../src/engine/store.ts";
import { createSessions, type Sessions } from "../../src/index.ts";
import { postgresStore } from "../../src/stores/postgres/index.ts";
import { postgresMissing, startPostgres } from "../../test/servers/postgres.ts";
import { type Figures, requireService, type ScenarioOptions } from "./scenario.ts";

const [servers, revocations] = [100, 100];

export async function logReads({ log }: ScenarioOptions): Promise<Figures> {
  requireService(postgresMissing);
  const server = await startPostgres({ connections: 2 * servers + 50 });
  let reads = 0;
  const counted = (store: SessionStore): SessionStore => ({
    ...store,
    changes(...given) {
      reads += 1;
      return store.changes(...given);
    },
  });
  const fleet: Sessions[] = [];
  try {
    for (let i = 0; i < servers; i++) {
      const sessions = createSessions({
        issuer: "https://api.example.com",
        secret: "a secret of at least 32 bytes, for tests",
        // The longest one, so that hardly a poll falls into the measurement.
        maxStaleness: "60s",
        store: counted(postgresStore(server.url("public"), { connections: 1 })),
      });
      await sessions.ready();
      fleet.push(sessions);
    }
    await until(() => fleet.every((each) => each.health().push === "connected"));
    const results: Record<string, number> = {};
    const cases = {
      // One server after another, each revocation after the one before.
      by_one_server: () => fleet[0] as Sessions,
      by_all_servers: (i: number) => fleet[i % servers] as Sessions,
    };
    for (const [name, choose] of Object.entries(cases)) {
      const ids: string[] = [];
      for (let i = 0; i < revocations; i++) {
        ids.push((await (fleet[0] as Sessions).issue({ userId: `u${i}` })).session.id);
      }
      await quiet(() => reads);
      const known = fleet.map((each) => each.health().changes);
      const before = reads;
      const began = performance.now();
      for (const [i, id] of ids.entries()) {
        await choose(i).revoke(id);
      }
      await until(() =>
        fleet.every((each, i) => each.health().changes >= (known[i] ?? 0) + revocations),
      );
      const took = performance.now() - began;
      await quiet(() => reads);
      results[name] = reads - before;
      log(
        `${revocations} revocations ${name.replaceAll("_", " ")}: ${servers} servers knew all after ${took.toFixed(0)} ms, with ${reads - before} reads`,
      );
    }
    return {
      log_reads_100x100: Math.max(...Object.values(results)),
      log_reads_by_one_server: results.by_one_server ?? 0,
      log_reads_by_all_servers: results.by_all_servers ?? 0,
    };
  } finally {
    await Promise.all(fleet.map((each) => each.close()));
    await server.stop();
  }
}

/** Waits until a number has not changed for a second. */
async function quiet(number: () => number): Promise<void> {
  for (let last = -1; last !== number(); ) {
    last = number();
    await pause(1000);
  }
}

async function until(holds: () => boolean): Promise<void> {
  while (!holds()) {
    await pause(10);
  }
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
