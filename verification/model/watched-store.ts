import type { SessionStore } from "../../src/engine/store.ts";
import type { Gates } from "./gates.ts";
import type { Ledgers } from "./ledger.ts";

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
    confirm: (uses) =>
      gates.pass(async () => {
        const done = await store.confirm(uses);
        for (const { session, generation } of uses) {
          ledgers.confirmed(session, generation);
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
