import { isId } from "../base/checks.ts";
import type { JsonObject, JsonValue } from "../base/json.ts";
import { isCount } from "./claims.ts";
import { algorithmNamed, type SigningAlgorithm, signingAlgorithms } from "./jwk.ts";
import { isSignature } from "./keys.ts";
import { isKeyId, parseJws } from "./strict-parse.ts";
import type { KeyFinder } from "./verifier.ts";

/** The rules for logout tokens of one provider. */
export interface LogoutTokenRules {
  /** The accepted `iss`; compared exactly. */
  readonly issuer: string;
  /** The ids of this service at the provider; `aud` must contain one of them. */
  readonly clientIds: readonly string[];
  readonly algorithms: readonly SigningAlgorithm[];
  readonly keys: KeyFinder;
  /** How far `iat` may lie in the future, in seconds. Not applied to `exp`. */
  readonly clockSkew: number;
  /** How long after `iat` a token is accepted at most, in seconds. */
  readonly maxAge: number;
  /** Whether another `typ` than `logout+jwt`, or none, is accepted. */
  readonly untyped: boolean;
  /** Whether a token without `exp` is accepted. */
  readonly withoutExpiry: boolean;
}

/** A proven logout token. At least one of `sid` and `sub` is present. */
export interface Logout {
  readonly jti: string;
  readonly sid: string | undefined;
  readonly sub: string | undefined;
}

/** The result: a proven token, or the rule that it breaks, as a sentence without any of its values. */
export type VerifiedLogout = { readonly logout: Logout } | { readonly refused: string };

/** The member of `events` that makes a token a logout token. */
const event = "http://schemas.openid.net/event/backchannel-logout";

/**
 * Verifies a logout token (OpenID Connect Back-Channel Logout 1.0 section 2.6). Rejects only if a key
 * cannot be looked up. Encrypted tokens are refused.
 * @param now milliseconds since 1970
 */
export async function verifyLogoutToken(
  token: string,
  rules: LogoutTokenRules,
  now: number,
): Promise<VerifiedLogout> {
  // 1. The form: one spelling, strict JSON.
  const parsed = parseJws(token);
  if (parsed === undefined) {
    return { refused: "The logout token is not a well-formed signed JWT." };
  }
  const { header, payload, signature } = parsed;

  // 2. What can be refused without a key: other algorithms, other issuers, other times.
  const alg = algorithmNamed(header.alg);
  const early =
    refusedHeader(header, rules) ??
    refusedIssuer(payload, rules) ??
    refusedTime(payload, rules, now);
  if (early !== undefined) {
    return { refused: early };
  }
  if (alg === undefined || !rules.algorithms.includes(alg)) {
    return { refused: "The algorithm of the logout token is not accepted." };
  }

  // 3. The signature. The algorithm is a property of the key; a token cannot choose it.
  const { min, max } = signingAlgorithms[alg].signatureBytes;
  const hasLength = signature.length >= min && signature.length <= max;
  const { kid } = header;
  const key =
    hasLength && isKeyId(kid) ? await rules.keys.find(kid, Number(payload.iat)) : undefined;
  if (alg !== key?.alg || !(await isSignature(key, parsed.signed, parsed.signature))) {
    return { refused: "No key of the provider has signed the logout token." };
  }

  // 4. The claims that make it a logout token, and not an ID token for example.
  return readLogout(payload);
}

function refusedHeader(header: JsonObject, { untyped }: LogoutTokenRules): string | undefined {
  const { typ, kid } = header;
  // Members that are not understood are ignored (RFC 7515 section 4), but these demand to be understood.
  if ("crit" in header || "b64" in header) {
    return "The logout token needs an extension that is not supported.";
  }
  if (!untyped && !(typeof typ === "string" && /^(application\/)?logout\+jwt$/i.test(typ))) {
    return "The typ of the logout token is not logout+jwt.";
  }
  if (!isKeyId(kid)) {
    return "The logout token names no key: its kid is missing or has an unusual form.";
  }
  return undefined;
}

function refusedIssuer(
  { iss, aud }: JsonObject,
  { issuer, clientIds }: LogoutTokenRules,
): string | undefined {
  if (iss !== issuer) {
    return "The iss of the logout token is not the configured issuer.";
  }
  const audience: readonly JsonValue[] = Array.isArray(aud) ? aud : [aud ?? null];
  const areTexts = audience.every((one) => typeof one === "string");
  if (!areTexts || !audience.some((one) => clientIds.includes(String(one)))) {
    return "The aud of the logout token is not the configured client id.";
  }
  return undefined;
}

function refusedTime(
  { iat, exp, nbf }: JsonObject,
  rules: LogoutTokenRules,
  now: number,
): string | undefined {
  if (!isCount(iat) || !(nbf === undefined || isCount(nbf))) {
    return "The logout token has no valid iat.";
  }
  if (Math.max(iat, nbf ?? 0) * 1000 > now + rules.clockSkew * 1000) {
    return "The logout token lies in the future.";
  }
  if (exp === undefined ? !rules.withoutExpiry : !isCount(exp)) {
    return "The logout token has no valid exp.";
  }
  const ends = Math.min(Number(exp ?? Number.POSITIVE_INFINITY), iat + rules.maxAge);
  return ends * 1000 > now ? undefined : "The logout token has expired.";
}

function readLogout(payload: JsonObject): VerifiedLogout {
  const { events, jti, sid, sub } = payload;
  const isLogout = isObject(events) && isObject(events[event]);
  if (!isLogout) {
    return { refused: "The events of the logout token do not name a back-channel logout." };
  }
  if ("nonce" in payload) {
    return { refused: "A logout token must not have a nonce." };
  }
  if (!isId(jti)) {
    return { refused: "The logout token has no valid jti." };
  }
  const areIds = [sid, sub].every((one) => one === undefined || isId(one));
  if (!areIds || (sid === undefined && sub === undefined)) {
    return { refused: "The logout token has neither a valid sid nor a valid sub." };
  }
  return { logout: { jti, sid: sid as string | undefined, sub: sub as string | undefined } };
}

function isObject(value: JsonValue | undefined): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
