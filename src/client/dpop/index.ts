import type { Interceptor, Transport } from "@connectrpc/connect";
import { assertMembers } from "../../base/checks.ts";
import { type Clock, systemClock } from "../../base/clock.ts";
import type { TransportParts } from "../options.ts";
import { ClientProofs, provingFetch, provingInterceptor } from "./interceptor.ts";
import { assertPair, type DpopKeyStore, defaultKeyStore, memoryKeys, StoredKey } from "./key.ts";

export type { DpopKeyStore } from "./key.ts";

/** Options of {@link dpopKey}. */
export interface DpopKeyOptions {
  /**
   * The URL of the service that proofs name: the option `bind.url` of the service, or its issuer.
   * Default: the URL that each call is sent to.
   */
  readonly url?: string | URL;
  /** Set it to true if the transport has `useHttpGet: true`: proofs name the method. Default false. */
  readonly useHttpGet?: boolean;
  /**
   * The key pair, for ECDSA with the curve P-256, or where it is kept. Default: a pair that cannot be
   * exported, in IndexedDB where there is one, and in memory elsewhere.
   */
  readonly keys?: CryptoKeyPair | DpopKeyStore;
  /** The source of time. Default: the system clock. */
  readonly clock?: Clock;
}

/** The key of a client, which binds its sessions. */
export interface DpopKey {
  /** Wraps the option `transport` of `createSessionClient`, so that its calls prove the key. */
  transport(create: (parts: TransportParts) => Transport): (parts: TransportParts) => Transport;
  /** The interceptor of `transport`, for a transport that you create yourself. Put it after the session's. */
  readonly interceptor: Interceptor;
  /** The option `fetch` of `sessionFetch`, for requests that are not RPCs. */
  readonly fetch: typeof globalThis.fetch;
  /**
   * Returns the thumbprint of the key (RFC 7638), as in `session.boundKey` of the service.
   *
   * @throws ConnectError Unavailable if the key store fails
   */
  thumbprint(): Promise<string>;
}

/**
 * Creates the key of a client. Its sessions are bound to it (DPoP, RFC 9449): who copies the tokens
 * cannot refresh them. The client proves the key at sign-in, refresh and sign-out, and on calls whose
 * policy asks for it. Other calls cost no signature. It needs a client with tokens in headers.
 *
 * A client that has lost its key is signed out by the next call that is refused, and can sign in.
 *
 * @example
 * const key = dpopKey();
 * const session = createSessionClient({
 *   tokens,
 *   transport: key.transport((parts) => createConnectTransport({ baseUrl, ...parts })),
 * });
 * @throws TypeError for invalid options, or without Web Crypto, which pages have on https and localhost
 */
export function dpopKey(options: DpopKeyOptions = {}): DpopKey {
  assertMembers("dpopKey", options, members);
  const { url, useHttpGet = false, keys, clock = systemClock } = options;
  if (url !== undefined && !/^https?:/.test(protocolOf(url))) {
    throw new TypeError(`url must be the http(s) URL of the service, got ${JSON.stringify(url)}`);
  }
  if (typeof useHttpGet !== "boolean") {
    throw new TypeError(`useHttpGet must be true or false, got ${typeof useHttpGet}`);
  }
  if (globalThis.crypto?.subtle === undefined) {
    throw new TypeError("dpopKey needs Web Crypto; serve the page from https or localhost");
  }
  const key = new StoredKey(readKeys(keys));
  const base = url === undefined ? undefined : String(url).replace(/\/$/, "");
  const proofs = new ClientProofs(key, { base, useHttpGet, clock });
  const interceptor = provingInterceptor(proofs);
  return {
    transport: (create) => (parts) =>
      create({
        ...parts,
        // Read by the factory, so that the client notices one that ignores its parts.
        get interceptors() {
          return [...parts.interceptors, interceptor];
        },
      }),
    interceptor,
    fetch: provingFetch(proofs),
    thumbprint: async () => (await key.prover()).thumbprint,
  };
}

const members: Readonly<Record<keyof DpopKeyOptions, 0>> = {
  ...{ url: 0, useHttpGet: 0, keys: 0, clock: 0 },
};

/** Not URL.canParse, which older browsers do not have. */
function protocolOf(url: string | URL): string {
  try {
    return new URL(url).protocol;
  } catch {
    return "";
  }
}

function readKeys(keys: DpopKeyOptions["keys"]): DpopKeyStore {
  if (keys === undefined) {
    return defaultKeyStore();
  }
  if ("load" in keys && typeof keys.load === "function" && typeof keys.save === "function") {
    return keys;
  }
  const pair = keys as CryptoKeyPair;
  assertPair(pair);
  return memoryKeys(pair);
}
