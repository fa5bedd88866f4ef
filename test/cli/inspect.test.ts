import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createSessions, type JsonObject, type Sessions } from "rpc-session";
import { jwksHandler } from "rpc-session/http";
import { sqliteStore } from "rpc-session/stores/sqlite";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { type Outcome, run } from "../../src/cli/run.ts";
import { fromPayload, type TokenClaims } from "../../src/jwt/claims.ts";
import { generateSigningKey, importSigningKey, signAccessToken } from "../../src/jwt/keys.ts";
import { payloadOf } from "../helpers/api.ts";
import { listenForTest } from "../helpers/listen.ts";

const issuer = "https://api.example.com";

let folder: string;
let database: string;
let sessions: Sessions;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "rpcsession-cli-"));
  database = join(folder, "sessions.db");
  const secret = "the secret of a test, of 32 bytes";
  sessions = createSessions({ issuer, store: sqliteStore(database), secret });
});
afterEach(async () => {
  await sessions.close();
  await rm(folder, { recursive: true });
});

/** Inspects a text from the standard input. No output may hold a signature, a MAC or a claim's value. */
async function inspect(text: string, ...args: readonly string[]): Promise<Outcome> {
  const outcome = await run(["inspect", ...args], { env: {}, stdin: async () => text });
  const parts = text.split(".");
  const secrets = [...(parts.length === 3 ? parts.slice(2) : parts.slice(3)), "hidden"];
  for (const secret of secrets.map((one) => one.trim()).filter((one) => one.length > 5)) {
    expect(outcome.stdout + outcome.stderr).not.toContain(secret);
  }
  return outcome;
}

async function json<T>(text: string, ...args: readonly string[]): Promise<T & { code: number }> {
  const { code, stdout, stderr } = await inspect(text, "--json", ...args);
  expect(stderr).toBe("");
  return { ...(JSON.parse(stdout) as T), code };
}

function issue(): ReturnType<Sessions["issue"]> {
  return sessions.issue({ userId: "alice", tenantId: "acme", claims: { role: "hidden" } });
}

/** Changes one part of a token. */
function changed(token: string, part: number, change: (text: string) => string): string {
  return token
    .split(".")
    .map((text, i) => (i === part ? change(text) : text))
    .join(".");
}

/** Changes the JSON in a part of a token. */
function rewritten(
  token: string,
  part: number,
  change: (json: Record<string, unknown>) => object,
): string {
  return changed(token, part, (text) => {
    const value = JSON.parse(Buffer.from(text, "base64url").toString()) as Record<string, unknown>;
    return Buffer.from(JSON.stringify(change(value))).toString("base64url");
  });
}

