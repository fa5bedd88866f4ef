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
/** Other servers, which follow the sign-outs. */
const servers = 4;
/** Milliseconds between their reads where nothing is pushed. */
const pollWithoutPush = 500;
/** Sign-outs in one round of one kind. */
const perRound = 1_500;

export async function signouts({ quick, log }: ScenarioOptions): Promise<Figures> {
  requireService(postgresMissing);
  // Flushed to disk as in production: NOTIFY within a transaction would hold its lock for as long.
  const server = await startPostgres({ durable: true });
  const backend = postgresBackend(() => openPool(server.url("public"), { max: clients }));
  const others = Array.from({ length: servers }, () => new Follower(server.url("public")));
  const stores = { with: new SqlStore(backend), without: new SqlStore(silent(backend)) };
  try {
    await stores.with.open({ clock: systemClock });
    await stores.without.open({ clock: systemClock });
    await Promise.all(others.map((other) => other.open()));
    // Rounds in turn, so that both meet the same machine; the first one only warms up.
    const rounds = quick ? 24 : 60;
    const rates = { with: [] as number[], without: [] as number[] };
    for (let round = 0; round <= rounds; round++) {
      const order =
        round % 2 === 0 ? (["with", "without"] as const) : (["without", "with"] as const);
      for (const kind of order) {
        const ids = await signedIn(stores[kind], perRound);
        // Nobody reads what the round before has left.
        await Promise.all(others.map((other) => other.read()));
        const polling = setInterval(() => {
          if (kind === "without") {
            others.forEach((other) => void other.read());
          }
        }, pollWithoutPush);
        const rate = await measure(stores[kind], ids);
        clearInterval(polling);
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
      // The two of a round follow each other, so that a change of the machine's load cancels out.
      signout_push_ratio: median(rates.with.map((rate, i) => rate / (rates.without[i] ?? 0))),
      signouts_per_s: pushed,
      signouts_without_push_per_s: alone,
    };
  } finally {
    await Promise.all([...others, stores.with, stores.without].map((each) => each.close()));
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

/** Another server: reads the change log when it is woken. */
class Follower {
  readonly #store: SqlStore;
  #cursor: string | undefined;
  #underWay: Promise<void> | undefined;

  constructor(url: string) {
    this.#store = new SqlStore(postgresBackend(() => openPool(url, { max: 2 })));
  }

  async open(): Promise<void> {
    await this.#store.open({ clock: systemClock });
    this.#store.onChange(() => void this.read());
    while (this.#store.pushed() !== true) {
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }

  read(): Promise<void> {
    this.#underWay ??= this.#store.changes(this.#cursor, 60_000).then(({ cursor }) => {
      this.#cursor = cursor;
      this.#underWay = undefined;
    });
    return this.#underWay;
  }

  close(): Promise<void> {
    return this.#store.close();
  }
}

let created = 0;

async function signedIn(store: SessionStore, count: number): Promise<readonly string[]> {
  const ids = Array.from({ length: count }, () => `s${created++}`);
  await inParallel(ids, (id) => store.insert(newSession({ id, userId: `u${id}` })));
  return ids;
}

/** Sign-outs per second. */
async function measure(store: SessionStore, ids: readonly string[]): Promise<number> {
  const began = performance.now();
  await inParallel(ids, (id) => store.revoke(id, "revoked"));
  return (ids.length / (performance.now() - began)) * 1000;
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
