import { execFile } from "node:child_process";
import { mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { createSessions, type JsonObject, type SessionError, type SessionStore } from "rpc-session";
import { postgresStore } from "rpc-session/stores/postgres";
import { redisStore } from "rpc-session/stores/redis";
import { sqliteStore } from "rpc-session/stores/sqlite";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { systemClock } from "../../src/base/clock.ts";
import { openSecretRing, readSecretOption } from "../../src/base/crypto.ts";
import { loadKey } from "../../src/engine/keys/sealed.ts";
import { fromPayload, type TokenClaims } from "../../src/jwt/claims.ts";
import { signAccessToken } from "../../src/jwt/keys.ts";
import { payloadOf } from "../helpers/api.ts";
import { exchangeOf } from "../helpers/exchanges.ts";
import { freePort } from "../servers/port.ts";
import { redisMissing, startRedis } from "../servers/redis.ts";
import { describePostgres } from "../stores/describe-postgres.ts";
import { createSchema } from "../stores/postgres-fixture.ts";

const main = join(import.meta.dirname, "../../src/cli/main.ts");
const issuer = "https://api.example.com";
const [leaked, next] = ["the leaked secret, of 32 bytes!!", "the next secret, of 32 bytes too"];
const patience = { timeout: 20_000, interval: 50 };

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "rpcsession-cli-"));
});
afterEach(() => rm(folder, { recursive: true }));