describe("feat:R2 rpc-session inspect on an access token", () => {
  it("says in words whose it is and until when it lives", async () => {
    const { tokens, session } = await issue();
    const { code, stdout } = await inspect(tokens.accessToken);
    expect(code).toBe(0);
    expect(stdout).toMatch(/^Access token\. Not verified: nothing in it is proven\./);
    expect(stdout).toMatch(
      /\nissuer +https:\/\/api\.example\.com\naudience +the issuer\nuser +alice\ntenant +acme\n/,
    );
    expect(stdout).toMatch(new RegExp(`\nsession +${session.id}\ngeneration +0, since `));
    expect(stdout).toMatch(/\nexpires +\d{4}-\S+Z \(in 1\d minutes\)\n/);
    expect(stdout).toMatch(/\nclaims +role \(version 0\)\n/);
    const facts = await json<object>(tokens.accessToken);
    expect(facts).toMatchObject({
      ...{ code: 0, kind: "access", verified: null, issuer, userId: "alice", tenantId: "acme" },
      ...{ sessionId: session.id, generation: 0, claims: ["role"], expired: false },
    });
  });

  it("reads it from a file, a header line, a cookie or quotes", async () => {
    const { tokens } = await issue();
    const file = join(folder, "token.txt");
    await writeFile(file, `${tokens.accessToken}\n`);
    expect((await run(["inspect", file], { env: {} })).stdout).toMatch(/\nuser +alice\n/);
    for (const text of [
      `Authorization: Bearer ${tokens.accessToken}`,
      `rpcsession-access-token: ${tokens.accessToken}`,
      `Set-Cookie: __Host-Http-rpcsession-access=${tokens.accessToken}; Path=/; HttpOnly`,
      `"${tokens.accessToken}"\n`,
    ]) {
      expect(await json(text)).toMatchObject({ code: 0, userId: "alice" });
    }
  });

  it("verifies it with a database, a file of keys or published keys", async () => {
    const { tokens, session } = await issue();
    const publish = jwksHandler(sessions);
    const url = await listenForTest((request, response) => {
      void publish(new Request(`http://localhost${request.url}`)).then(async (found) => {
        response.writeHead(found?.status ?? 404).end(await found?.text());
      });
    });
    const file = join(folder, "keys.json");
    await writeFile(file, JSON.stringify(await sessions.jwks()));
    const ways = [
      ["--database", database],
      ["--keys", file],
      ["--jwks", `${url}/.well-known/jwks.json`],
    ];
    for (const way of ways) {
      expect(await json(tokens.accessToken, ...way)).toMatchObject({ code: 0, verified: true });
    }
    const found = await json(tokens.accessToken, "--database", database);
    expect(found).toMatchObject({
      session: {
        live: true,
        words: "The session is live. The token is of its current generation.",
      },
    });
    const text = (await inspect(tokens.accessToken, "--database", database)).stdout;
    expect(text).toMatch(/store +The session is live\./);
    await sessions.revoke(session.id);
    expect(await json(tokens.accessToken, "--database", database)).toMatchObject({
      ...{ code: 1, verified: true },
      session: { live: false, words: expect.stringContaining("by revoked") as string },
    });
    expect((await inspect(tokens.accessToken, "--jwks", url)).stderr).toContain("status 404");
    await writeFile(file, "{");
    expect((await inspect(tokens.accessToken, "--keys", file)).stderr).toContain("not JSON");
  });

  it("says why it is not valid", async () => {
    const { tokens } = await issue();
    const keys = join(folder, "keys.json");
    const { keys: own } = await sessions.jwks();
    await writeFile(keys, JSON.stringify({ keys: own }));
    const why = async (token: string, ...args: readonly string[]) => {
      const { code, verdict } = await json<{ verdict: string }>(token, "--keys", keys, ...args);
      expect(code).toBe(1);
      return verdict;
    };
    const forged = rewritten(tokens.accessToken, 1, (claims) => ({ ...claims, sub: "mallory" }));
    expect(await why(forged)).toContain("the signature is not that of the key");
    expect(await why(tokens.accessToken, "--audience", "other")).toContain("another audience");
    const renamed = rewritten(tokens.accessToken, 0, (header) => ({ ...header, kid: "other" }));
    expect(await why(renamed)).toContain("none of the 1 keys has the id other");
    const other = rewritten(tokens.accessToken, 0, (header) => ({ ...header, alg: "RS256" }));
    expect(await why(other)).toContain("names RS256, but its key is for ES256");
  });

  it("says that its time is wrong", async () => {
    const { tokens } = await issue();
    const { publicJwk, privateJwk } = await generateSigningKey("ES256");
    const key = await importSigningKey(privateJwk);
    const keys = join(folder, "keys.json");
    await writeFile(keys, JSON.stringify({ keys: [publicJwk] }));
    const claims = fromPayload(payloadOf(tokens.accessToken) as JsonObject) as TokenClaims;
    const judge = async (times: Pick<TokenClaims, "iat" | "exp">) => {
      const token = await signAccessToken({ ...claims, ...times }, key);
      const { code, verdict } = await json<{ verdict: string }>(token, "--keys", keys);
      return `${code} ${verdict}`;
    };
    const now = claims.iat;
    expect(await judge({ iat: now, exp: now + 600 })).toMatch(/^0 Valid: /);
    expect(await judge({ iat: now - 600, exp: now - 1 })).toContain(
      "1 The signature is in order, but the token has expired",
    );
    expect(await judge({ iat: now, exp: now + 86_400 })).toContain(
      "1 Not valid: its lifetime is 86400 s. Verifiers accept up to 3600 s",
    );
    expect(await judge({ iat: now + 600, exp: now + 900 })).toMatch(
      /^1 Not valid yet: it begins (?:5\d\d|600) s from now/,
    );
  });

  it("is not valid under a secret that is dead", async () => {
    const { tokens } = await issue();
    const other = createSessions({
      ...{ issuer, store: sqliteStore(database), secret: "the next secret, of 32 bytes or more" },
    });
    await other.ready();
    await other.secrets.retire(tokens.refreshToken.slice(0, 8));
    await other.close();
    const { code, verdict } = await json<{ verdict: string }>(
      tokens.accessToken,
      ...["--database", database],
    );
    expect([code, verdict]).toEqual([1, expect.stringContaining("none of the")]);
  });

  it("says where a malformed one breaks", async () => {
    const { accessToken } = (await issue()).tokens;
    const cases: readonly (readonly [string, string])[] = [
      ["", "The input is empty."],
      [`${accessToken} x`, "is white space"],
      [accessToken.split(".").slice(0, 2).join("."), "The text has 2 parts"],
      ["x".repeat(9000), "The text has 9000 characters"],
      [changed(accessToken, 2, () => ""), "The signature is empty. The token is not signed."],
      [
        changed(accessToken, 2, (text) => `${text.slice(0, -1)}=`),
        "of the signature is not one of base64url (it is padding",
      ],
      [
        changed(accessToken, 1, (text) => `${text.slice(0, 8)}+${text.slice(9)}`),
        "Character 9 of the payload is not one of base64url (it is base64,",
      ],
      [
        changed(accessToken, 0, (text) => text.slice(0, 13)),
        "The header is not canonical base64url",
      ],
      [
        changed(accessToken, 1, (text) => text.slice(0, 40)),
        "The payload is not a JSON object. The text may be cut",
      ],
      [
        changed(accessToken, 1, () => Buffer.from('{"a":1,"a":2}').toString("base64url")),
        "a name that occurs twice",
      ],
      [
        changed(accessToken, 1, () => Buffer.from([0x22, 0xff]).toString("base64url")),
        "The payload is not UTF-8",
      ],
      [
        rewritten(accessToken, 0, (header) => ({ ...header, typ: "JWT" })),
        'The header has typ "JWT". Access tokens have "at+jwt"',
      ],
      [rewritten(accessToken, 0, (header) => ({ ...header, jku: "hidden" })), 'the member "jku"'],
      [rewritten(accessToken, 0, ({ alg, typ }) => ({ alg, typ })), "lacks alg or kid"],
      [rewritten(accessToken, 1, ({ sid: _sid, gen: _gen, ...rest }) => rest), "lacks sid, gen."],
      [
        rewritten(accessToken, 1, (claims) => ({ ...claims, exp: "hidden" })),
        "The claim exp has the wrong type",
      ],
      [
        rewritten(accessToken, 1, (claims) => ({ ...claims, transport: "pigeon" })),
        "The claim transport has",
      ],
      [
        rewritten(accessToken, 1, (claims) => ({ ...claims, cnf: {} })),
        "the claim cnf, which has no meaning here",
      ],
      ["eyJ.a.b.c.d", "an encrypted JWT (JWE)"],
    ];
    for (const [text, problem] of cases) {
      const { code, stdout } = await inspect(text);
      expect(stdout).toContain(problem);
      expect(code).toBe(1);
    }
  });

  it("never lets a terminal obey what an unproven token says", async () => {
    const { accessToken } = (await issue()).tokens;
    const evil = rewritten(accessToken, 1, (claims) => ({ ...claims, sub: "a\u001b[2J" }));
    expect((await inspect(evil)).stdout).toMatch(/\nuser +a\\u\{1b\}\[2J\n/);
  });
});

describe("feat:R2 rpc-session inspect on a refresh token", () => {
  it("names the session, the generation and the secret, and looks them up", async () => {
    const { tokens, session } = await issue();
    const secretId = tokens.refreshToken.slice(0, 8);
    const plain = await json(tokens.refreshToken);
    expect(plain).toEqual({
      ...{ code: 0, kind: "refresh", sessionId: session.id, generation: 0, secretId },
    });
    const text = (await inspect(tokens.refreshToken, "--database", database)).stdout;
    expect(text).toMatch(/^Refresh token\. Only a server with its secret can verify it/);
    expect(text).toContain("Its secret is trusted.");
    expect(text).toContain("The session is live. The token is of its current generation.");
    expect(text).toMatch(/\nuser +alice\n/);
  });

  it("says what a replaced one means, and that a secret is dead", async () => {
    const { tokens, session } = await issue();
    const store = sqliteStore(database);
    const { systemClock } = await import("../../src/base/clock.ts");
    await store.open({ clock: systemClock });
    const write = { id: session.id, idle: 60_000, secretId: "abcdefgh" } as const;
    await store.refresh({ ...write, kind: "advance", generation: 0 });
    const look = () =>
      json<{ session: { words: string }; secret: object }>(
        tokens.refreshToken,
        "--database",
        database,
      );
    expect((await look()).session.words).toContain(
      "before the current one, which no client has used yet",
    );
    await store.refresh({ ...write, kind: "advance", generation: 1 });
    expect((await look()).session.words).toContain(
      "The token is 2 generations behind. A refresh token that is replaced counts as stolen",
    );
    await store.retireSecrets([{ id: tokens.refreshToken.slice(0, 8), issuer }]);
    expect(await look()).toMatchObject({ code: 1, secret: { trusted: false } });
    await store.close();
    const gone = changed(tokens.refreshToken, 1, () => "x".repeat(22));
    expect(await json(gone, "--database", database)).toMatchObject({
      ...{ code: 1, session: { live: false, words: "The store has no such session." } },
    });
  });

  it("says which part of a malformed one is wrong", async () => {
    const { refreshToken } = (await issue()).tokens;
    const [secretId = "", id = "", generation = ""] = refreshToken.split(".");
    const salted = [secretId, id, generation, "A".repeat(43), "A".repeat(11)].join(".");
    const cases: readonly (readonly [string, string])[] = [
      [
        changed(refreshToken, 0, () => "short"),
        "Part 1 of a refresh token is its secret id, of 8 characters, but this one has 5",
      ],
      [
        changed(refreshToken, 1, (text) => text.slice(1)),
        "its session id, of 22 characters, but this one has 21",
      ],
      [
        changed(refreshToken, 2, () => "01"),
        "its generation, but it has a character that cannot be there",
      ],
      [changed(refreshToken, 4, (text) => text.slice(2)), "its root, of 22 characters"],
      [changed(refreshToken, 5, (text) => text.slice(2)), "its MAC, of 43 characters"],
      [
        changed(refreshToken, 5, (text) => `${text.slice(0, -1)}B`),
        "ends in a character that no encoder writes",
      ],
      [refreshToken.slice(0, -3), "its MAC, of 43 characters, but this one has 40"],
      [changed(salted, 3, (text) => text.slice(2)), "its MAC, of 43 characters"],
      [salted.slice(0, -3), "its check, of 11 characters, but this one has 8"],
    ];
    for (const [text, problem] of cases) {
      const { code, stdout } = await inspect(text);
      expect(stdout).toContain(problem);
      expect(code).toBe(1);
    }
  });
});

describe("feat:R2 the arguments of rpc-session inspect", () => {
  it("refuse a token, and do not repeat it", async () => {
    const { accessToken } = (await issue()).tokens;
    const { code, stderr } = await run(["inspect", accessToken], { env: {} });
    expect(code).toBe(2);
    expect(stderr).toContain("Never pass a token as an argument");
    expect(stderr).not.toContain(accessToken.slice(0, 20));
  });

  it.each([
    [["a", "b"], "at most one file, got 2"],
    [["--jwks", "https://a.example", "--keys", "f"], "only one of"],
    [["--jwks", "https://u:hidden@a.example"], "without credentials"],
    [["--database", "missing.db"], "the SQLite file does not exist"],
  ])("refuse %j", async (args, reason) => {
    const { accessToken } = (await issue()).tokens;
    const { code, stderr } = await inspect(accessToken, ...args);
    expect(code).toBe(2);
    expect(stderr).toContain(reason);
  });
});
