import { readFile } from "node:fs/promises";
import { systemClock } from "../base/clock.ts";
import type { ParsedRefreshToken } from "../engine/refresh/format.ts";
import type { TokenClaims } from "../jwt/claims.ts";
import type { ParsedJwt } from "../jwt/strict-parse.ts";
import {
  type Answer,
  type Command,
  type Explained,
  type Given,
  printable,
  textOf,
  UsageError,
} from "./command.ts";
import { storeOptions, withStore } from "./database.ts";
import type { Judgement } from "./inspect/verify.ts";

/** `rpc-session inspect` */
export const inspectCommand: Command = {
  name: "inspect",
  summary: "read a token: its user, when it expires, and whether it is valid",
  forms: ["[--jwks <url> | --keys <file> | --database <database>] [--json] [file]"],
  about:
    "Reads an access token or a refresh token from a file or the standard input and says in words what it is: issuer, user, session, times, names of claims. Says where a malformed one breaks. With keys, it verifies an access token; with a database, it also looks the session up. A token is a password while it lives, so it is never taken from the command line, which the history of the shell and the list of processes show. Signatures, MACs and values of claims are never printed.",
  arguments: [
    [
      "[file]",
      "a file with the token, alone or as copied: a header line or a cookie. Default: the standard input",
    ],
  ],
  options: [
    { flags: "--jwks <url>", meaning: "verify with the keys that are published there" },
    { flags: "--keys <file>", meaning: "verify with the keys in this file, a JWK set" },
    {
      flags: "--database <database>",
      meaning:
        "verify with the keys of this store, and look the session up: a postgres:// or redis:// URL, or the path of a SQLite file",
    },
    {
      flags: "--audience <audience>",
      meaning: "the audience that the token must have; default: any",
    },
    ...storeOptions,
  ],
  examples: [
    ["Read a token from the clipboard (macOS)", "pbpaste | rpc-session inspect"],
    [
      "Verify it with the published keys",
      "rpc-session inspect --jwks https://api.example.com/.well-known/jwks.json token.txt",
    ],
    [
      "See why a refresh token is refused",
      "rpc-session inspect --database sessions.db refresh-token.txt",
    ],
  ],
  async run(given) {
    const sources = ["jwks", "keys", "database"].filter((one) => textOf(given, one) !== undefined);
    if (sources.length > 1) {
      throw new UsageError("give only one of --jwks, --keys and --database");
    }
    const { readToken, tokenIn } = await import("./inspect/read.ts");
    const token = tokenIn(await readInput(given));
    const read = readToken(token);
    switch (read.kind) {
      case "malformed":
        return {
          text: `Not a token of rpc-session. ${read.problem}\n`,
          json: { kind: read.kind, problem: read.problem },
          code: 1,
        };
      case "refresh":
        return describeRefresh(given, read.token);
      case "access":
        return describeAccess(given, { ...read, token });
    }
  },
};

async function readInput({ args, stdin }: Given): Promise<string> {
  const [file, ...more] = args;
  if (more.length > 0) {
    throw new UsageError(`"inspect" takes at most one file, got ${args.length}`);
  }
  if (file === undefined || file === "-") {
    return (await stdin?.()) ?? "";
  }
  try {
    return await readFile(file, "utf8");
  } catch {
    // Never repeats the argument: it may be a token.
    throw new UsageError(
      "the file cannot be read. Never pass a token as an argument: the history of the shell keeps it. Pass a file, or use the standard input",
    );
  }
}

interface AccessToken {
  readonly token: string;
  readonly jwt: ParsedJwt;
  readonly claims: TokenClaims;
}

