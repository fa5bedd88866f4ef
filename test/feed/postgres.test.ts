import { execFileSync } from "node:child_process";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { systemClock } from "../../src/base/clock.ts";
import { postgresStore } from "../../src/stores/postgres/index.ts";
import { startBlackHole } from "../servers/black-hole.ts";
import { postgresMissing, startPostgres, type TestPostgres } from "../servers/postgres.ts";
import { heldCommits, watchedPool } from "../stores/held-pool.ts";
import { createPool, createSchema } from "../stores/postgres-fixture.ts";
import {
  ask,
  bound,
  type FeedServer,
  issue,
  lastAccepted,
  promptly,
  pushed,
  recovered,
  slack,
  startServer,
} from "./servers.ts";

/** The backend processes that listen, identified by their last statement. */
const listeners =
  "select pid from pg_stat_activity where (query ilike '%listen \"rpcsession%' or query like '%pg_listening_channels%') and pid <> pg_backend_pid()";

describe.skipIf(postgresMissing)("sec:V01 the revocation log on PostgreSQL", () => {
  let server: TestPostgres;
  beforeAll(async () => {
    server = await startPostgres();
  });
  afterAll(() => server?.stop());

  /** Two servers on a schema of their own; the connection of the second one can be made to fail. */
  async function twoServers(maxStaleness: `${number}ms` = `${bound}ms`) {
    const schema = await createSchema(server);
    const url = new URL(schema.url);
    const hole = await startBlackHole({ host: url.hostname, port: Number(url.port) });
    const here = await startServer(postgresStore(schema.url), { maxStaleness });
    url.port = String(hole.port);
    const there = await startServer(postgresStore(url.href), { maxStaleness });
    return {
      ...schema,
      hole,
      here,
      there,
      async [Symbol.asyncDispose]() {
        hole.close();
        await Promise.all([here.close(), there.close()]);
        await hole[Symbol.asyncDispose]();
        await schema[Symbol.asyncDispose]();
      },
    };
  }

  it("pushes a revocation to other servers, long before their next poll", async () => {
    await using world = await twoServers("60000ms");
    const { here, there } = world;
    await pushed(here, there);
    const times: number[] = [];
    // How fast it is: npm run bench:revocation.
    for (let i = 0; i < 25; i++) {
      const issued = await issue(here);
      expect(await ask(there, issued)).toBe("accepted");
      await here.revoke(issued.id);
      times.push(await lastAccepted(there, issued));
    }
    expect(Math.max(...times)).toBeLessThan(promptly);
    expect(there.health().lag).toBeLessThan(promptly);
  });

  it("is notified although each pool sets its search path when it connects", async () => {
    await using schema = await createSchema(server);
    const { pathname, host } = new URL(schema.url);
    const servers = await Promise.all(
      ["", ", public", ", pg_temp"].map(async (rest) => {
        const pool = createPool({ connectionString: `postgres://postgres@${host}${pathname}` });
        pool.on("connect", (client) => {
          client.query(`set search_path = ${schema.name}${rest}`).catch(() => {});
        });
        return { pool, server: await startServer(postgresStore(pool), { maxStaleness: "60s" }) };
      }),
    );
    const [here, ...others] = servers.map((each) => each.server) as [FeedServer, ...FeedServer[]];
    await pushed(here, ...others);
    const issued = await issue(here);
    await here.revoke(issued.id);
    for (const other of others) {
      expect(await lastAccepted(other, issued)).toBeLessThan(promptly);
    }
    for (const each of servers) {
      await each.server.close();
      await each.pool.end();
    }
  });

  it("is notified although another schema comes first in the search path", async () => {
    await using schema = await createSchema(server);
    await schema.admin.query(`create schema ${schema.name}_first`);
    const here = await startServer(postgresStore(schema.url), { maxStaleness: "60s" });
    const behind = schema.url.replace(schema.name, `${schema.name}_first,${schema.name}`);
    const there = await startServer(postgresStore(behind), { maxStaleness: "60s" });
    await pushed(here, there);
    const issued = await issue(here);
    await here.revoke(issued.id);
    expect(await lastAccepted(there, issued)).toBeLessThan(promptly);
    await Promise.all([here.close(), there.close()]);
  });

  it("learns by polling of a revocation whose server crashed between commit and notification", async () => {
    await using world = await twoServers();
    const { url, here, there } = world;
    await pushed(there);
    const pool = createPool({ connectionString: url });
    let crash = (): void => {};
    const crashed = new Promise<void>((resolve) => {
      crash = resolve;
    });
    const never = watchedPool(pool, async (text) => {
      if (text.includes("synchronous_commit")) {
        crash();
        await new Promise(() => {});
      }
    });
    const crashing = await startServer(postgresStore(never));
    const issued = await issue(here);
    await crashing.revoke(issued.id);
    await crashed;
    expect(await lastAccepted(there, issued)).toBeLessThan(bound + slack);
    expect(there.health().push).toBe("connected");
    void crashing.close();
  });

  it("notifies of its last revocations before it closes", async () => {
    await using world = await twoServers("60000ms");
    const { url, here, there } = world;
    await pushed(there);
    const all = await Promise.all(Array.from({ length: 5 }, () => issue(here)));
    const short = await startServer(postgresStore(url));
    // At once, so that all but the first wait for the end of the 20 ms.
    await Promise.all(all.map(({ id }) => short.revoke(id)));
    await short.close();
    for (const issued of all) {
      expect(await lastAccepted(there, issued)).toBeLessThan(promptly);
    }
  });

  it("pushes changes of claims and bulk revocations too", async () => {
    await using world = await twoServers("60000ms");
    const { here, there } = world;
    await pushed(here, there);
    const all = await Promise.all(Array.from({ length: 20 }, () => issue(here)));
    await here.revokeAll({ userId: "alice" });
    for (const issued of all) {
      expect(await lastAccepted(there, issued)).toBeLessThan(promptly);
    }
    const { session } = await here.issue({ userId: "bob" });
    const known = there.health().changes;
    await here.updateClaims(session.id, { role: "admin" });
    await expect.poll(() => there.health().changes).toBe(known + 1);
  });

  it("replaces a listening connection that the server closes, and reads the missed entries", async () => {
    await using world = await twoServers("60000ms");
    const { admin, here, there } = world;
    await pushed(here, there);
    const issued = await issue(here);
    const { rows } = await admin.query(`select pg_terminate_backend(pid) from (${listeners}) as l`);
    expect(rows.length).toBeGreaterThanOrEqual(2);
    await expect.poll(() => there.health().push).toBe("disconnected");
    await here.revoke(issued.id);
    expect(await lastAccepted(there, issued)).toBeLessThan(promptly);
    await pushed(here, there);
  });

  it("replaces a listening connection that falls silent, and polls in time until then", async () => {
    await using world = await twoServers();
    const { hole, here, there } = world;
    await pushed(here, there);
    const [first, second] = [await issue(here), await issue(here)];
    const seen = new Set<string>();
    const watching = setInterval(() => seen.add(there.health().push), 5);
    hole.open("present");
    await here.revoke(first.id);
    expect(await lastAccepted(there, first)).toBeLessThan(bound + slack);
    await expect.poll(() => seen).toContain("disconnected");
    clearInterval(watching);
    await pushed(there);
    await here.revoke(second.id);
    expect(await lastAccepted(there, second)).toBeLessThan(bound + slack);
  });

  it("accepts no revoked session while the network is down, and recovers by itself", async () => {
    await using world = await twoServers();
    const { hole, here, there } = world;
    const [live, ended] = [await issue(here), await issue(here)];
    expect(await ask(there, live)).toBe("accepted");
    hole.open("all");
    await here.revoke(ended.id);
    while (there.health().status !== "stale") {
      await ask(there, ended);
    }
    const [a, b] = await Promise.all([ask(there, ended), ask(there, live)]);
    expect([a, b]).toEqual(["AUTH_UNAVAILABLE", "AUTH_UNAVAILABLE"]);
    expect(there.health().status).toBe("stale");
    expect(there.events.at(-1)?.type).not.toBe("feedRecovered");
    hole.close();
    await recovered(there, live);
    expect(await ask(there, ended)).toBe("SESSION_REVOKED");
    expect(there.events.map(({ type }) => type)).toContain("feedStale");
    expect(there.events.map(({ type }) => type)).toContain("feedRecovered");
    await pushed(there);
  });

  it("accepts no revoked session while the database is suspended, and recovers by itself", async () => {
    await using world = await twoServers();
    const { here, there } = world;
    const [live, ended] = [await issue(here), await issue(here)];
    await here.revoke(ended.id);
    expect(await lastAccepted(there, ended)).toBeLessThan(bound + slack);
    const processes = allOf(server);
    for (const pid of processes) {
      process.kill(pid, "SIGSTOP");
    }
    try {
      for (const each of [here, there]) {
        await expect.poll(() => each.health().status).toBe("stale");
      }
      const [a, b] = await Promise.all([ask(there, live), ask(here, live)]);
      expect([a, b]).toEqual(["AUTH_UNAVAILABLE", "AUTH_UNAVAILABLE"]);
      // A known end needs no read.
      expect(await ask(there, ended)).toBe("SESSION_REVOKED");
    } finally {
      for (const pid of processes) {
        process.kill(pid, "SIGCONT");
      }
    }
    await recovered(there, live);
    await recovered(here, live);
    await here.revoke(live.id);
    expect(await lastAccepted(there, live)).toBeLessThan(bound + slack);
  });

  it("sec:V02 does not miss a revocation with a lower number that is committed late", async () => {
    await using world = await twoServers("60000ms");
    const { url, here, there } = world;
    await pushed(there);
    const pool = createPool({ connectionString: url });
    const held = heldCommits();
    let hold = false;
    const before = (text: string) => (hold ? held.before(text) : undefined);
    const slow = await startServer(postgresStore(watchedPool(pool, before)));
    const [first, second] = [await issue(here), await issue(here)];
    hold = true;
    const revoking = slow.revoke(first.id);
    await held.arrived;
    await here.revoke(second.id);
    expect(await lastAccepted(there, second)).toBeLessThan(promptly);
    expect(await ask(there, first)).toBe("accepted");
    held.letGo();
    await revoking;
    expect(await lastAccepted(there, first)).toBeLessThan(promptly);
    hold = false;
    await slow.close();
    await pool.end();
  });

  it("accepts no revoked session after a jump of the wall clock", async () => {
    const schema = await createSchema(server);
    let jump = 0;
    const clock = { ...systemClock, now: () => Date.now() + jump };
    const here = await startServer(postgresStore(schema.url));
    const there = await startServer(postgresStore(schema.url), { clock });
    const live = await issue(here);
    for (const hours of [1, -1, 30, -30]) {
      jump += hours * 3_600_000;
      const issued = await issue(here);
      expect(await ask(there, issued)).toBe("accepted");
      await here.revoke(issued.id);
      expect(await lastAccepted(there, issued)).toBeLessThan(bound + slack);
      expect(await ask(there, live)).toBe("accepted");
    }
    await Promise.all([here.close(), there.close()]);
    await schema[Symbol.asyncDispose]();
  });

  it("works with a pool of the user, who may end it; polls in time if the pool is not from pg", async () => {
    const schema = await createSchema(server);
    const pool = createPool({ connectionString: schema.url, max: 1 });
    const own = await startServer(postgresStore(pool), { maxStaleness: "60s" });
    const plain = await startServer(postgresStore(watchedPool(pool, () => {})));
    await pushed(own);
    expect(plain.health().push).toBe("polling");
    const issued = await issue(plain);
    await plain.revoke(issued.id);
    expect(await lastAccepted(own, issued)).toBeLessThan(promptly);
    const another = await issue(own);
    await own.revoke(another.id);
    expect(await lastAccepted(plain, another)).toBeLessThan(bound + slack);
    await pool.end();
    await Promise.all([own.close(), plain.close()]);
    await schema[Symbol.asyncDispose]();
  });

  it("leaves no connection behind when it closes", async () => {
    const world = await twoServers();
    await pushed(world.here, world.there);
    expect(world.hole.links()).toBeGreaterThan(1);
    await Promise.all([world.here.close(), world.there.close()]);
    await expect.poll(() => world.hole.links()).toBe(0);
    await world[Symbol.asyncDispose]();
  });
});

/** The processes of a database server: its main process and those of its connections. */
function allOf({ process: { pid = 0 } }: TestPostgres): number[] {
  const children = execFileSync("ps", ["-o", "pid=", "--ppid", String(pid)], { encoding: "utf8" });
  return [pid, ...children.trim().split(/\s+/).map(Number)];
}
