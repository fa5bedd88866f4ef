import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createSessions, type SessionStore, type Sessions } from "rpc-session";
import { postgresStore } from "rpc-session/stores/postgres";
import { redisStore } from "rpc-session/stores/redis";
import { sqliteStore } from "rpc-session/stores/sqlite";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { run } from "../../src/cli/run.ts";
import { freePort } from "../servers/port.ts";
import { redisMissing, startRedis } from "../servers/redis.ts";
import { describePostgres } from "../stores/describe-postgres.ts";
import { createSchema } from "../stores/postgres-fixture.ts";

const issuer = "https://api.example.com";
const secret = "the secret of a test, of 32 bytes";

/** Control characters but the line break. */
const obeyed = /(?!\n)\p{Cc}/u;

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "rpcsession-cli-"));
});
afterEach(() => rm(folder, { recursive: true }));

interface Listed {
  readonly sessions: readonly {
    readonly id: string;
    readonly userId: string;
    readonly tenantId: string | null;
    readonly claims: readonly string[];
    readonly device: object;
  }[];
  readonly nextPage?: string;
}

async function answer<T>(args: readonly string[], env: Record<string, string> = {}): Promise<T> {
  const { code, stdout, stderr } = await run([...args, "--json"], { env });
  expect([code, stderr]).toEqual([0, ""]);
  expect(stdout).not.toContain("hidden");
  return JSON.parse(stdout) as T;
}

async function signIn(sessions: Sessions, userId: string, tenantId?: string): Promise<string> {
  const { session } = await sessions.issue({
    ...{ userId, claims: { role: "hidden" }, data: { note: "hidden" } },
    ...(tenantId === undefined ? {} : { tenantId }),
  });
  return session.id;
}

/** Lists and ends sessions of a database, while a server runs on it. */
async function listAndRevoke(database: string, store: SessionStore): Promise<string> {
  const sessions = createSessions({ issuer, store, secret });
  const ids = async (...owner: readonly string[]) => {
    const { sessions: found } = await answer<Listed>(["sessions", "list", ...owner, database]);
    return found.map(({ id }) => id).toSorted();
  };

  // 1. Sessions of two users, one of them in a tenant as well.
  const alice = [await signIn(sessions, "alice"), await signIn(sessions, "alice")];
  const inTenant = await signIn(sessions, "alice", "acme");
  const bob = await signIn(sessions, "bob", "acme");
  expect(await ids("--user", "alice")).toEqual([...alice, inTenant].toSorted());
  expect(await ids("--user", "alice", "--tenant", "acme")).toEqual([inTenant]);
  expect(await ids("--tenant", "acme")).toEqual([inTenant, bob].toSorted());
  expect(await ids("--user", "nobody")).toEqual([]);

  // 2. Pages, and what a session shows.
  const first = await answer<Listed>([
    ...["sessions", "list", "--user", "alice", "--limit", "2", database],
  ]);
  expect(first.sessions).toHaveLength(2);
  const next = ["--limit", "2", "--page", first.nextPage ?? ""];
  const second = await answer<Listed>(["sessions", "list", "--user", "alice", ...next, database]);
  expect(second).toMatchObject({ sessions: [{ userId: "alice", claims: ["role"] }] });
  expect(second.nextPage).toBeUndefined();

  // 3. End one by its id, with the database from the environment; a second time it is not live.
  const env = { RPC_SESSION_DATABASE: database };
  const one = ["sessions", "revoke", alice[0] ?? ""];
  expect(await answer(one, env)).toEqual({ revoked: 1, notLive: [] });
  expect(await answer(one, env)).toEqual({ revoked: 0, notLive: [alice[0]] });
  expect(await sessions.find(alice[0] ?? "")).toBeUndefined();

  // 4. End those of a user in a tenant, and the rest of that user.
  const ofUser = ["sessions", "revoke", "--user", "alice"];
  expect(await answer([...ofUser, "--tenant", "acme", database])).toEqual({ revoked: 1 });
  expect(await answer([...ofUser, database])).toEqual({ revoked: 1 });
  expect(await ids("--user", "alice")).toEqual([]);
  expect(await ids("--user", "bob")).toEqual([bob]);
  await sessions.close();
  return "done";
}

