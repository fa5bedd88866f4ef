import { SessionError, unavailable } from "../base/errors.ts";
import type { KeyPlan } from "./keys/key-plan.ts";
import { createOwnKeys } from "./keys/own-keys.ts";
import { createSigningKeys, type SigningKeys, type SigningKeysOptions } from "./keys/signing-keys.ts";

/**
 * Opens the keys of a plan.
 * @throws SessionError `unavailable`, with what stood in the way as its cause
 */
export async function openKeys(
  plan: KeyPlan,
  options: Omit<SigningKeysOptions, "algorithm" | "rotation">,
): Promise<SigningKeys> {
  const keys =
    plan.kind === "own" ? createOwnKeys(plan) : createSigningKeys({ ...options, ...plan });
  try {
    await keys.open();
  } catch (cause) {
    throw cause instanceof SessionError ? cause : unavailable("the signing keys", cause);
  }
  return keys;
}
