import type { Advanced, AdvanceWrite, SessionStore } from "../../src/engine/store.ts";
import type { Gates } from "./gates.ts";
import type { Ledgers } from "./ledger.ts";

/** Calls a method that a store need not have. */
export function advanceOf(store: SessionStore, write: AdvanceWrite): Promise<Advanced> {
  if (store.advance === undefined) {
    throw new Error("the store has no method advance");
  }
  return store.advance(write);
}

/** A server's view of the store: every call waits at a gate and may fail; writes are recorded. */
export function watched(store: SessionStore, gates: Gates, ledgers: Ledgers): SessionStore {
  return {
    ...store,
    load: (id) => gates.pass(() => store.load(id)),
    refresh: (write) =>
      gates.pass(async () => {
        const stored = await store.refresh(write);
        ledgers.wrote(write, stored);
        return stored;
      }),
    advance:
      store.advance &&
      ((write) =>
        gates.pass(async () => {
          const stored = await advanceOf(store, write);
          if (stored.advanced) {
            const { id, generation, idle, nextSecretId: secretId } = write;
            ledgers.wrote({ kind: "advance", id, generation, idle, secretId }, stored);
          }
          return stored;
        })),
    confirm: (uses) =>
      gates.pass(async () => {
        const done = await store.confirm(uses);
        for (const { session, generation, settle } of uses) {
          ledgers.confirmed(session, generation, settle);
        }
        return done;
      }),
    revoke: (id, endedBy) =>
      gates.pass(async () => {
        const answer = await store.revoke(id, endedBy);
        ledgers.ended(id, answer.record?.endedBy ?? endedBy);
        return answer;
      }),
  };
}
