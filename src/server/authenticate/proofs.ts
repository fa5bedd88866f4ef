import { readChoice, readIssuer } from "../../base/checks.ts";
import { SessionError } from "../../base/errors.ts";
import { proofHeader } from "../../base/wire.ts";
import { type Nonces, nonceLife } from "../../engine/refresh/nonces.ts";
import type { TokenClaims } from "../../jwt/claims.ts";
import { verifyProof } from "../../jwt/dpop.ts";
import type { Call } from "../call/call.ts";
import { UsedOnce } from "./used-once.ts";

/** Which sessions are bound to a key; see `BindOptions`. */
export type BindMode = "off" | "preferred" | "required";

const modes = ["preferred", "off", "required"] as const;

/** @throws TypeError if it is not a mode */
export function readBindMode(option: string, mode: BindMode | undefined): BindMode {
  return readChoice(option, mode, modes);
}

/** The parts of a call that carry a proof. */
type ProofRequest = Pick<
  Call,
  | "requestHeader"
  | "requestMethod"
  | "url"
  | "method"
  | "presented"
  | "responseHeader"
  | "provenKey"
>;

/** What proofs are fresh by. */
interface Freshness {
  readonly revocations: { storeNow(): number };
  /** Undefined where there is no secret. */
  readonly nonces: Nonces | undefined;
}

interface ProofsOptions {
  readonly mode: BindMode;
  /** The public base URL of this service; undefined if proofs cannot be checked. */
  readonly url: string | undefined;
}

/** Seconds by which `iat` may differ from the time of this server, where there are no nonces. */
const iatWindow = 60;

/** Checks proofs of possession (DPoP, RFC 9449), and that each is used once on this server. */
export class Proofs {
  readonly mode: BindMode;
  readonly #base: URL | undefined;
  /** By key and `jti`. */
  readonly #used = new UsedOnce();

  /** @throws TypeError if the URL is not one */
  constructor({ mode, url }: ProofsOptions) {
    this.mode = mode;
    this.#base = url === undefined ? undefined : readIssuer(url, "bind.url");
  }

  /**
   * Verifies the proof of a call, if it has one, once.
   *
   * @param accessToken the access token that the proof must name; undefined for any or none
   * @returns the thumbprint of the key; undefined if the call has no proof
   * @throws SessionError `unauthorized`: `PROOF_INVALID` or `PROOF_NONCE`
   */
  async prove(
    engine: Freshness,
    call: ProofRequest,
    accessToken: string | undefined,
  ): Promise<string | undefined> {
    const text = call.requestHeader.get(proofHeader.proof);
    if (text === null || call.provenKey !== undefined) {
      return call.provenKey;
    }

    // 1. The proof by itself: format, key, signature, and the request that it names.
    const urls = this.#urlsOf(call);
    if (urls.length === 0) {
      const why =
        "This service does not know its public URL, so it accepts no proofs; set bind.url.";
      throw await proofError(engine, "PROOF_INVALID", why);
    }
    const verified = await verifyProof(text, {
      method: call.requestMethod,
      urls,
      accessToken,
    });
    if ("refused" in verified) {
      throw await proofError(engine, "PROOF_INVALID", verified.refused);
    }

    // 2. It is fresh: by a nonce of this service or, where there are none, by its time.
    const { thumbprint, jti, iat, nonce } = verified.proof;
    const now = engine.revocations.storeNow();
    const { nonces } = engine;
    if (nonces !== undefined && !(await nonces.isFresh(nonce, now))) {
      throw await proofError(
        engine,
        "PROOF_NONCE",
        "The proof must carry a recent nonce of this service; send it again with the one of this answer.",
      );
    }
    if (nonces === undefined && Math.abs(now / 1000 - iat) > iatWindow) {
      throw await proofError(
        engine,
        "PROOF_INVALID",
        "The iat of the proof must be the present time.",
      );
    }

    // 3. It was not used before on this server.
    if (!this.#used.isFirst(`${thumbprint}.${jti}`, now, nonceLife)) {
      throw await proofError(engine, "PROOF_INVALID", "The proof was used before; make a new one.");
    }
    if (nonces !== undefined) {
      call.responseHeader.set(proofHeader.nonce, await nonces.mint(now));
    }
    call.provenKey = thumbprint;
    return thumbprint;
  }

