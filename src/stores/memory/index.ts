import { assertWebCrypto } from "../../base/crypto.ts";
import type { SessionStore } from "../../engine/store.ts";
import { MemoryStore } from "./store.ts";

/**
 * Keeps sessions in the memory of this process: for tests, demos, and single servers that may sign
 * their users out at a restart.
 *
 * - Several engines may share one store. The store uses the clock of the engine that opens it first.
 * - `close` does nothing: there are no connections, and other engines may continue.
 * - `secret` returns 32 random bytes, generated once per store.
 * - Sessions are dropped 24 h after their end, entries of the change log after 2 h.
 *
 * @throws TypeError if the platform has no Web Crypto
 */
export function memoryStore(): SessionStore {
  assertWebCrypto();
  return new MemoryStore();
}
