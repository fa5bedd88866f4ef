import { verify as cryptoVerify, type KeyObject, sign } from "node:crypto";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { createVerifier } from "fast-jwt";
import { jwtVerify } from "jose";
import { systemClock } from "../../src/base/clock.ts";
import type { SigningAlgorithm } from "../../src/jwt/jwk.ts";
import { createVerifiedCache, readCacheLimits } from "../../src/jwt/verified-cache.ts";
import { createAccessTokenVerifier } from "../../src/jwt/verifier.ts";
import type { BenchOptions } from "../lib/options.ts";
import { loadPeer } from "../lib/peers.ts";
import type { Cell, Findings, Headline } from "../lib/report.ts";
import { type Contestant, cpuRounds } from "../lib/rounds.ts";
import { pairedRatio, spreadOf } from "../lib/stats.ts";
import { type BenchKey, claimsOf, freshCopies, issuer, makeKey } from "../lib/tokens.ts";
import { claimPolicies, warmCallContestant } from "./warm-call.ts";

const algorithms: readonly SigningAlgorithm[] = ["ES256", "RS256", "EdDSA"];
const hashes = { ES256: "sha256", RS256: "sha256", EdDSA: null } as const;
const tokenCount = 1_000;
const names = {
  raw: "crypto.verify alone",
  jose: "jose `jwtVerify`",
  fast: "fast-jwt",
  fastCache: "fast-jwt, cache",
  supertokens: "supertokens-node `getSession`, no database",
  cold: "rpc-session, cold",
  warm: "rpc-session, warm",
  warmCall: "rpc-session, the whole gate of a warm call",
} as const;

/** Measures the cost of verifying a token: CPU time per call, one call after another. */
export async function verifySection({ rounds, quick }: BenchOptions): Promise<Findings> {
  const columns: Map<string, number[]>[] = [];
  const notes: string[] = [];
  const supertokens = await startSuperTokens().catch((error: unknown) => {
    notes.push(
      `supertokens-node: not measured, because it could not be called on its own: ${String(error)}`,
    );
    return undefined;
  });
  for (const alg of algorithms) {
    const key = await makeKey(alg);
    const more = supertokens === undefined ? [] : [await supertokens.contestant(key, alg)];
    const all = [...(await contestantsOf(alg, key)), ...more];
    const found = await cpuRounds(all, quick ? 7 : rounds);
    // These two are measured again without the others, whose garbage they would pay for: their ratio is
    // near 1. With RS256 a round takes milliseconds, so there are ten times as many: one garbage collection
    // would otherwise move the ratio.
    const pair = all.filter(({ name }) => name === names.raw || name === names.cold);
    for (const [name, values] of await cpuRounds(pair, quick ? 7 : 10 * rounds)) {
      found.set(name, values);
    }
    columns.push(found);
  }
  supertokens?.close();
  const [es256] = columns;
  const underPolicies = Object.entries(claimPolicies).map((given) => warmCallContestant(...given));
  const warmCalls = await cpuRounds(
    await Promise.all([warmCallContestant(names.warmCall), ...underPolicies]),
    quick ? 7 : rounds,
  );
  for (const [name, values] of warmCalls) {
    es256?.set(name, values);
  }
  const cell = (found: Map<string, number[]>, name: string): Cell => {
    const values = found.get(name);
    return values === undefined ? null : spreadOf(values.map((ns) => ns / 1000));
  };
  const rows = [...Object.values(names), ...Object.keys(claimPolicies)].map((name) => ({
    name,
    cells: columns.map((found) => cell(found, name)),
  }));
  return {
    tables: [{ title: "verify, µs CPU (quartiles)", columns: algorithms, rows }],
    headline: headlineOf(columns),
    notes,
  };
}

function headlineOf([es256, rs256, eddsa]: readonly Map<string, number[]>[]): Partial<Headline> {
  const coldVsRaw = (found: Map<string, number[]> | undefined): number | null =>
    pairedRatio(found?.get(names.cold), found?.get(names.raw));
  const warm = es256?.get(names.warm);
  const warmCall = es256?.get(names.warmCall);
  return {
    warm_verify_ns: warm === undefined ? null : spreadOf(warm).median,
    warm_authenticate_ns: warmCall === undefined ? null : spreadOf(warmCall).median,
    warm_vs_jose: pairedRatio(es256?.get(names.jose), warm),
    warm_vs_fastjwt_cache: pairedRatio(es256?.get(names.fastCache), warm),
    cold_vs_raw: coldVsRaw(es256),
    cold_vs_raw_rs256: coldVsRaw(rs256),
    cold_vs_raw_eddsa: coldVsRaw(eddsa),
  };
}

async function contestantsOf(alg: SigningAlgorithm, key: BenchKey): Promise<Contestant[]> {
  const tokens = await Promise.all(
    Array.from({ length: tokenCount }, (_, i) => key.sign(claimsOf(i))),
  );
  const over = contestantsOver(tokens);
  const rules = { issuer, audience: issuer, maxLife: 3_600, clockSkew: 60 };
  const keys = { find: () => key.verification };
  const cold = createAccessTokenVerifier({ ...rules, keys });
  const cache = createVerifiedCache(readCacheLimits(), systemClock);
  const warm = createAccessTokenVerifier({ ...rules, keys, cache });
  for (const token of tokens) {
    await warm(token, Date.now());
  }
  const claims = { allowedIss: issuer, allowedAud: issuer, algorithms: [alg] };
  const fast = createVerifier({ key: key.publicPem, cache: false, ...claims });
  const fastCache = createVerifier({ key: key.publicPem, cache: 2 * tokenCount, ...claims });
  return [
    rawContestant(alg, key.publicKey, tokens),
    over(names.jose, 300, async (token) => {
      await jwtVerify(token, key.cryptoKey, { issuer, audience: issuer, typ: "at+jwt" });
    }),
    over(names.fast, 300, (token) => void fast(token)),
    over(names.fastCache, 20_000, (token) => void fastCache(token)),
    over(names.cold, 300, async (token) => {
      if ((await cold(token, Date.now())).status !== "valid") {
        throw new Error("a token was not valid");
      }
    }),
    over(names.warm, 20_000, (token) => {
      if (warm(token, Date.now()) instanceof Promise) {
        throw new Error("a cached token was verified again");
      }
    }),
  ];
}

