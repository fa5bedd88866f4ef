import {
  openSecretRing,
  readSecretOption,
  type SecretOption,
  type SecretRing,
} from "../base/secrets.ts";
import type { SessionStore } from "./store.ts";

/** Where secrets come from. */
export interface SecretsSource {
  readonly issuer: string;
  readonly store: SessionStore;
  readonly secret: SecretOption | undefined;
}

/** The secrets that were given, or else the one that the store keeps. */
export async function openSecrets({ issuer, store, secret }: SecretsSource): Promise<SecretRing> {
  const found = secret ?? (await store.secret?.());
  if (found === undefined) {
    throw new TypeError(`secret: ${store.name} keeps none; give one of at least 32 bytes`);
  }
  return openSecretRing(readSecretOption(found), issuer);
}
