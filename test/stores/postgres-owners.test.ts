import { expect, it, vi } from "vitest";
import type { RevokeScope, SessionStore } from "../../src/engine/store.ts";
import { type PostgresPool, postgresStore } from "../../src/stores/postgres/index.ts";
import {
  atOnce,
  evictAbove,
  insertNew,
  newSession,
  rejectAbove,
} from "../../src/testing/store-contract/fixture.ts";
import { describePostgres } from "./describe-postgres.ts";
import { heldCommits, watchedPool } from "./held-pool.ts";
import { createPool, openedPostgres } from "./postgres-fixture.ts";

const alice = { userId: "alice", tenantId: null };
const scopes: RevokeScope[] = [
  { ...alice, except: null },
  { userId: null, tenantId: "one", except: null },
  { userId: "alice", tenantId: "one", except: null },
];
const levels = ["read committed", "repeatable read", "serializable"];

describePostgres("all sessions of an owner on PostgreSQL", (server) => {
  it.each(levels)(
    "ending them waits for an insert in one statement (default isolation: %s)",
    async (level) => {
      await using fixture = await openedPostgres(server());
      for (const [index, scope] of scopes.entries()) {
        await using one = await openedStore(fixture, { level });
        await using other = await openedStore(fixture, { level });
        await using slow = await slowInserts(fixture);
        const id = `slow-${index}`;
        const inserting = one.store.insert(newSession({ id, tenantId: "one" }));
        await slow.waiting(1);
        const ending = other.store.revokeAll(scope, "revoked");
        await slow.waiting(2);
        await slow.letGo();
        expect((await inserting).record?.id).toBe(id);
        expect((await ending).revoked).toEqual([id]);
        expect((await fixture.store.load(id)).record?.endedBy).toBe("revoked");
      }
    },
  );

  it.each(levels)(
    "ending them waits for an insert in a transaction (default isolation: %s)",
    async (level) => {
      await using fixture = await openedPostgres(server());
      for (const [index, scope] of scopes.entries()) {
        const held = heldCommits();
        await using one = await openedStore(fixture, { level, before: held.before });
        await using other = await openedStore(fixture, { level });
        const id = `slow-${index}`;
        const session = newSession({ id, tenantId: "one", replaces: "absent" });
        const inserting = one.store.insert(session);
        await held.arrived;
        const ending = other.store.revokeAll(scope, "revoked");
        await waitingForLocks(fixture, 1);
        held.letGo();
        expect((await inserting).record?.id).toBe(id);
        expect((await ending).revoked).toEqual([id]);
      }
    },
  );

  it("an insert waits until they have ended, and its session lives", async () => {
    await using fixture = await openedPostgres(server());
    for (const [index, scope] of scopes.entries()) {
      const old = newSession({ id: `old-${index}`, tenantId: "one" });
      await fixture.store.insert(old);
      const held = heldCommits();
      await using slow = await openedStore(fixture, { before: held.before });
      const ending = slow.store.revokeAll(scope, "revoked");
      await held.arrived;
      const id = `new-${index}`;
      const inserting = fixture.store.insert(newSession({ id, tenantId: "one" }));
      await waitingForLocks(fixture, 1);
      held.letGo();
      expect((await ending).revoked).toEqual([old.id]);
      await inserting;
      expect((await fixture.store.load(id)).record?.revokedAt).toBeNull();
      await fixture.store.revoke(id, "revoked");
    }
  });

  it("a session that an insert requires cannot end before the insert commits", async () => {
    await using fixture = await openedPostgres(server());
    await fixture.store.insert(newSession({ id: "old" }));
    const held = heldCommits();
    await using slow = await openedStore(fixture, { before: held.before });
    const inserting = slow.store.insert(newSession({ requires: "old" }));
    await held.arrived;
    const ending = fixture.store.revoke("old", "revoked");
    await waitingForLocks(fixture, 1, "transactionid");
    held.letGo();
    expect((await inserting).record?.id).toBe("s1");
    expect((await ending).revoked).toBe(true);
  });

  it("ending the sessions of one owner makes no other owner wait", async () => {
    await using fixture = await openedPostgres(server());
    const held = heldCommits();
    await using slow = await openedStore(fixture, { before: held.before });
    await fixture.store.insert(newSession({ id: "old", tenantId: "one" }));
    const ending = slow.store.revokeAll({ ...alice, except: null }, "revoked");
    await held.arrived;
    const bob = { userId: "bob", tenantId: "one" };
    await insertNew(fixture.store, { id: "bob", ...bob, limit: evictAbove(1) });
    await fixture.store.revokeAll({ userId: null, tenantId: "two", except: null }, "revoked");
    held.letGo();
    expect((await ending).revoked).toEqual(["old"]);
  });

  it.each(levels)(
    "a limit holds for four servers at once (default isolation: %s)",
    async (level) => {
      await using fixture = await openedPostgres(server());
      await using stores = await openedStores(fixture, 4, { level });
      for (const limit of [evictAbove(3), rejectAbove(3)]) {
        await atOnce((index) =>
          stores.at(index).insert(newSession({ id: `${limit.overflow}-${index}`, limit })),
        );
        const { records } = await fixture.store.list(alice, { cursor: undefined, limit: 100 });
        expect(records).toHaveLength(3);
      }
    },
  );

  it("amid all kinds of writes by four servers, every earlier session is ended and nothing deadlocks", async () => {
    await using fixture = await openedPostgres(server());
    await using stores = await openedStores(fixture, 4);
    const acknowledged: { readonly id: string; readonly user: string; readonly tenant: string }[] =
      [];
    const missed: string[] = [];
    const write = async (worker: number, turn: number): Promise<void> => {
      const store = stores.at(worker);
      const pick = <T>(from: readonly T[]): T => from[(worker * 7 + turn * 3) % from.length] as T;
      const [user, tenant] = [pick(["alice", "bob"]), pick(["one", "two", "three"])];
      const known = [...acknowledged];
      if (turn % 4 === 3) {
        const owner = pick([
          { userId: user, tenantId: null },
          { userId: null, tenantId: tenant },
          { userId: user, tenantId: tenant },
        ]);
        await store.revokeAll({ ...owner, except: null }, "revoked");
        for (const { id, ...of } of known) {
          const covered =
            (owner.userId ?? of.user) === of.user && (owner.tenantId ?? of.tenant) === of.tenant;
          if (covered && (await store.load(id)).record?.revokedAt === null) {
            missed.push(id);
          }
        }
        acknowledged.splice(0, acknowledged.length, ...acknowledged.slice(-20));
        return;
      }
      if (turn % 4 === 2) {
        const ids = known.slice(-8).map(({ id }) => id);
        await store.revokeAll({ ids: worker % 2 ? ids : ids.reverse() }, "revoked");
        return;
      }
      const id = `${worker}-${turn}`;
      const former = known.at(-1)?.id ?? null;
      const more = pick([
        {},
        { limit: evictAbove(4) },
        { replaces: former },
        { limit: evictAbove(4), requires: former, replaces: former },
      ]);
      const session = newSession({ id, userId: user, tenantId: tenant, ...more });
      if ((await store.insert(session)).record !== undefined) {
        acknowledged.push({ id, user, tenant });
      }
    };
    await Promise.all(
      Array.from({ length: 16 }, async (_, worker) => {
        for (let turn = 0; turn < 40; turn++) {
          await write(worker, turn);
        }
      }),
    );
    expect(missed).toEqual([]);
    expect(stores.errors()).toEqual([]);
    const ended = await fixture.admin.query(
      "select count(*)::int as n from rpcsession_sessions where revoked_at is not null",
    );
    const logged = await fixture.admin.query(
      "select count(*)::int as n, count(distinct session)::int as sessions from rpcsession_changes",
    );
    const { n } = ended.rows[0] as { readonly n: number };
    expect(n).toBeGreaterThan(100);
    expect(logged.rows[0]).toEqual({ n, sessions: n });
  });

  it("end in a few statements, however many they are, within the time limits of a connection", async () => {
    await using fixture = await openedPostgres(server());
    const { admin, store } = fixture;
    await store.insert(newSession({ id: "pattern", tenantId: "one" }));
    await store.insert(newSession({ id: "bob", userId: "bob", tenantId: "one" }));
    await admin.query(
      "insert into rpcsession_sessions select (jsonb_populate_record(s, jsonb_build_object('id', n || '-alice'))).* from rpcsession_sessions s, generate_series(1, 99999) n where s.id = 'pattern'",
    );
    const texts: string[] = [];
    await using watched = await openedStore(fixture, { before: (text) => void texts.push(text) });
    texts.length = 0;
    const began = performance.now();
    const { revoked } = await watched.store.revokeAll({ ...alice, except: "7-alice" }, "revoked");
    const took = performance.now() - began;
    expect(revoked).toHaveLength(99_999);
    // Begin, commit and one lock, and three statements per 10,000 sessions, each far below 5 s.
    expect(texts.length).toBeLessThanOrEqual(33);
    expect(took).toBeLessThan(60_000);
    const logged = await admin.query("select count(*)::int as n from rpcsession_changes");
    expect(logged.rows).toEqual([{ n: 99_999 }]);
    const rest = await store.revokeAll({ userId: null, tenantId: "one", except: null }, "revoked");
    expect([...rest.revoked].sort()).toEqual(["7-alice", "bob"]);
  });

  it("an insert that ends and counts no other sessions is one round trip", async () => {
    await using fixture = await openedPostgres(server());
    const texts: string[] = [];
    await using watched = await openedStore(fixture, { before: (text) => void texts.push(text) });
    texts.length = 0;
    await watched.store.insert(newSession({ tenantId: "one" }));
    expect(texts).toHaveLength(1);
    texts.length = 0;
    await watched.store.update({ id: "s1", version: 0, data: {} });
    expect(texts).toHaveLength(1);
  });

  it("leave no lock in a connection after any write", async () => {
    await using fixture = await openedPostgres(server());
    const { store, admin } = fixture;
    await store.insert(newSession({ tenantId: "one" }));
    await store.insert(newSession({ id: "s2", tenantId: "one", limit: evictAbove(1) }));
    await store.insert(newSession({ id: "s3", tenantId: "one", limit: rejectAbove(1) }));
    await store.revokeAll({ userId: null, tenantId: "one", except: null }, "revoked");
    await expect(store.insert(newSession({ id: "s2", limit: evictAbove(1) }))).rejects.toThrow();
    const { rows } = await admin.query("select * from pg_locks where locktype = 'advisory'");
    expect(rows).toEqual([]);
  });
});

