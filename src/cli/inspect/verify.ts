import { readFile } from "node:fs/promises";
import { secretIdOf } from "../../engine/keys/sealed.ts";
import { maxAccessLife } from "../../engine/lifetimes.ts";
import type { ParsedRefreshToken } from "../../engine/refresh/format.ts";
import type { SessionStore } from "../../engine/store.ts";
import type { TokenClaims } from "../../jwt/claims.ts";
import { type KeySet, readKeySet } from "../../jwt/jwk-set.ts";
import { isSignature } from "../../jwt/keys.ts";
import type { ParsedJwt } from "../../jwt/strict-parse.ts";
import { createAccessTokenVerifier } from "../../jwt/verifier.ts";
import { UsageError } from "../command.ts";
import { jsonOf } from "../doctor/rpc.ts";
import { causeOf, send } from "../doctor/wire.ts";

/** What a check has shown: whether all is well, and in words. */
export interface Judgement {
  readonly ok: boolean;
  readonly words: string;
}

/** An access token to verify. */
interface Presented {
  readonly token: string;
  readonly jwt: ParsedJwt;
  readonly claims: TokenClaims;
  /** Milliseconds since 1970. */
  readonly now: number;
  readonly audience: string | undefined;
}

const clockSkew = 60;
const maxLife = maxAccessLife / 1000;

/** Verifies an access token as the library does, and says why if it fails. */
export async function verify(presented: Presented, keys: KeySet): Promise<Judgement> {
  const { token, claims, now, audience } = presented;
  const verifier = createAccessTokenVerifier({
    ...{ issuer: claims.iss, audience: audience ?? claims.aud, maxLife, clockSkew },
    keys: { find: (kid) => keys.get(kid) },
  });
  const { status } = await verifier(token, now);
  if (status === "valid") {
    return { ok: true, words: "Valid: the signature and the times are in order." };
  }
  return status === "expired"
    ? { ok: false, words: "The signature is in order, but the token has expired." }
    : { ok: false, words: await reasonOf(presented, keys) };
}

/** Why a token is not valid, in the order in which the verifier looks. */
async function reasonOf(
  { token, jwt, claims, now, audience }: Presented,
  keys: KeySet,
): Promise<string> {
  const { kid, alg } = jwt.header;
  const key = keys.get(kid);
  if (key === undefined) {
    return `Not valid: none of the ${keys.size} keys has the id ${kid}. The token is another service's, or its key was retired.`;
  }
  if (key.alg !== alg) {
    return `Not valid: the token names ${alg}, but its key is for ${key.alg}.`;
  }
  const signed = new TextEncoder().encode(token.slice(0, token.lastIndexOf(".")));
  if (!(await isSignature(key, signed, jwt.signature))) {
    return "Not valid: the signature is not that of the key. The token was changed, or forged.";
  }
  if (audience !== undefined && claims.aud !== audience) {
    return "Not valid: the token is for another audience than --audience names.";
  }
  const life = claims.exp - claims.iat;
  if (life <= 0 || life > maxLife) {
    return `Not valid: its lifetime is ${life} s. Verifiers accept up to ${maxLife} s.`;
  }
  const ahead = Math.max(claims.iat, Number(jwt.payload.nbf ?? 0)) - now / 1000;
  return ahead > clockSkew
    ? `Not valid yet: it begins ${Math.round(ahead)} s from now by this machine's clock. Verifiers allow for ${clockSkew} s; compare the clocks.`
    : "Not valid.";
}

/** Fetches a key set. */
export async function fetchKeys(address: string): Promise<KeySet> {
  const url = URL.canParse(address) ? new URL(address) : undefined;
  if (url === undefined || !/^https?:$/.test(url.protocol) || url.username || url.password) {
    throw new UsageError("--jwks must be an http or https URL without credentials");
  }
  const reply = await send(url, { method: "GET" }).catch((error: unknown) => {
    throw new Error(`the keys cannot be fetched: ${causeOf(error)}`);
  });
  if (reply.status !== 200) {
    throw new Error(`the keys cannot be fetched: the answer has status ${reply.status}`);
  }
  return readSet(jsonOf(reply));
}

/** Reads a key set from a file. */
export async function readKeysFile(path: string): Promise<KeySet> {
  const text = await readFile(path, "utf8");
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw new Error("the file of --keys is not JSON; it must be a JWK set");
  }
  return readSet(value);
}

async function readSet(value: unknown): Promise<KeySet> {
  try {
    return await readKeySet(value);
  } catch (error) {
    throw new Error(`the keys cannot be used: ${causeOf(error)}`);
  }
}

/** Reads the keys of a store whose secret is not dead. */
export async function storedKeys(store: SessionStore): Promise<KeySet> {
  const { keys } = await store.signingKeys();
  const { secrets } = await store.recordSecrets([]);
  const dead = new Set(secrets.flatMap(({ id, deadAt }) => (deadAt === null ? [] : [id])));
  const living = keys.filter((key) => !dead.has(secretIdOf(key)));
  if (living.length === 0) {
    return new Map();
  }
  return readSet({ keys: living.map(({ publicJwk }) => JSON.parse(publicJwk) as unknown) });
}

/** What the store knows about the session of a token. */
export async function standingIn(
  store: SessionStore,
  { session, generation }: Pick<ParsedRefreshToken, "session" | "generation">,
): Promise<Judgement & { readonly userId?: string }> {
  const { record, now } = await store.load(session);
  if (record === undefined) {
    return { ok: false, words: "The store has no such session." };
  }
  const { userId } = record;
  if (record.revokedAt !== null) {
    const when = new Date(record.revokedAt).toISOString();
    return { ok: false, userId, words: `The session ended at ${when}, by ${record.endedBy}.` };
  }
  const end = Math.min(record.idleExpiresAt, record.expiresAt);
  if (end <= now) {
    return {
      ...{ ok: false, userId },
      words: `The session expired at ${new Date(end).toISOString()}.`,
    };
  }
  const behind = record.generation - generation;
  const position =
    behind === 0
      ? "The token is of its current generation."
      : behind === 1 && record.confirmedAt === null
        ? "The token is of the generation before the current one, which no client has used yet."
        : behind > 0
          ? `The token is ${behind} ${behind === 1 ? "generation" : "generations"} behind. A refresh token that is replaced counts as stolen, after the overlap.`
          : "The token is of a later generation than the store has: the store was restored, or has lost changes.";
  return { ok: true, userId, words: `The session is live. ${position}` };
}

/** Whether the secret of a refresh token is trusted, as far as the store has recorded it. */
export async function secretIn(store: SessionStore, secretId: string): Promise<Judgement> {
  const { secrets } = await store.recordSecrets([]);
  const found = secrets.find(({ id }) => id === secretId);
  if (found === undefined) {
    return { ok: false, words: "No server on this store has had its secret." };
  }
  return found.deadAt === null
    ? { ok: true, words: "Its secret is trusted." }
    : { ok: false, words: `Its secret is dead since ${new Date(found.deadAt).toISOString()}.` };
}