  /**
   * The public URLs of a call: the procedure under the base URL, and the path that the server received on
   * the origin of the base. Never from `Host`.
   */
  #urlsOf(call: ProofRequest): readonly string[] {
    if (this.#base === undefined) {
      return [];
    }
    const { origin, href } = this.#base;
    const { method, url } = call;
    if (method !== undefined) {
      return [`${href.replace(/\/$/, "")}/${method.parent.typeName}/${method.name}`];
    }
    return url === undefined ? [] : [`${origin}${new URL(url, origin).pathname}`];
  }
}

/** The parts of a policy and a service that decide whether a proof is needed. */
interface KeyDemand {
  readonly proofs: Proofs;
  readonly engine: Freshness;
  /** Whether the policy of the method demands a proof. */
  readonly isDemanded: boolean;
}

/** Whether the token of a call cannot be used without a look at the key of its session. */
export function concernsKey(
  { scheme }: ProofRequest["presented"],
  { jkt }: TokenClaims,
  isDemanded: boolean,
): boolean {
  return isDemanded || scheme === "dpop" || (jkt !== undefined && scheme === "bearer");
}

/**
 * Checks that the call has proven the key of its session, where it has to:
 *
 * | the token came as | bound to a key | not bound |
 * |---|---|---|
 * | `DPoP` | needs a proof by that key, which names the token | refused |
 * | `Session` | refused if the policy demands a proof | refused if the policy demands a proof |
 * | `Bearer` | refused | refused if the policy demands a proof |
 * | a cookie | refused if the policy demands a proof | refused if the policy demands a proof |
 *
 * @throws SessionError `unauthorized`, or `forbidden` if the session has no key to prove
 */
export async function checkKey(
  { proofs, engine, isDemanded }: KeyDemand,
  call: ProofRequest,
  { jkt, sid: sessionId }: TokenClaims,
): Promise<void> {
  const { scheme, bearer } = call.presented;
  // A browser proves its key (DBSC) for refreshes alone.
  if ((jkt === undefined || scheme === undefined) && scheme !== "dpop") {
    if (!isDemanded) {
      return;
    }
    throw new SessionError("forbidden", "PROOF_REQUIRED", {
      message:
        "this call requires a proof by the key of its session, on each call; sign in with a client that sends proofs (DPoP), with tokens in headers",
      sessionId,
    });
  }
  if (jkt === undefined) {
    const why = "The access token is not bound to a key; send it as Bearer.";
    throw await proofError(engine, "PROOF_INVALID", why, sessionId);
  }
  const proven = scheme === "dpop" ? await proofs.prove(engine, call, bearer) : undefined;
  if (proven === undefined) {
    const why =
      "The call needs a proof by the key of its session; send the access token by the scheme DPoP, with a proof.";
    throw await proofError(engine, "PROOF_REQUIRED", why, sessionId);
  }
  if (proven !== jkt) {
    throw new SessionError("unauthorized", "PROOF_INVALID", {
      message: "the session is bound to another key than the call has proven; sign in again",
      sessionId,
    });
  }
}

/** The error of a call without a proof that is valid now, with a nonce for the next one. */
export async function proofError(
  { nonces, revocations }: Freshness,
  reason: "PROOF_REQUIRED" | "PROOF_INVALID" | "PROOF_NONCE",
  message: string,
  sessionId?: string,
): Promise<SessionError> {
  const proofNonce = await nonces?.mint(revocations.storeNow());
  return new SessionError("unauthorized", reason, {
    message,
    ...(sessionId === undefined ? {} : { sessionId }),
    ...(proofNonce === undefined ? {} : { proofNonce }),
  });
}
