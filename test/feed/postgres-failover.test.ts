import { Client } from "pg";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { systemClock } from "../../src/base/clock.ts";
import { postgresStore } from "../../src/stores/postgres/index.ts";
import { startBlackHole } from "../servers/black-hole.ts";
import { type PairMember, PostgresPairs, postgresPairMissing } from "../servers/postgres-pair.ts";
import { ask, type FeedServer, issue, lastAccepted, recovered, startServer } from "./servers.ts";

/** Transactions that count further than what was lost. */
async function foreignTraffic(member: PairMember): Promise<void> {
  await query(member, "create table if not exists foreign_rows (n int)");
  for (let n = 0; n < 50; n++) {
    await query(member, `insert into foreign_rows values (${n})`);
  }
}

const disconnectAll = `select pg_terminate_backend(pid) from pg_stat_activity
  where backend_type = 'client backend' and pid <> pg_backend_pid()`;

async function query(member: PairMember, ...statements: readonly string[]): Promise<unknown[]> {
  const client = new Client({ connectionString: member.url() });
  await client.connect();
  try {
    const results: unknown[] = [];
    for (const statement of statements) {
      results.push(...(await client.query(statement)).rows);
    }
    return results;
  } finally {
    await client.end();
  }
}

describe.skipIf(postgresPairMissing)("PostgreSQL with a standby", () => {
  let pairs: PostgresPairs;
  let servers: FeedServer[];
  beforeEach(() => {
    pairs = new PostgresPairs();
    servers = [];
  });
  afterEach(async () => {
    await Promise.all(servers.map((each) => each.close()));
    await pairs[Symbol.asyncDispose]();
  });

  async function serve(url: string): Promise<FeedServer> {
    const server = await startServer(postgresStore(url));
    servers.push(server);
    return server;
  }

  it.each([
    { count: 1, foreign: false },
    { count: 1, foreign: true },
    { count: 2, foreign: false },
    { count: 2, foreign: true },
  ])(
    "sec:V03 after a failover that lost a revocation, $count running servers restore it (foreign traffic: $foreign)",
    async ({ count, foreign }) => {
      const primary = await pairs.primary();
      // An ordinary role must be able to read what identifies the data.
      await query(primary, "create role app login", "grant create on schema public to app");
      const target = { host: "127.0.0.1", port: primary.port };
      await using address = await startBlackHole(target);
      const url = `postgres://app@127.0.0.1:${address.port}/postgres`;
      const running: FeedServer[] = [];
      for (let n = 0; n < count; n++) {
        running.push(await serve(url));
      }
      const [here] = running as [FeedServer];
      const { session, tokens } = await here.issue({ userId: "alice" });
      const ended = { id: session.id, access: tokens.accessToken };
      const live = await issue(here);
      const standby = await primary.standby();
      standby.kill();
      await here.revoke(ended.id);
      for (const each of running) {
        await lastAccepted(each, ended);
      }
      primary.kill();
      standby.start();
      standby.promote();
      if (foreign) {
        await foreignTraffic(standby);
      }
      target.port = standby.port;

      for (const each of running) {
        await recovered(each, live);
        expect(await ask(each, ended)).toBe("SESSION_REVOKED");
        await expect.poll(() => each.health().status, { timeout: 60_000 }).toBe("unsure");
      }
      // Servers that start later know of the loss, and find the revocation.
      const later = await serve(url);
      expect(later.health().status).toBe("unsure");
      await lastAccepted(later, ended);
      const [row] = await query(
        standby,
        `select revoked_at is not null as revoked from rpcsession_sessions where id = '${ended.id}'`,
      );
      expect(row).toEqual({ revoked: true });
      expect(await ask(later, live)).toBe("accepted");
    },
    240_000,
  );

  it("sec:V03 a former primary that still answers is ignored, and ends no session", async () => {
    const primary = await pairs.primary();
    const target = { host: "127.0.0.1", port: primary.port };
    await using address = await startBlackHole(target);
    const running = await serve(`postgres://postgres@127.0.0.1:${address.port}/postgres`);
    const [live, ended] = [await issue(running), await issue(running)];
    const standby = await primary.standby();
    await query(primary, "select pg_switch_wal()");
    const leadTo = async (from: PairMember, to: PairMember) => {
      target.port = to.port;
      await query(from, disconnectAll);
    };

    // The standby is promoted, and the former primary goes on.
    standby.promote();
    await leadTo(primary, standby);
    await expect.poll(() => running.health().status, { timeout: 60_000 }).toBe("unsure");
    await recovered(running, live);
    // A connection to the former primary may still be in the pool.
    const fresh = await vi.waitFor(() => issue(running), { timeout: 60_000 });
    const marker = await issue(running);
    const there = await serve(standby.url());
    await there.revoke(ended.id);
    await there.revoke(marker.id);
    // Its token is not doubted, so only the change log can refuse it; the end before it is then known, too.
    await lastAccepted(running, marker);

    // The connection leads to the former primary again, which knows neither the end nor the new session.
    await leadTo(standby, primary);
    await expect.poll(() => ask(running, fresh), { timeout: 60_000 }).toBe("AUTH_UNAVAILABLE");
    expect(await ask(running, ended)).toBe("SESSION_REVOKED");
    expect(await ask(running, live)).toBe("AUTH_UNAVAILABLE");
    const later = await issue(there);
    await there.revoke(later.id);

    await leadTo(primary, standby);
    await recovered(running, fresh);
    expect(await ask(running, later)).toBe("SESSION_REVOKED");
    const [{ count }] = (await query(
      standby,
      "select count(*)::int from rpcsession_histories",
    )) as [{ count: number }];
    expect(count).toBe(2);
  }, 240_000);

  it("sec:V03 two standbys that are promoted one after the other count as two losses, whichever server detects them first", async () => {
    const primary = await pairs.primary();
    const target = { host: "127.0.0.1", port: primary.port };
    await using address = await startBlackHole(target);
    const url = `postgres://postgres@127.0.0.1:${address.port}/postgres`;
    const running = await serve(url);
    const [live, ended] = [await issue(running), await issue(running)];
    const [first, second] = [await primary.standby(), await primary.standby()];
    primary.kill();

    first.promote();
    target.port = first.port;
    await expect.poll(() => running.health().status, { timeout: 60_000 }).toBe("unsure");
    await recovered(running, live);
    await running.revoke(ended.id);
    first.kill();

    // Another server begins the history of the second one, which has nothing of the first one.
    second.promote();
    const there = await serve(second.url());
    expect(there.health().status).toBe("unsure");
    target.port = second.port;
    await recovered(running, live);
    expect(await ask(running, ended)).toBe("SESSION_REVOKED");
    await lastAccepted(there, ended);
    const histories = await query(second, "select 1 from rpcsession_histories");
    expect(histories).toHaveLength(2);
  }, 240_000);

  it("explains that a standby has answered, or that the role may not see what identifies the primary", async () => {
    const primary = await pairs.primary();
    await query(primary, "create role app login", "grant create on schema public to app");
    const store = postgresStore(primary.url("app"));
    await store.open({ clock: systemClock });
    const read = () => store.changes(undefined, 1000).catch(({ message }: Error) => message);
    expect(await read()).toMatchObject({ entries: [] });
    await query(primary, "revoke execute on function pg_control_system() from public");
    expect(await read()).toMatch(/the role may not call pg_control_system\(\).*grant execute/);
    await store.close();

    const standby = await primary.standby();
    const reader = postgresStore(standby.url());
    await expect(reader.open({ clock: systemClock })).resolves.toBeUndefined();
    await expect(reader.changes(undefined, 1000)).rejects.toThrow(/answered is a standby/);
    await reader.close();
  }, 240_000);

  it("sec:V03 a dump that was restored into another cluster counts as a loss, and its log is read once", async () => {
    const primary = await pairs.primary();
    const target = { host: "127.0.0.1", port: primary.port };
    await using address = await startBlackHole(target);
    const running = await serve(`postgres://postgres@127.0.0.1:${address.port}/postgres`);
    const [early, ended, live] = [await issue(running), await issue(running), await issue(running)];
    // So many transactions that the other cluster counts from an older point.
    await foreignTraffic(primary);
    await running.revoke(early.id);
    const other = await pairs.primary();
    primary.dumpTo(other);
    await running.revoke(ended.id);
    await lastAccepted(running, ended);
    primary.kill();
    target.port = other.port;
    await recovered(running, live);
    await expect.poll(() => running.health().status, { timeout: 60_000 }).toBe("unsure");
    const later = await serve(other.url());
    expect(later.health().status).toBe("unsure");
    await lastAccepted(later, ended);

    const store = postgresStore(other.url());
    await store.open({ clock: systemClock });
    const first = await store.changes(undefined, 3_600_000);
    expect(first.entries.map(({ session }) => session)).toContain(early.id);
    expect((await store.changes(first.cursor, 3_600_000)).entries).toEqual([]);
    await store.close();
  }, 240_000);
});
