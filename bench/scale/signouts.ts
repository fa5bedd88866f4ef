// Sign-outs per second with the notification of other servers, compared with the same without it.
import { systemClock } from "../../src/base/clock.ts";
import type { SessionStore } from "../../src/engine/store.ts";
import { postgresBackend } from "../../src/stores/postgres/connections.ts";
import { openPool } from "../../src/stores/postgres/pools.ts";
import type { SqlBackend } from "../../src/stores/sql/database.ts";
import { SqlStore } from "../../src/stores/sql/store.ts";
import { newSession } from "../../src/testing/store-contract/fixture.ts";
import { postgresMissing, startPostgres } from "../../test/servers/postgres.ts";
import { type Figures, requireService, type ScenarioOptions } from "./scenario.ts";

const clients = 64;
/** Servers that listen for the sign-outs. */
const listeners = 4;

export async function signouts({ quick, log }: ScenarioOptions): Promise<Figures> {
  requireService(postgresMissing);
  // Flushed to disk as in production: NOTIFY within a transaction would hold its lock for as long.
  const server = await startPostgres({ durable: true });
  const backend = postgresBackend(() => openPool(server.url("public"), { max: clients }));
  const others = Array.from({ length: listeners }, () => listening(server.url("public")));
  const stores = { with: new SqlStore(backend), without: new SqlStore(silent(backend)) };
  try {
    await stores.with.open({ clock: systemClock });
    await stores.without.open({ clock: systemClock });
    await Promise.all(others.map((open) => open()));
    // Rounds in turn, so that both meet the same machine; the first one only warms up.
    const rounds = quick ? 4 : 12;
    const perRound = quick ? 4_000 : 10_000;
    const rates = { with: [] as number[], without: [] as number[] };
    for (let round = 0; round <= rounds; round++) {
      const order =
        round % 2 === 0 ? (["with", "without"] as const) : (["without", "with"] as const);
      for (const kind of order) {
        const rate = await measure(stores[kind], perRound);
        if (round > 0) {
          rates[kind].push(rate);
        }
      }
    }
    const pushed = median(rates.with);
    const alone = median(rates.without);
    log(
      `sign-outs, ${clients} clients: ${pushed.toFixed(0)}/s with push, ${alone.toFixed(0)}/s without`,
    );
    return {
      signout_push_ratio: pushed / alone,
      signouts_per_s: pushed,
      signouts_without_push_per_s: alone,
    };
  } finally {
    await Promise.all([stores.with.close(), stores.without.close()]);
    await server.stop();
  }
}

/** The same backend, whose commits are not announced. */
function silent(backend: SqlBackend): SqlBackend {
  return {
    ...backend,
    async connect(context) {
      const connections = await backend.connect(context);
      return {
        query: (...given) => connections.query(...given),
        begin: (statement) => connections.begin(statement),
        close: () => connections.close(),
        retries: connections.retries,
        now: connections.now,
      };
    },
  };
}

function listening(url: string): () => Promise<void> {
  const store = new SqlStore(postgresBackend(() => openPool(url, { max: 2 })));
  return async () => {
    await store.open({ clock: systemClock });
    let cursor: string | undefined;
    store.onChange(() => {
      // What a server does when it is woken.
      store.changes(cursor, 60_000).then(
        (changes) => {
          cursor = changes.cursor;
        },
        () => {},
      );
    });
  };
}

let created = 0;

/** Sign-outs per second; the sessions are created before. */
async function measure(store: SessionStore, count: number): Promise<number> {
  const ids = Array.from({ length: count }, () => `s${created++}`);
  await inParallel(ids, (id) => store.insert(newSession({ id, userId: `u${id}` })));
  const began = performance.now();
  await inParallel(ids, (id) => store.revoke(id, "revoked"));
  return (count / (performance.now() - began)) * 1000;
}

async function inParallel(ids: readonly string[], work: (id: string) => Promise<unknown>) {
  const rest = ids.values();
  await Promise.all(
    Array.from({ length: clients }, async () => {
      for (const id of rest) {
        await work(id);
      }
    }),
  );
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0;
}
