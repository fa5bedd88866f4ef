import { type MockInstance, vi } from "vitest";
import { nodeCrypto } from "../../src/base/crypto.ts";

/** Counts the signatures that are computed for tokens. */
export function spyOnVerify(): MockInstance {
  if (nodeCrypto === undefined) {
    throw new Error("these tests run on Node");
  }
  return vi.spyOn(nodeCrypto, "verify");
}
