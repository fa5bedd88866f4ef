import { describe, expect, it } from "vitest";
import { describePostgres } from "./describe-postgres.ts";
import {
  accepts,
  day,
  failure,
  minute,
  type NewSharedStore,
  second,
  use,
} from "./rules-helpers.ts";
import { type Server, type Servers, startServers } from "./servers.ts";
import { sharedPostgres, sharedSqlite } from "./shared-stores.ts";

const [old, next] = [
  "the old secret, of at least 32 bytes!",
  "the new secret, of at least 32 bytes!",
];

const everywhere = [0, 1, 2, 3];

describe("feat:H8 a roll-out of a new secret over four servers on one SQLite file", () => {
  describeRollOut(sharedSqlite);
});
describePostgres(
  "feat:H8 a roll-out of a new secret over four servers on one PostgreSQL",
  (server) => describeRollOut(() => sharedPostgres(server())),
);

function describeRollOut(newStore: NewSharedStore): void {
  it("in the documented order mints equal successors throughout, and signs nobody out", async () => {
    await using servers = await startServers(newStore(), { secret: old });
    const log: Log = { types: new Set(), secrets: new Set() };
    const clients = await signIn(servers, 20);
    await rollOut(servers, clients, { list: [old, next], log });
    await rollOut(servers, clients, { list: [next, old], log });
    expect(log.secrets.size).toBe(2);

    // The old secret is removed after the absolute lifetime of a session: 90 days.
    const [few, on] = [clients.slice(0, 4), [1, 2]];
    for (let days = 13; days <= 52; days += 13) {
      await servers.pass(13 * day);
      await everybodyRefreshes(servers, few, on);
    }
    const later = await signIn(servers, 20);
    for (let days = 65; days <= 91; days += 13) {
      await servers.pass(13 * day);
      await everybodyRefreshes(servers, days < 90 ? [...few, ...later] : later, on);
    }
    // The sweeper removes an expired session after 24 h to 28 h.
    await servers.pass(day / 6);
    // Sessions under the old secret have reached their absolute end; removing it ended none of them.
    for (const { token } of few) {
      expect(await failure(servers.at(0).exchange(token))).toMatchObject({ kind: "unauthorized" });
    }
    log.secrets.clear();
    await rollOut(servers, later, { list: next, log });
    expect(log.secrets.size).toBe(1);
    note(servers.all, log);
    expect(log.types).toEqual(new Set(["created", "refreshed", "recovered"]));
  });

  it("in the wrong order is Unavailable on servers without the secret, and still signs nobody out", async () => {
    await using servers = await startServers(newStore(), { secret: old });
    const [client] = await signIn(servers, 1);
    if (client === undefined) {
      throw new Error("nobody signed in");
    }
    // It is at the front on one server, and the others do not have it.
    await servers.at(0).close();
    await start(servers, 0, [next, old]);
    await advance(servers, client, [0]);
    for (const behind of [1, 2, 3]) {
      expect(await failure(servers.at(behind).exchange(client.token))).toMatchObject({
        kind: "unavailable",
        clearTokens: false,
      });
    }
    expect(servers.at(1).events.map(({ type }) => type)).toContain("unknownSecret");
    for (const index of [1, 2, 3]) {
      await servers.at(index).close();
      await start(servers, index, [old, next]);
    }
    await advance(servers, client, [1, 2, 3]);
    expect(servers.thefts()).toEqual([]);
  });
}

interface Client {
  readonly id: string;
  token: string;
  generation: number;
}

async function signIn(servers: Servers, count: number): Promise<Client[]> {
  const clients: Client[] = [];
  for (let index = 0; index < count; index++) {
    clients.push({ ...(await servers.at(index).signIn()), generation: 0 });
  }
  return clients;
}

interface Log {
  /** All events, including those of stopped servers. */
  readonly types: Set<string>;
  /** The secrets that sessions were under meanwhile. */
  readonly secrets: Set<string>;
}

function note(stopped: readonly Server[], { types }: Log): void {
  for (const { type } of stopped.flatMap(({ events }) => events)) {
    // Moving the clock makes the log stale, and it recovers.
    if (!type.startsWith("feed")) {
      types.add(type);
    }
  }
}

/** Changes the secrets of one server after the other while all clients keep refreshing. */
async function rollOut(
  servers: Servers,
  clients: readonly Client[],
  { list, log }: { readonly list: string | readonly string[]; readonly log: Log },
): Promise<void> {
  for (const index of everywhere) {
    note([servers.at(index)], log);
    await servers.at(index).close();
    const others = [(index + 1) % 4, (index + 3) % 4];
    await everybodyRefreshes(servers, clients, others);
    await start(servers, index, list);
    await everybodyRefreshes(servers, clients);
    for (const { id } of clients) {
      const { record } = await servers.at(index).load(id);
      log.secrets.add(record?.secretId ?? "");
    }
  }
}

/** Starts a server that replaces another one. */
async function start(
  servers: Servers,
  index: number,
  secret: string | readonly string[],
): Promise<void> {
  servers.all[index] = await servers.add({ secret });
  servers.all.pop();
}

/** Every client advances by one generation, on all servers concurrently. */
async function everybodyRefreshes(
  servers: Servers,
  clients: readonly Client[],
  on: readonly number[] = everywhere,
): Promise<void> {
  await servers.pass(minute);
  const any = (turn: number) => servers.at(on[turn % on.length] ?? 0);
  await Promise.all(
    clients.map(async ({ token }, turn) => {
      const { access } = await any(turn).exchange(token);
      await use(any(turn + 1), access);
    }),
  );
  await servers.pass(31 * second);
  await Promise.all(clients.map((client) => successorOf(servers, client, on)));
}

async function advance(servers: Servers, client: Client, on: readonly number[]): Promise<void> {
  await servers.pass(minute);
  await servers.at(on[0] ?? 0).exchange(client.token);
  await servers.pass(31 * second);
  await successorOf(servers, client, on);
}

/** Refreshes on several servers concurrently: one generation, and the same token from all of them. */
async function successorOf(servers: Servers, client: Client, on: readonly number[]): Promise<void> {
  const answers = await Promise.all(on.map((index) => servers.at(index).exchange(client.token)));
  const [successor, ...others] = new Set(answers.map(({ refreshToken }) => refreshToken));
  expect(others).toEqual([]);
  client.generation += 1;
  for (const { record } of answers) {
    expect(record).toMatchObject({ id: client.id, generation: client.generation });
  }
  for (const [turn, { access }] of answers.entries()) {
    expect(await accepts(servers.at(on[(turn + 1) % on.length] ?? 0), access)).toBe(true);
  }
  client.token = successor ?? "";
}
