import { base64Decode } from "@bufbuild/protobuf/wire";
import { calculateJwkThumbprint, type JWK } from "jose";
import { encodeBase64url, randomId, type SecretRing } from "../../base/crypto.ts";
import type { JsonObject } from "../../base/json.ts";

/** What a challenge is for. One for the registration is worth nothing at a refresh, and the reverse. */
export type ChallengePurpose = "register" | "refresh";

/**
 * Milliseconds for which a challenge is accepted. A registration begins right after the sign-in, but a
 * slow security chip may take a while. Signed challenges can be kept, so they are good for a short time.
 */
export const challengeLife: Readonly<Record<ChallengePurpose, number>> = {
  register: 300_000,
  refresh: 120_000,
};

/** Milliseconds for which a browser keeps a proof cookie. */
export const proofLife = 600_000;
/** Milliseconds for which the server accepts it longer, so that the browser always misses it first. */
const proofMargin = 60_000;

/** The session and the generation of a refresh token that a proof admits. */
export interface AdmittedToken {
  readonly session: string;
  readonly generation: number;
}

/** The identifier that a browser keeps for a binding. Nothing of it is proven. */
export interface DbscIdentifier {
  /** The lineage of the session, which `reauthenticate` keeps. */
  readonly lineage: string;
  readonly jwk: JsonObject;
  readonly thumbprint: string;
  /** The identifier itself. */
  readonly text: string;
}

const mac = "([\\w-]{42}[AEIMQUYcgkosw048])";
/** `secretId.expiry.random.mac` */
const challengeShape = new RegExp(`^([\\w-]{8})\\.(\\d{1,16}\\.[\\w-]{16})\\.${mac}$`);
/** `secretId.expiry.thumbprint.mac` */
const proofShape = new RegExp(`^([\\w-]{8})\\.(\\d{1,16})\\.([\\w-]{43})\\.${mac}$`);
/** `secretId.key.mac.lineage`; a lineage has dots. */
const identifierShape = new RegExp(`^([\\w-]{8})\\.([\\w-]{20,3000})\\.${mac}\\.([\\w.-]{1,300})$`);

/**
 * The values of Device Bound Session Credentials (W3C): challenges, session identifiers and proof cookies.
 * All are MACs, so that nothing is stored and every server accepts those of the others.
 *
 * The identifier carries the public key. Until the first proof, its MAC shows that the key was registered.
 * From then on the session names the thumbprint of the key, so the identifier outlives its secret.
 */
export class DbscValues {
  readonly #secrets: SecretRing;

  constructor(secrets: SecretRing) {
    this.#secrets = secrets;
  }

  /**
   * @param place the lineage of the session and the origin of the service
   * @param now milliseconds since 1970, by the store's clock
   */
  async challenge(purpose: ChallengePurpose, place: Place, now: number): Promise<string> {
    const { id } = this.#secrets.current;
    // Random, so that no two are the same: each is used once.
    const body = `${Math.floor(now + challengeLife[purpose])}.${randomId(12)}`;
    return `${id}.${body}.${await this.#sign(challengeOf(purpose, place, body))}`;
  }

  /** Whether a challenge is one of these, and has not expired. */
  async isChallenge(
    given: string,
    purpose: ChallengePurpose,
    place: Place,
    now: number,
  ): Promise<boolean> {
    const [, secretId = "", body = "", code = ""] = challengeShape.exec(given) ?? [];
    return (
      now < Number.parseInt(body, 10) &&
      this.#isSigned(secretId, challengeOf(purpose, place, body), code)
    );
  }

  async identifier(lineage: string, jwk: JsonObject): Promise<string> {
    const key = encodeBase64url(JSON.stringify(jwk));
    const code = await this.#sign(["identifier", lineage, key]);
    return `${this.#secrets.current.id}.${key}.${code}.${lineage}`;
  }

  /** Reads an identifier; undefined if it does not have the form of one. */
  async readIdentifier(text: string): Promise<DbscIdentifier | undefined> {
    const [, , key = "", , lineage = ""] = identifierShape.exec(text) ?? [];
    try {
      const jwk = JSON.parse(new TextDecoder().decode(base64Decode(key))) as JsonObject;
      return { lineage, jwk, thumbprint: await calculateJwkThumbprint(jwk as JWK), text };
    } catch {
      return undefined;
    }
  }

  /** Whether a server has made the identifier, so that its key was registered for the session. */
  isRegistered({ text, lineage }: DbscIdentifier): boolean | Promise<boolean> {
    const [, secretId = "", key = "", code = ""] = identifierShape.exec(text) ?? [];
    return this.#isSigned(secretId, ["identifier", lineage, key], code);
  }

  /** Makes a proof cookie: for a while, and for one generation, it stands for a proof by the key. */
  async proof(admitted: AdmittedToken, thumbprint: string, now: number): Promise<string> {
    const expiry = String(Math.floor(now + proofLife + proofMargin));
    const code = await this.#sign(proofOf(admitted, thumbprint, expiry));
    return `${this.#secrets.current.id}.${expiry}.${thumbprint}.${code}`;
  }

  /** Returns the thumbprint of the key that a proof cookie proves; undefined if it admits another token. */
  async provenBy(proof: string, admitted: AdmittedToken, now: number): Promise<string | undefined> {
    const [, secretId = "", expiry = "", thumbprint = "", code = ""] = proofShape.exec(proof) ?? [];
    const isProven =
      now < Number(expiry) &&
      (await this.#isSigned(secretId, proofOf(admitted, thumbprint, expiry), code));
    return isProven ? thumbprint : undefined;
  }

  async #sign(fields: readonly string[]): Promise<string> {
    return encodeBase64url(await this.#secrets.current.dbsc.sign(inputOf(fields)));
  }

  async #isSigned(secretId: string, fields: readonly string[], code: string): Promise<boolean> {
    const keys = this.#secrets.byId.get(secretId);
    return keys !== undefined && (await keys.dbsc.verify(inputOf(fields), base64Decode(code)));
  }
}

/** What a challenge is bound to. */
export interface Place {
  readonly lineage: string;
  readonly origin: string;
}

function challengeOf(purpose: ChallengePurpose, { lineage, origin }: Place, body: string) {
  return ["challenge", purpose, lineage, origin, body];
}

function proofOf({ session, generation }: AdmittedToken, thumbprint: string, expiry: string) {
  return ["proof", session, String(generation), thumbprint, expiry];
}

/** Each field after its length, so that no two lists give the same bytes. */
function inputOf(fields: readonly string[]): string {
  return fields.map((field) => `${field.length}:${field},`).join("");
}
