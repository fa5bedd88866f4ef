import type { Clock } from "../base/clock.ts";
import type { SessionTelemetry } from "../base/telemetry.ts";
import type { JsonWebKeySet } from "./jwk.ts";
import { type KeySet, keysOf, readKeySet } from "./jwk-set.ts";
import { type Fetch, RemoteKeys } from "./remote-keys.ts";
import type { KeyFinder } from "./verifier.ts";

/** Where the keys of another issuer come from. */
export interface IssuerKeysOptions {
  /** The URL where the issuer publishes its keys, or the key set itself, which then never changes. */
  readonly jwks: string | URL | JsonWebKeySet;
  /** Default: the global `fetch`. */
  readonly fetch?: Fetch | undefined;
  readonly clock: Clock;
  /** How far `iat` may lie in the future, in milliseconds. */
  readonly clockSkew: number;
  /** Default: nothing is observed. */
  readonly telemetry?: SessionTelemetry | undefined;
}

/** The keys of another issuer. */
export interface IssuerKeys extends KeyFinder {
  /** Fetches the keys now instead of on first use. @throws SessionError `unavailable` */
  ready(): Promise<void>;
}

/**
 * Finds the keys of another issuer. Nothing is fetched until they are needed.
 * @throws TypeError if the URL is not safe, or the value is not a key set
 */
export function keysOfIssuer({ jwks, ...options }: IssuerKeysOptions): IssuerKeys {
  if (typeof jwks === "string" || jwks instanceof URL) {
    return new RemoteKeys({
      ...options,
      url: readJwksUrl(jwks),
      // The global is read at each call, so that a test or an agent may still replace it.
      fetch: options.fetch ?? ((url, init) => fetch(url, init)),
    });
  }
  keysOf(jwks);
  const opener = new Opener<KeySet>(() => readKeySet(jwks));
  return {
    async ready() {
      await opener.get();
    },
    find: (kid) => opener.value?.get(kid) ?? opener.get().then((set) => set.get(kid)),
  };
}

/** Opens a value once for all who ask for it; after a failure the next caller tries again. */
class Opener<T> {
  readonly #open: () => Promise<T>;
  #opening: Promise<T> | undefined;
  #value: T | undefined;

  constructor(open: () => Promise<T>) {
    this.#open = open;
  }

  /** The value, if it is open. */
  get value(): T | undefined {
    return this.#value;
  }

  get(): Promise<T> {
    this.#opening ??= this.#open().then(
      (value) => {
        this.#value = value;
        return value;
      },
      (error: unknown) => {
        this.#opening = undefined;
        throw error;
      },
    );
    return this.#opening;
  }
}

/** Names and addresses of this machine (RFC 6761 section 6.3). */
const localHosts: ReadonlySet<string> = new Set(["localhost", "127.0.0.1", "[::1]"]);

function readJwksUrl(jwks: string | URL): string {
  const url = URL.canParse(String(jwks)) ? new URL(jwks) : undefined;
  const isSafe =
    url?.protocol === "https:" || (url?.protocol === "http:" && localHosts.has(url.hostname));
  if (url === undefined || !isSafe || url.username !== "" || url.password !== "") {
    throw new TypeError(
      'jwks must be an https URL without credentials, such as "https://api.example.com/.well-known/jwks.json", or a JWK set; http is allowed for localhost only',
    );
  }
  return url.href;
}