type Fixture = Awaited<ReturnType<typeof openedPostgres>>;

interface StoreOptions {
  /** The default isolation level of transactions. */
  readonly level?: string;
  readonly before?: (text: string) => Promise<void> | void;
}

/** Another store over the same tables. */
async function openedStore(
  { url, clock }: Fixture,
  { level = "read committed", before = () => {} }: StoreOptions = {},
) {
  const pool = createPool({ connectionString: url, max: 8 });
  pool.on("connect", (client) => {
    client.query(`set default_transaction_isolation = '${level}'`).catch(() => {});
  });
  const errors: unknown[] = [];
  const store = postgresStore(noting(watchedPool(pool, before), errors));
  await store.open({ clock });
  return {
    store,
    errors,
    async [Symbol.asyncDispose]() {
      await store.close();
      await pool.end();
    },
  };
}

async function openedStores(fixture: Fixture, count: number, options: StoreOptions = {}) {
  const opened = await Promise.all(
    Array.from({ length: count }, () => openedStore(fixture, options)),
  );
  return {
    at: (index: number): SessionStore => (opened[index % count] as (typeof opened)[0]).store,
    /** The errors of the database, including those of repeated transactions. */
    errors: () => opened.flatMap(({ errors }) => errors.map(String)),
    async [Symbol.asyncDispose]() {
      await Promise.all(opened.map((one) => one[Symbol.asyncDispose]()));
    },
  };
}