async function describeAccess(given: Given, access: AccessToken): Promise<Answer> {
  const { claims, jwt } = access;
  const now = systemClock.now();
  const { verdict, session } = await examineAccess(given, access, now);
  const names = Object.keys(claims.claims);
  const isExpired = claims.exp * 1000 <= now;
  const rows: readonly Explained[] = [
    ["issuer", claims.iss],
    ["audience", claims.aud === claims.iss ? "the issuer" : claims.aud],
    ["user", claims.sub],
    ["tenant", claims.tid ?? "none"],
    ["session", claims.sid],
    ["generation", `${claims.gen}, since ${when(claims.gat, now)}`],
    ["tokens", claims.transport === "cookie" ? "in cookies" : "in headers"],
    ["issued", when(claims.iat, now)],
    [isExpired ? "expired" : "expires", when(claims.exp, now)],
    ["signed in", when(claims.auth_time, now)],
    ...(claims.acr === undefined ? [] : [["class", claims.acr] as const]),
    ...(claims.amr === undefined ? [] : [["methods", claims.amr.join(", ")] as const]),
    ["began", when(claims.session_iat, now)],
    ["ends", `${when(claims.session_exp, now)}, at the latest`],
    ["claims", `${names.length === 0 ? "none" : names.join(", ")} (version ${claims.cv})`],
    ["key", `${jwt.header.kid}, ${jwt.header.alg}`],
    ...(session === undefined ? [] : [["store", session.words] as const]),
  ];
  const words =
    verdict?.words ??
    "Not verified: nothing in it is proven. Give --jwks, --keys or --database to verify it.";
  const isBad = verdict?.ok === false || session?.ok === false;
  return {
    text: `Access token. ${words}\n\n${listed(rows)}`,
    json: {
      kind: "access",
      verified: verdict?.ok ?? null,
      verdict: words,
      ...(session === undefined ? {} : { session: { live: session.ok, words: session.words } }),
      ...{ issuer: claims.iss, audience: claims.aud, userId: claims.sub },
      ...{ tenantId: claims.tid ?? null, sessionId: claims.sid, transport: claims.transport },
      ...{ generation: claims.gen, claimsVersion: claims.cv, claims: names },
      issuedAt: iso(claims.iat),
      expiresAt: iso(claims.exp),
      expired: isExpired,
      authTime: iso(claims.auth_time),
      acr: claims.acr ?? null,
      amr: claims.amr ?? [],
      sessionCreatedAt: iso(claims.session_iat),
      sessionExpiresAt: iso(claims.session_exp),
      key: jwt.header.kid,
      algorithm: jwt.header.alg,
    },
    code: isBad ? 1 : 0,
  };
}

interface Examined {
  readonly verdict: Judgement | undefined;
  readonly session: Judgement | undefined;
}

async function examineAccess(given: Given, access: AccessToken, now: number): Promise<Examined> {
  const jwks = textOf(given, "jwks");
  const keys = textOf(given, "keys");
  const database = textOf(given, "database");
  if (jwks === undefined && keys === undefined && database === undefined) {
    return { verdict: undefined, session: undefined };
  }
  const from = await import("./inspect/verify.ts");
  const presented = { ...access, now, audience: textOf(given, "audience") };
  if (database === undefined) {
    const set =
      jwks === undefined ? await from.readKeysFile(keys ?? "") : await from.fetchKeys(jwks);
    return { verdict: await from.verify(presented, set), session: undefined };
  }
  return withStore(database, given, async (store) => ({
    verdict: await from.verify(presented, await from.storedKeys(store)),
    session: await from.standingIn(store, {
      session: access.claims.sid,
      generation: access.claims.gen,
    }),
  }));
}

async function describeRefresh(given: Given, token: ParsedRefreshToken): Promise<Answer> {
  const { secretId, session: sessionId, generation } = token;
  const database = textOf(given, "database");
  const looked =
    database === undefined
      ? undefined
      : await withStore(database, given, async (store) => {
          const from = await import("./inspect/verify.ts");
          return {
            secret: await from.secretIn(store, secretId),
            session: await from.standingIn(store, token),
          };
        });
  const rows: readonly Explained[] = [
    ["session", sessionId],
    ["generation", String(generation)],
    ["secret", `${secretId}${looked === undefined ? "" : `. ${looked.secret.words}`}`],
    ...(looked === undefined ? [] : [["store", looked.session.words] as const]),
    ...(looked?.session.userId === undefined ? [] : [["user", looked.session.userId] as const]),
  ];
  const words =
    "Refresh token. Only a server with its secret can verify it; nothing in it is proven here.";
  return {
    text: `${words}\n\n${listed(rows)}`,
    json: {
      ...{ kind: "refresh", sessionId, generation, secretId },
      ...(looked === undefined
        ? {}
        : {
            ...(looked.session.userId === undefined ? {} : { userId: looked.session.userId }),
            session: { live: looked.session.ok, words: looked.session.words },
            secret: { trusted: looked.secret.ok, words: looked.secret.words },
          }),
    },
    code: looked === undefined || (looked.secret.ok && looked.session.ok) ? 0 : 1,
  };
}

function listed(rows: readonly Explained[]): string {
  const width = Math.max(...rows.map(([name]) => name.length));
  return rows.map(([name, value]) => `${name.padEnd(width)}  ${printable(value)}\n`).join("");
}

function iso(seconds: number): string | null {
  const time = new Date(seconds * 1000);
  return Number.isNaN(time.getTime()) ? null : time.toISOString();
}

const units = [
  ["day", 86_400],
  ["hour", 3600],
  ["minute", 60],
  ["second", 1],
] as const;

/** A time, and how far it is from now. */
function when(seconds: number, now: number): string {
  const distance = Math.round(seconds - now / 1000);
  if (distance === 0) {
    return `${iso(seconds)} (now)`;
  }
  const [name, size] = units.find(([, one]) => Math.abs(distance) >= one) ?? ["second", 1];
  const count = Math.round(Math.abs(distance) / size);
  const amount = `${count} ${name}${count === 1 ? "" : "s"}`;
  return `${iso(seconds) ?? "an impossible time"} (${distance > 0 ? `in ${amount}` : `${amount} ago`})`;
}
