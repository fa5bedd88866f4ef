import { base64Encode } from "@bufbuild/protobuf/wire";
import { Code, ConnectError } from "@connectrpc/connect";

/**
 * Where the key pair of a client is kept. A failure of the store is an outage: calls that need a proof
 * fail with Unavailable, and the session is kept.
 */
export interface DpopKeyStore {
  /** Returns the pair, or undefined if there is none. */
  load(): CryptoKeyPair | undefined | Promise<CryptoKeyPair | undefined>;
  /** Keeps the pair, unless another one has been saved meanwhile: then it keeps that one. */
  save(pair: CryptoKeyPair): void | Promise<void>;
}

/** The request that a proof names. */
export interface ProofTarget {
  readonly htm: string;
  readonly htu: string;
  readonly nonce: string | undefined;
  /** The access token that comes with it; undefined if there is none. */
  readonly accessToken: string | undefined;
  /** Seconds since 1970. */
  readonly iat: number;
}

/** A key that can make proofs. */
export interface Prover {
  /** RFC 7638, SHA-256, base64url. */
  readonly thumbprint: string;
  /** Makes a proof of possession (RFC 9449 section 4.2). */
  prove(target: ProofTarget): Promise<string>;
}

const ecdsa = { name: "ECDSA", namedCurve: "P-256" } as const;

/** Reads the key from its store once, and makes it if there is none. */
export class StoredKey {
  readonly #store: DpopKeyStore;
  #reading: Promise<Prover> | undefined;

  constructor(store: DpopKeyStore) {
    this.#store = store;
  }

  /** @throws ConnectError Unavailable if the store fails; the next call asks it again */
  prover(): Promise<Prover> {
    this.#reading ??= this.#read().catch((cause: unknown) => {
      this.#reading = undefined;
      throw new ConnectError(
        "the key store has not returned the key of this client; try again",
        ...([Code.Unavailable, undefined, undefined, cause] as const),
      );
    });
    return this.#reading;
  }

  async #read(): Promise<Prover> {
    let pair = await this.#store.load();
    if (pair === undefined) {
      const made = await crypto.subtle.generateKey(ecdsa, false, ["sign", "verify"]);
      await this.#store.save(made);
      // Another tab may have saved one first.
      pair = (await this.#store.load()) ?? made;
    }
    assertPair(pair);
    return proverOf(pair);
  }
}

/** @throws TypeError if it is not a key pair for ES256 */
export function assertPair(pair: CryptoKeyPair): void {
  const isCurve = ({ algorithm }: CryptoKey): boolean =>
    algorithm.name === ecdsa.name && (algorithm as EcKeyAlgorithm).namedCurve === ecdsa.namedCurve;
  const isPair =
    pair?.privateKey?.type === "private" &&
    pair.publicKey?.type === "public" &&
    isCurve(pair.privateKey) &&
    isCurve(pair.publicKey) &&
    pair.privateKey.usages.includes("sign");
  if (!isPair) {
    throw new TypeError(
      'keys must be a CryptoKeyPair for ECDSA with the curve P-256 and the usage "sign", or a store { load, save }',
    );
  }
}

async function proverOf({ publicKey, privateKey }: CryptoKeyPair): Promise<Prover> {
  const { kty, crv, x, y } = await crypto.subtle.exportKey("jwk", publicKey);
  const head = encodeJson({ typ: "dpop+jwt", alg: "ES256", jwk: { kty, crv, x, y } });
  return {
    // The members of the key in the order of RFC 7638 section 3.2.
    thumbprint: await hash(JSON.stringify({ crv, kty, x, y })),
    async prove({ htm, htu, nonce, accessToken, iat }) {
      const claims = {
        ...{ jti: newId(), htm, htu, iat, nonce },
        ath: accessToken && (await hash(accessToken)),
      };
      const signed = `${head}.${encodeJson(claims)}`;
      const how = { name: ecdsa.name, hash: "SHA-256" };
      const signature = await crypto.subtle.sign(how, privateKey, bytesOf(signed));
      return `${signed}.${encode(new Uint8Array(signature))}`;
    },
  };
}

/** 128 random bits. Pages without https have no `randomUUID`. */
function newId(): string {
  return encode(crypto.getRandomValues(new Uint8Array(16)));
}

async function hash(text: string): Promise<string> {
  return encode(new Uint8Array(await crypto.subtle.digest("SHA-256", bytesOf(text))));
}

function bytesOf(text: string): Uint8Array<ArrayBuffer> {
  return new TextEncoder().encode(text);
}

function encodeJson(value: object): string {
  return encode(bytesOf(JSON.stringify(value)));
}

function encode(bytes: Uint8Array): string {
  return base64Encode(bytes, "url");
}

/** Keeps the key in IndexedDB, where it stays a key that cannot be exported; elsewhere in memory. */
export function defaultKeyStore(): DpopKeyStore {
  const { indexedDB: database } = globalThis as { readonly indexedDB?: IDBFactory };
  return database === undefined ? memoryKeys() : new DatabaseKeys(database);
}

export function memoryKeys(pair?: CryptoKeyPair): DpopKeyStore {
  let kept = pair;
  return {
    load: () => kept,
    save(made) {
      kept ??= made;
    },
  };
}

const place = { database: "rpc-session-dpop", store: "keys", key: "current" } as const;

class DatabaseKeys implements DpopKeyStore {
  readonly #factory: IDBFactory;

  constructor(factory: IDBFactory) {
    this.#factory = factory;
  }

  load(): Promise<CryptoKeyPair | undefined> {
    return this.#run("readonly", (keys) => keys.get(place.key));
  }

  async save(pair: CryptoKeyPair): Promise<void> {
    // One transaction, so that of two tabs one finds the key of the other.
    await this.#run("readwrite", (keys) => {
      const count = keys.count(place.key);
      count.onsuccess = () => {
        if (count.result === 0) {
          keys.put(pair, place.key);
        }
      };
      return count;
    });
  }

  async #run<T>(
    mode: IDBTransactionMode,
    work: (keys: IDBObjectStore) => IDBRequest<T>,
  ): Promise<T> {
    const opening = this.#factory.open(place.database, 1);
    opening.onupgradeneeded = () => {
      opening.result.createObjectStore(place.store);
    };
    const database = await new Promise<IDBDatabase>((resolve, reject) => {
      opening.onsuccess = () => resolve(opening.result);
      opening.onerror = () => reject(opening.error);
    });
    try {
      const transaction = database.transaction(place.store, mode);
      const request = work(transaction.objectStore(place.store));
      await new Promise<void>((resolve, reject) => {
        transaction.oncomplete = () => resolve();
        transaction.onabort = () => reject(transaction.error);
      });
      return request.result;
    } finally {
      database.close();
    }
  }
}
