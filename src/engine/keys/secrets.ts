import {
  openSecretRing,
  readSecretOption,
  type SecretKeys,
  type SecretOption,
  type SecretRing,
} from "../../base/crypto.ts";
import type { SessionEventListener } from "../../base/events.ts";
import type { SessionStore } from "../store.ts";

interface SecretsOptions {
  readonly issuer: string;
  readonly store: SessionStore;
  readonly secret: SecretOption | undefined;
}

/** The secrets that were given or, without any, the one that the store keeps. */
export class EngineSecrets implements SecretRing {
  readonly #options: SecretsOptions;
  /** Set by `open`. */
  current!: SecretKeys;
  /** Empty before `open`. */
  byId: ReadonlyMap<string, SecretKeys> = new Map();

  constructor(options: SecretsOptions) {
    this.#options = options;
  }

  async open(): Promise<void> {
    const { issuer, store, secret } = this.#options;
    const found = secret ?? (await store.secret?.());
    if (found === undefined) {
      throw new TypeError(
        `secret is missing and ${store.name} does not keep one; pass at least 32 random bytes`,
      );
    }
    const { current, byId } = await openSecretRing(readSecretOption(found), issuer);
    this.current = current;
    this.byId = byId;
  }
}

/**
 * Unknown secret ids that are remembered. At this number the memory is cleared, so that invented ids
 * cannot suppress later events for good.
 */
const unknownSecretsMax = 100;

/** Drops `unknownSecret` events except the first one for each secret. */
export function oncePerSecret(emit: SessionEventListener): SessionEventListener {
  const reported = new Set<string>();
  return (event) => {
    if (event.type !== "unknownSecret") {
      emit(event);
    } else if (!reported.has(event.secretId)) {
      if (reported.size >= unknownSecretsMax) {
        reported.clear();
      }
      reported.add(event.secretId);
      emit(event);
    }
  };
}
