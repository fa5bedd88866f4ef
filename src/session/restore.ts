import type { Revocations } from "./revocations.ts";
import type { SigningKeys } from "./signing-keys.ts";
import type { SessionStore } from "./store.ts";

/** What a server needs to bring back what its store has lost. */
export interface RestoreOptions {
  readonly store: SessionStore;
  readonly revocations: Revocations;
  readonly keys: SigningKeys;
}

/**
 * Brings back, after the store has lost changes, what this server knows: signing keys are read
 * again, and made anew where there are none, so that tokens under lost ones are refused; every
 * revocation that still matters is written again. What the store knows stays as it is.
 */
export async function restoreStore({ store, revocations, keys }: RestoreOptions): Promise<void> {
  await keys.open();
  // One after the other: a store that has just come back has enough to do.
  for (const change of [...revocations.all()]) {
    await store.revoke(change.session, change.endedBy);
  }
}