type Verify = (token: string) => void | Promise<void>;

function contestantsOver(tokens: readonly string[]) {
  return (name: string, ops: number, verify: Verify): Contestant => {
    let fresh: string[] = [];
    return {
      name,
      ops,
      prepare() {
        fresh = freshCopies(tokens, ops);
      },
      async batch() {
        for (const token of fresh) {
          const verifying = verify(token);
          if (verifying !== undefined) {
            await verifying;
          }
        }
      },
    };
  };
}

/** The signature alone: the bytes are prepared and nothing is parsed. */
function rawContestant(
  alg: SigningAlgorithm,
  key: KeyObject,
  tokens: readonly string[],
): Contestant {
  const parts = tokens.slice(0, 300).map((token) => {
    const dot = token.lastIndexOf(".");
    return {
      data: Buffer.from(token.slice(0, dot)),
      signature: Buffer.from(token.slice(dot + 1), "base64url"),
    };
  });
  const options = alg === "ES256" ? ({ key, dsaEncoding: "ieee-p1363" } as const) : key;
  return {
    name: names.raw,
    ops: parts.length,
    batch() {
      for (const { data, signature } of parts) {
        if (!cryptoVerify(hashes[alg], data, options, signature)) {
          throw new Error("the raw signature does not verify");
        }
      }
    },
  };
}

/** The part of supertokens-node that is used here. */
interface SuperTokensModule {
  readonly default: { init(options: object): void };
}
interface SuperTokensSession {
  readonly default: {
    init(options: object): unknown;
    getSessionWithoutRequestResponse(
      token: string,
      antiCsrf: undefined,
      options: object,
    ): Promise<{ getUserId(): string } | undefined>;
  };
}

/** Starts supertokens-node with a stub of its core that only serves keys. */
async function startSuperTokens() {
  const jwks = { keys: [] as object[] };
  const core = createServer((request, response) => {
    response.setHeader("content-type", "application/json");
    response.end(JSON.stringify(request.url?.includes("jwks") ? jwks : { versions: ["5.4"] }));
  });
  await new Promise<void>((resolve) => core.listen(0, "127.0.0.1", resolve));
  core.unref();
  const { port } = core.address() as AddressInfo;
  const keys = await Promise.all(algorithms.map(async (alg) => [alg, await makeKey(alg)] as const));
  jwks.keys.push(...keys.map(([, key]) => ({ ...key.publicJwk, kid: dynamicKid(key) })));
  const { default: supertokens } = await loadPeer<SuperTokensModule>("supertokens-node");
  const { default: session } = await loadPeer<SuperTokensSession>(
    "supertokens-node/recipe/session/index.js",
  );
  supertokens.init({
    supertokens: { connectionURI: `http://127.0.0.1:${port}` },
    appInfo: { appName: "bench", apiDomain: issuer, websiteDomain: issuer },
    recipeList: [session.init({})],
  });
  return {
    close: () => core.close(),
    async contestant(_: BenchKey, alg: SigningAlgorithm): Promise<Contestant> {
      const key = new Map(keys).get(alg);
      const tokens = Array.from({ length: 300 }, (_unused, i) => superToken(alg, key, i));
      const verify: Verify = async (token) => {
        const found = await session.getSessionWithoutRequestResponse(token, undefined, {
          antiCsrfCheck: false,
        });
        if (found === undefined) {
          throw new Error("supertokens-node found no session");
        }
      };
      await verify(tokens[0] ?? "");
      return contestantsOver(tokens)(names.supertokens, 200, verify);
    },
  };
}

/** The form of the names of keys that the core rotates. */
function dynamicKid({ kid }: BenchKey): string {
  return `d-${kid}`;
}

/** Returns a token in the core's format, version 5, of about the same size as an rpc-session token. */
function superToken(alg: SigningAlgorithm, key: BenchKey | undefined, i: number): string {
  if (key === undefined) {
    throw new Error("the key has no private part");
  }
  const { iat, exp, sub, sid } = claimsOf(i);
  const payload = {
    ...{ iat, exp, sub, iss: issuer, tId: "public", rsub: sub, sessionHandle: sid },
    refreshTokenHash1: "x".repeat(64),
    parentRefreshTokenHash1: null,
    antiCsrfToken: null,
    ...claimsOf(i).claims,
  };
  const part = (value: object): string => Buffer.from(JSON.stringify(value)).toString("base64url");
  const signed = `${part({ alg, kid: dynamicKid(key), typ: "JWT", version: "5" })}.${part(payload)}`;
  const options =
    alg === "ES256"
      ? ({ key: key.privateKey, dsaEncoding: "ieee-p1363" } as const)
      : key.privateKey;
  return `${signed}.${sign(hashes[alg], Buffer.from(signed), options).toString("base64url")}`;
}
