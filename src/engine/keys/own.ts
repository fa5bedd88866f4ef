import type { JWK } from "jose";
import { SessionError, unavailable } from "../../base/errors.ts";
import { publicHalf } from "../../jwt/jwk.ts";
import {
  es256FromDer,
  importSigningKey,
  importVerificationKey,
  isSignature,
  type RemoteSigningKey,
  readPem,
  type SigningKey,
  signWith,
  type VerificationKey,
} from "../../jwt/keys.ts";
import { assertAlgorithm, isRemoteSigner, type KeyPlan, type RemoteSigner } from "./plan.ts";
import type { SigningKeys } from "./stored.ts";

type OwnKeyPlan = KeyPlan & { readonly kind: "own" };

/** The keys that the options gave: nothing is stored, and nothing rotates. */
export class OwnSigningKeys implements SigningKeys {
  readonly #plan: OwnKeyPlan;
  #imported: ImportedKeys | undefined;

  constructor(plan: OwnKeyPlan) {
    this.#plan = plan;
  }

  async open(): Promise<void> {
    this.#imported ??= await importKeys(this.#plan);
  }

  async signer(): Promise<SigningKey | RemoteSigningKey> {
    return this.#keys.signer;
  }

  find(kid: string): VerificationKey | undefined {
    return this.#keys.byKid.get(kid);
  }

  async published(): Promise<readonly JWK[]> {
    return this.#keys.published;
  }

  async removeDead(): Promise<void> {}

  async reload(): Promise<void> {}

  async states(): Promise<readonly never[]> {
    return [];
  }

  async rotate(): Promise<never> {
    throw notGenerated();
  }

  async retire(): Promise<never> {
    throw notGenerated();
  }

  async settled(): Promise<void> {}

  get #keys(): ImportedKeys {
    if (this.#imported === undefined) {
      throw unavailable("the signing keys could not be loaded; try again");
    }
    return this.#imported;
  }
}

function notGenerated(): TypeError {
  return new TypeError(
    "the signing keys are those of the option keys; to rotate or retire one, change keys.signing and keys.verification on every server",
  );
}

interface ImportedKeys {
  readonly signer: SigningKey | RemoteSigningKey;
  readonly byKid: ReadonlyMap<string, VerificationKey>;
  readonly published: readonly JWK[];
}

/** A verification key, and the JWK that publishes it. */
interface PublicKey {
  readonly key: VerificationKey;
  readonly jwk: JWK;
}

/** @throws TypeError that names the option at fault */
async function importKeys(plan: OwnKeyPlan): Promise<ImportedKeys> {
  const { signing, verification, algorithm } = plan;
  const own = await named("keys.signing", () =>
    isRemoteSigner(signing) ? importRemote(signing) : importLocal(signing, algorithm),
  );
  const others = await Promise.all(
    verification.map((key, i) => named(`keys.verification[${i}]`, () => importPublic(key))),
  );
  const all = [own.verification, ...others];
  const byKid = new Map(all.map(({ key }) => [key.kid, key]));
  if (byKid.size < all.length) {
    throw new TypeError('two keys have the same "kid"; remove one of them or rename it');
  }
  return { signer: own.signer, byKid, published: all.map(({ jwk }) => jwk) };
}

interface OwnSigner {
  readonly signer: SigningKey | RemoteSigningKey;
  readonly verification: PublicKey;
}

async function importLocal(
  key: JWK | string,
  algorithm: OwnKeyPlan["algorithm"],
): Promise<OwnSigner> {
  const jwk = typeof key === "string" ? await readPem(key, "sign") : key;
  const signer = await importSigningKey(jwk);
  assertAlgorithm(signer.alg, algorithm);
  const verification = await importPublic(publicHalf(jwk, signer));
  const probe = crypto.getRandomValues(new Uint8Array(32));
  if (!(await isSignature(verification.key, probe, await signWith(signer, probe)))) {
    throw new TypeError("the private and the public half of the key do not match");
  }
  return { signer, verification };
}

async function importRemote(remote: RemoteSigner): Promise<OwnSigner> {
  const { kid = remote.publicJwk.kid } = remote;
  const named = kid === undefined ? remote.publicJwk : { ...remote.publicJwk, kid };
  const verification = await importPublic(named);
  const { key } = verification;
  const signer: RemoteSigningKey = {
    kid: key.kid,
    alg: key.alg,
    sign: (data) => signRemotely(remote, key, data),
  };
  return { signer, verification };
}

async function importPublic(key: JWK | string): Promise<PublicKey> {
  const jwk = typeof key === "string" ? await readPem(key, "verify") : key;
  const imported = await importVerificationKey(jwk);
  return { key: imported, jwk: publicHalf(jwk, imported) };
}

async function signRemotely(
  remote: RemoteSigner,
  key: VerificationKey,
  data: Uint8Array<ArrayBuffer>,
): Promise<Uint8Array> {
  let answer: Uint8Array;
  try {
    answer = await remote.sign(data);
  } catch (cause) {
    throw unavailable("the signing key could not be used; try again", cause);
  }
  const signature = key.alg === "ES256" ? es256FromDer(answer) : Uint8Array.from(answer);
  if (!(await isSignature(key, data, signature))) {
    throw new SessionError("general", "INTERNAL", {
      message:
        "a signature made by keys.signing does not verify with its publicJwk; check that both belong to the same key",
    });
  }
  return signature;
}

/** Prefixes the error messages of `read` with the name of the option. */
async function named<T>(option: string, read: () => Promise<T>): Promise<T> {
  try {
    return await read();
  } catch (error) {
    throw error instanceof TypeError
      ? new TypeError(`${option}: ${error.message}`, { cause: error })
      : error;
  }
}