describe("feat:R3 rpc-session sessions", () => {
  it("lists and ends sessions by id, user and tenant on SQLite", async () => {
    const file = join(folder, "sessions.db");
    expect(await listAndRevoke(file, sqliteStore(file))).toBe("done");
  });

  it("prints text for people, without values of claims and private data", async () => {
    const file = join(folder, "sessions.db");
    const sessions = createSessions({ issuer, store: sqliteStore(file), secret });
    const ids = [await signIn(sessions, "alice", "acme"), await signIn(sessions, "alice", "acme")];
    const list = (...args: readonly string[]) =>
      run(["sessions", "list", ...args, file], { env: {} });
    const all = await list("--user", "alice");
    expect(all.stdout).toMatch(
      /^SESSION +USER +TENANT +TOKENS +CREATED +LAST SEEN +ENDS +DEVICE\n/,
    );
    expect(all.stdout).toContain("alice  acme");
    expect(all.stdout).not.toContain("hidden");
    expect((await list("--user", "alice", "--limit", "1")).stdout).toMatch(
      /\nMore: add --page \S+\n$/,
    );
    expect((await list("--user", "bob")).stdout).toBe("No live sessions.\n");
    const revoke = (...args: readonly string[]) =>
      run(["sessions", "revoke", file, ...args], { env: {} });
    const [first = "", last = ""] = ids;
    expect((await revoke(first)).stdout).toBe("Sessions ended: 1.\n");
    expect((await revoke(first, last)).stdout).toBe(`Sessions ended: 1.\nNot live: ${first}.\n`);
    await sessions.close();
  });

  it("feat:N13 records in the audit log who ended sessions, and why", async () => {
    const database = join(folder, "sessions.db");
    const sessions = createSessions({ issuer, secret, store: sqliteStore(database) });
    const [one, two] = [await signIn(sessions, "alice"), await signIn(sessions, "alice")];
    const cause = ["--by", "admin:7", "--reason", "laptop stolen"];
    await answer(["sessions", "revoke", ...cause, database, one]);
    await answer(["sessions", "revoke", database, two]);
    const { entries } = await sessions.auditLog.list({ userId: "alice" });
    expect(entries).toMatchObject([
      { event: "ended", sessionId: one, by: "admin:7", reason: "laptop stolen" },
    ]);
    const { code, stderr } = await run(["sessions", "revoke", "--by", "", "--all", database], {
      env: {},
    });
    expect([code, stderr]).toEqual([2, expect.stringContaining("by must be a text")]);
    await sessions.close();
  });

  it("sec:V12 prints nothing that a terminal obeys, and no forged line", async () => {
    const file = join(folder, "sessions.db");
    const sessions = createSessions({ issuer, store: sqliteStore(file), secret });
    // The user has chosen this name: it sets the title, clears the screen and adds a row.
    const label = "phone\u001b]0;title\u0007\u009b2J\nforged row";
    await sessions.issue({ userId: "alice", label });
    const list = (...more: readonly string[]) =>
      run(["sessions", "list", "--user", "alice", file, ...more], { env: {} });
    const { stdout } = await list();
    expect(stdout.split("\n")).toHaveLength(3);
    expect(stdout).toContain("phone\\u{1b}]0;title\\u{7}\\u{9b}2J\\u{a}forged row");
    const json = (await list("--json")).stdout;
    expect(json).not.toMatch(obeyed);
    expect(JSON.parse(json)).toMatchObject({ sessions: [{ device: { label } }] });
    await sessions.close();
  });

  it("takes ids that begin with a hyphen, and user ids that look like one", async () => {
    const file = join(folder, "sessions.db");
    await run(["migrate", file], { env: {} });
    const id = "-".padEnd(22, "x");
    expect(await answer(["sessions", "revoke", file, id])).toEqual({ revoked: 0, notLive: [id] });
    expect(await answer(["sessions", "revoke", file, "--user", id])).toEqual({ revoked: 0 });
  });

  it.each([
    [["sessions", "list"], "--user or --tenant is missing"],
    [["sessions", "list", "--user", ""], "must not be empty"],
    [["sessions", "list", "--user", "a", "--limit", "0"], "from 1 to 1000"],
    [["sessions", "list", "--user", "a", "--limit", "x"], "from 1 to 1000"],
    [["sessions", "revoke"], "or --all for everybody"],
    [["sessions", "revoke", "--user", ""], "must not be empty"],
    [["sessions", "revoke", "--all", "--user", "a"], "in one way"],
    [["sessions", "revoke", "FILE", "hidden"], "does not have the form of a session id"],
  ])("refuses %j, and ends nothing", async (args, reason) => {
    const file = join(folder, "sessions.db");
    const sessions = createSessions({ issuer, store: sqliteStore(file), secret });
    const id = await signIn(sessions, "a");
    const env = { RPC_SESSION_DATABASE: file };
    const given = args.map((arg) => (arg === "FILE" ? file : arg));
    const { code, stderr } = await run(given, { env });
    expect(code).toBe(2);
    expect(stderr).toContain(reason);
    expect(stderr).not.toContain("hidden");
    expect(await sessions.find(id)).toBeDefined();
    await sessions.close();
  });
});

describePostgres("feat:R3 rpc-session sessions on PostgreSQL", (server) => {
  it("lists and ends sessions by id, user and tenant", async () => {
    await using schema = await createSchema(server());
    expect(await listAndRevoke(schema.url, postgresStore(schema.url))).toBe("done");
  });
});

describe.skipIf(redisMissing)("feat:R3 rpc-session sessions on Redis", () => {
  it("lists and ends sessions by id, user and tenant", async () => {
    const port = await freePort();
    const redis = await startRedis("--port", String(port));
    try {
      expect(
        await listAndRevoke(`redis://127.0.0.1:${port}`, redisStore(await redis.connect())),
      ).toBe("done");
    } finally {
      await redis.stop();
    }
  });
});
