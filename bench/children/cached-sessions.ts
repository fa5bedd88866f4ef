// Fills the cache with the tokens of many sessions and reports the memory they take. The signatures
// are random and accepted as valid, because creating a million takes minutes; everything else is real.
import { randomBytes } from "node:crypto";
import { PerformanceObserver } from "node:perf_hooks";
import { systemClock } from "../../src/base/clock.ts";
import { nodeCrypto } from "../../src/base/crypto.ts";
import { toPayload } from "../../src/jwt/claims.ts";
import { createVerifiedCache } from "../../src/jwt/verified-cache.ts";
import { createAccessTokenVerifier } from "../../src/jwt/verifier.ts";
import { claimsOf, issuer, makeKey } from "../lib/tokens.ts";
import { heapUsed, tell } from "./talk.ts";

/** The cost of the cached sessions. */
export interface CachedSessions {
  /** Bytes per session, without the characters of the token itself. */
  readonly bytesPerSession: number;
  readonly tokenLength: number;
  /** Milliseconds of the longest garbage collection and of the longest single verification. */
  readonly longestGc: number;
  readonly longestCall: number;
  readonly heapMegabytes: number;
}

const count = Number(process.argv[2]);
const key = await makeKey("ES256");
if (nodeCrypto === undefined) {
  throw new Error("the benchmark needs Node.js");
}
nodeCrypto.verify = () => true;

let longestGc = 0;
new PerformanceObserver((list) => {
  for (const { duration } of list.getEntries()) {
    longestGc = Math.max(longestGc, duration);
  }
}).observe({ entryTypes: ["gc"] });

// One generation of the cache holds everything, so that no entry is counted twice.
const limits = { entries: 2 * count, bytes: Number.MAX_SAFE_INTEGER };
const cache = createVerifiedCache(limits, systemClock);
const verify = createAccessTokenVerifier({
  ...{ issuer, audience: issuer, maxLife: 3_600, clockSkew: 60 },
  keys: { find: () => key.verification },
  cache,
});
const header = part({ alg: "ES256", kid: key.kid, typ: "at+jwt" });
const before = heapUsed();
let characters = 0;
let longestCall = 0;
for (let i = 0; i < count; i++) {
  const id = randomBytes(16).toString("base64url");
  const payload = part(toPayload({ ...claimsOf(i), sid: id, jti: id.slice(0, 16) }));
  const token = `${header}.${payload}.${randomBytes(64).toString("base64url")}`;
  characters += token.length;
  const begun = performance.now();
  const { status } = await verify(token, Date.now());
  longestCall = Math.max(longestCall, performance.now() - begun);
  if (status !== "valid") {
    throw new Error(`a token is ${status}`);
  }
}
if (cache?.size !== count) {
  throw new Error(`expected ${count} cached tokens, found ${cache?.size}`);
}
// Let the observer receive the collections so far.
await new Promise((resolve) => setTimeout(resolve, 50));
const duringLoad = longestGc;
const heap = heapUsed();
tell({
  bytesPerSession: (heap - before - characters) / count,
  tokenLength: characters / count,
  longestGc: duringLoad,
  longestCall,
  heapMegabytes: heap / 1e6,
} satisfies CachedSessions);

function part(value: object): string {
  return Buffer.from(JSON.stringify(value)).toString("base64url");
}