interface Outcome {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs the program in the folder. */
function rpcSession(args: readonly string[], env: Record<string, string> = {}): Promise<Outcome> {
  const node = [process.execPath, ["--conditions=@rpc-session/source", main, ...args]] as const;
  return new Promise((resolve) => {
    execFile(...node, { cwd: folder, env: { ...process.env, ...env } }, (error, stdout, stderr) => {
      resolve({ code: error === null ? 0 : Number(error.code), stdout, stderr });
    });
  });
}

/** Runs a command that must succeed, and returns what it prints as JSON. */
async function answer<T>(args: readonly string[], env: Record<string, string> = {}): Promise<T> {
  const { code, stdout, stderr } = await rpcSession([...args, "--json"], env);
  expect(stderr).toBe("");
  expect(code).toBe(0);
  for (const hidden of [leaked, next, '"d"']) {
    expect(stdout).not.toContain(hidden);
  }
  return JSON.parse(stdout) as T;
}

interface Key {
  readonly kid: string;
  readonly state: string;
  readonly secretId: string;
}

type Secret = { readonly id: string; readonly issuer: string; readonly deadAt?: string };

async function started(store: SessionStore, secret: string) {
  const sessions = createSessions({ issuer, store, secret });
  await sessions.ready();
  return sessions;
}

/** Whether a server accepts an access token: "ok", or the kind of its refusal. */
async function verdict(
  sessions: Awaited<ReturnType<typeof started>>,
  bearer: string,
): Promise<string> {
  try {
    await sessions.getSession(exchangeOf({ bearer }));
    return "ok";
  } catch (error) {
    return (error as SessionError).kind;
  }
}

/** What somebody signs who has the store and the secret. */
async function forge(store: SessionStore, accessToken: string): Promise<string> {
  const [key] = (await store.signingKeys()).keys;
  const ring = await openSecretRing(readSecretOption(leaked), issuer);
  const { signing } = await loadKey(key as NonNullable<typeof key>, ring);
  const claims = fromPayload(payloadOf(accessToken) as JsonObject) as TokenClaims;
  return signAccessToken({ ...claims, jti: "forged" }, signing as NonNullable<typeof signing>);
}

/** The whole procedure of the page "A secret leaked", on two servers and a third that replaces them. */
async function incident(database: string, newStore: () => SessionStore): Promise<unknown> {
  // Before: two servers with the secret that has leaked, a user, and a token that a thief made.
  const store = newStore();
  const before = [await started(store, leaked), await started(newStore(), leaked)] as const;
  const user = await before[0].issue({ userId: "alice" });
  const forged = await forge(store, user.tokens.accessToken);
  expect(await verdict(before[1], forged)).toBe("ok");

  // 1. A server with a new secret. The old secret is not in its list any more.
  const after = await started(newStore(), next);
  expect(await verdict(after, forged)).toBe("ok");

  // 2. Find the id of the secret, and declare it dead.
  const id = user.tokens.refreshToken.slice(0, 8);
  const listed = await answer<Secret[]>(["secrets", "list", database]);
  expect(listed.map((one) => one.id)).toContain(id);
  expect(await answer(["secrets", "retire", database, id])).toMatchObject([{ id, issuer }]);

  // 3. Every server refuses what was made under it.
  for (const sessions of [...before, after]) {
    await vi.waitFor(
      async () => expect(await verdict(sessions, forged)).toBe("tryRefreshToken"),
      patience,
    );
  }

  // 4. See what is still trusted: nothing under that secret.
  const secrets = await answer<Secret[]>(["secrets", "list", database]);
  expect(secrets.filter(({ deadAt }) => deadAt !== undefined).map((one) => one.id)).toEqual([id]);
  const again = await after.issue({ userId: "alice" });
  const keys = await answer<Key[]>(["keys", "list", database]);
  const trusted = keys.filter(({ state }) => state !== "dead");
  expect(trusted).not.toEqual([]);
  expect(trusted.filter(({ secretId }) => secretId === id)).toEqual([]);

  // 5. Rotate the signing keys: the next one is published before it signs.
  const rotated = await answer<Key>(["keys", "rotate", database]);
  expect(rotated.state).toBe("next");
  await vi.waitFor(async () => {
    const { keys: published } = await after.jwks();
    expect(published.map(({ kid }) => kid)).toContain(rotated.kid);
  }, patience);
  expect(await answer<Key>(["keys", "rotate", database])).toEqual(rotated);

  // 6. Retire the former key. It is the only one that every server knows.
  const signing = trusted.find(({ state }) => state === "signing")?.kid ?? "";
  const early = await rpcSession(["keys", "retire", database, signing]);
  expect(early).toMatchObject({ code: 1, stdout: "" });
  expect(early.stderr).toContain("no other signing key is known to every server");
  expect(await answer(["keys", "retire", "--now", database, signing])).toEqual({
    retired: [signing],
  });
  await vi.waitFor(
    async () => expect(await verdict(after, again.tokens.accessToken)).not.toBe("ok"),
    patience,
  );

  // 7. Sign everybody out. The database may come from the environment.
  const env = { RPC_SESSION_DATABASE: database };
  const ended = await answer(["sessions", "revoke", "--all"], env);
  expect(await answer(["sessions", "revoke", "--all"], env)).toEqual({ revoked: 0 });
  await vi.waitFor(
    async () => expect(await after.find(again.session.id)).toBeUndefined(),
    patience,
  );
  await Promise.all([...before, after].map((sessions) => sessions.close()));
  return ended;
}

describe("feat:H12 the commands for a leaked secret on SQLite", () => {
  it("declare it dead, show what is trusted, rotate and retire keys, and sign everybody out", async () => {
    const file = join(folder, "sessions.db");
    expect(await incident(file, () => sqliteStore(file))).toEqual({ revoked: 2 });
  }, 120_000);

  it("take the secret itself from a variable or a file, and print it nowhere", async () => {
    const file = join(folder, "sessions.db");
    const sessions = await started(sqliteStore(file), next);
    const rings = ["https://a.example", "https://b.example"].map(async (of) => {
      return (await openSecretRing(readSecretOption(leaked), of)).current.id;
    });
    const ids = await Promise.all(rings);
    const issuers = ["--issuer", "https://a.example", "--issuer", "https://b.example"];
    const byEnv = ["secrets", "retire", "--secret-env", "LEAKED", ...issuers, file];
    const retired = await answer<Secret[]>(byEnv, { LEAKED: leaked });
    expect(retired.map(({ id }) => id).toSorted()).toEqual(ids.toSorted());
    await writeFile(join(folder, "leaked"), `${leaked}\n`);
    const byFile = ["secrets", "retire", "--secret-file", "leaked", ...issuers, file];
    expect((await answer<Secret[]>(byFile)).map(({ id }) => id).toSorted()).toEqual(ids.toSorted());
    await sessions.close();
  }, 60_000);

  it("print text for people", async () => {
    const file = join(folder, "sessions.db");
    const sessions = await started(sqliteStore(file), next);
    const [key] = await sessions.keys.list();
    const keys = await rpcSession(["keys", "list", "--rotation", "1d", file]);
    expect(keys).toMatchObject({ code: 0, stderr: "" });
    expect(keys.stdout).toMatch(
      /^KEY +ALGORITHM +STATE +SECRET +CREATED +SIGNS FROM +TRUSTED UNTIL\n/,
    );
    expect(keys.stdout).toContain(`${key?.kid}  ES256      signing`);
    const secrets = await rpcSession(["secrets", "list", file]);
    expect(secrets.stdout).toMatch(/^SECRET +ISSUER +SEEN +DEAD SINCE\n/);
    expect(secrets.stdout).toContain(`${key?.secretId}  ${issuer}`);
    const revoked = await rpcSession(["sessions", "revoke", "--all", file]);
    expect(revoked.stdout).toBe("Sessions ended: 0.\n");
    await sessions.close();
  }, 60_000);
});

describePostgres("feat:H12 the commands for a leaked secret on PostgreSQL", (server) => {
  it("declare it dead, show what is trusted, rotate and retire keys, and sign everybody out", async () => {
    await using schema = await createSchema(server());
    const newStore = () => postgresStore(schema.url);
    expect(await incident(schema.url, newStore)).toEqual({ revoked: 2 });
  }, 120_000);
});

describe.skipIf(redisMissing)("feat:H12 the commands for a leaked secret on Redis", () => {
  it("declare it dead, show what is trusted, rotate and retire keys, and sign everybody out", async () => {
    const port = await freePort();
    const redis = await startRedis("--port", String(port));
    try {
      const clients = await Promise.all([1, 2, 3, 4].map(() => redis.connect()));
      const ended = await incident(`redis://127.0.0.1:${port}`, () => {
        const client = clients.pop();
        return redisStore(client as NonNullable<typeof client>);
      });
      expect(ended).toEqual({ revoked: 2 });
    } finally {
      await redis.stop();
    }
  }, 120_000);
});

describe("invalid arguments of the commands for an incident", () => {
  it.each([
    [["keys"], "unknown command"],
    [["keys", "list"], "takes exactly one database, got 0"],
    [["keys", "list", "a.db", "b.db"], "takes exactly one database, got 2"],
    [["keys", "list", "typo.db"], "the SQLite file does not exist"],
    [["keys", "list", "--rotation", "soon", "made.db"], '"soon" is not a valid duration'],
    [["keys", "list", "mysql://u:hidden@h/d"], '"mysql:" is not a database'],
    [["keys", "list", "mysql://u:hidden@h/d"], "use a postgres:// or redis:// URL or the path"],
    [["keys", "list", "redis://u:hidden@h:bad"], "the Redis URL is not valid"],
    [["keys", "list", "redis://u:hidden%zz@h"], "the Redis URL is not valid"],
    [["keys", "list", "--prefix", "hidden", "made.db"], "--prefix is for Redis only"],
    [["keys", "rotate", "--wait", "soon", "made.db"], '"soon" is not a valid duration'],
    [["keys", "retire", "made.db"], '"keys retire" needs <key>'],
    [["keys", "retire", "made.db", "hidden"], "there is no key with this id"],
    [["secrets", "retire", "made.db"], "give either the id of a secret"],
    [["secrets", "retire", "made.db", "hidden"], "Never pass a secret as an argument"],
    [["secrets", "retire", "--secret-env", "NOPE", "made.db"], "--secret-env names is not set"],
    [["secrets", "retire", "--secret-env", "SHORT", "made.db"], "--issuer is missing"],
    [
      ["secrets", "retire", "--secret-env", "SHORT", "--issuer", "x", "made.db"],
      "--issuer must be the http or https URL",
    ],
    [
      ["secrets", "retire", "--secret-env", "SHORT", "--issuer", issuer, "made.db"],
      "secret must be at least 32 bytes long",
    ],
    [["secrets", "retire", "--secret-env", "SHORT", "--secret-file", "f", "made.db"], "not both"],
    [["sessions", "revoke", "made.db"], "or --all for everybody"],
    [["sessions", "revoke", "--everybody", "made.db"], "unknown option '--everybody'"],
  ])(
    "%j exits with 2, prints the reason and the usage, and changes nothing",
    async (args, reason) => {
      await rpcSession(["migrate", "made.db"]);
      const { code, stdout, stderr } = await rpcSession(args, { SHORT: "hidden" });
      expect(stderr).toContain(reason);
      expect(stderr).toContain("Usage: rpc-session");
      expect(stderr).not.toContain("hidden");
      expect([code, stdout]).toEqual([2, ""]);
      expect(await readdir(folder)).toEqual(["made.db"]);
    },
  );

  it("an id that begins with a hyphen is an id, also before an option", async () => {
    const store = sqliteStore(join(folder, "made.db"));
    await store.open({ clock: systemClock });
    await store.recordSecrets([{ id: "-K7wQ2m_", issuer }]);
    const key = "-".padEnd(43, "k");
    await store.close();
    const retired = await answer<Secret[]>(["secrets", "retire", "made.db", "-K7wQ2m_"]);
    expect(retired.map(({ id }) => id)).toEqual(["-K7wQ2m_"]);
    const { stderr } = await rpcSession(["keys", "retire", "made.db", key, "--now"]);
    expect(stderr).toContain("there is no key with this id");
  });

  it("keys retire refuses the only signing key, however old it is", async () => {
    const file = join(folder, "made.db");
    const sessions = await started(sqliteStore(file), next);
    await sessions.close();
    const database = new DatabaseSync(file);
    database.exec("update rpcsession_signing_keys set created_at = created_at - 3600000");
    database.close();
    const [only] = await answer<Key[]>(["keys", "list", "made.db"]);
    const { code, stderr } = await rpcSession(["keys", "retire", "made.db", only?.kid ?? ""]);
    expect(code).toBe(1);
    expect(stderr).toContain("no other signing key is known to every server");
    expect(await answer<Key[]>(["keys", "list", "made.db"])).toEqual([only]);
  });

  it("keys rotate exits with 1 if no server creates the key", async () => {
    await rpcSession(["migrate", "made.db"]);
    const { code, stderr } = await rpcSession(["keys", "rotate", "--wait", "10ms", "made.db"]);
    expect(code).toBe(1);
    expect(stderr).toContain("no server has created the next key in time");
  });

  it("an unreachable Redis exits with 1 and does not print the password", async () => {
    const { code, stderr } = await rpcSession(["keys", "list", "redis://u:hidden@127.0.0.1:1"]);
    expect(code).toBe(1);
    expect(stderr).toContain("ECONNREFUSED");
    expect(stderr).not.toContain("hidden");
  });

  it("--help explains each command", async () => {
    const all = await rpcSession(["--help"]);
    for (const name of ["keys list", "keys rotate", "keys retire", "secrets list"]) {
      expect(all.stdout).toContain(`rpc-session ${name} `);
    }
    const one = await rpcSession(["secrets", "retire", "--help"]);
    expect(one.code).toBe(0);
    expect(one.stdout).toMatch(/^Usage: rpc-session secrets retire/);
    expect(one.stdout).toContain("--secret-file");
    expect(one.stdout).toContain("RPC_SESSION_DATABASE");
  });
});