/** A pool that records the errors of its statements. */
function noting(pool: PostgresPool, errors: unknown[]): PostgresPool {
  return {
    async connect() {
      const client = await pool.connect();
      return {
        async query(text, values) {
          try {
            return await client.query(text, values);
          } catch (error) {
            errors.push(error);
            throw error;
          }
        },
        release: (destroy) => client.release(destroy),
      };
    },
  };
}

/** Makes an insert wait in the middle of its statement if the id begins with "slow". */
async function slowInserts(fixture: Fixture) {
  await fixture.admin.query(
    `create or replace function wait() returns trigger language plpgsql as
      $$ begin perform pg_advisory_xact_lock(42); return new; end $$;
    create or replace trigger slow before insert on rpcsession_sessions
      for each row when (new.id like 'slow%') execute function wait()`,
  );
  const holder = await fixture.connect();
  await holder.query("begin; select pg_advisory_xact_lock(42)");
  return {
    waiting: (count: number) => waitingForLocks(fixture, count),
    letGo: () => holder.query("commit"),
    [Symbol.asyncDispose]: () => holder.end(),
  };
}

async function waitingForLocks(
  { admin }: Fixture,
  count: number,
  kind = "advisory",
): Promise<void> {
  await vi.waitFor(async () => {
    const { rows } = await admin.query(
      "select count(*)::int as n from pg_stat_activity where wait_event = $1",
      [kind],
    );
    expect(rows).toEqual([{ n: count }]);
  });
}
