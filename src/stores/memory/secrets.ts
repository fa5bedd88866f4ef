import type { RecordedSecret, RecordedSecrets, SecretName } from "../../engine/store.ts";
import { maxSecrets } from "../common.ts";

/** The recorded secrets of a memory store. Every method is synchronous, and therefore atomic. */
export class MemorySecrets {
  readonly #byId = new Map<string, RecordedSecret>();

  /** See `SessionStore.recordSecrets`. */
  record(given: readonly SecretName[], now: number): RecordedSecrets {
    for (const { id, issuer } of given) {
      const known = this.#byId.get(id) ?? { id, issuer, deadAt: null };
      this.#byId.set(id, { ...known, seenAt: now });
    }
    return this.#cut(now);
  }

  /** See `SessionStore.retireSecrets`. */
  retire(given: readonly SecretName[], now: number): RecordedSecrets {
    for (const { id, issuer } of given) {
      const known = this.#byId.get(id) ?? { id, issuer, seenAt: now, deadAt: null };
      this.#byId.set(id, { ...known, deadAt: known.deadAt ?? now });
    }
    return this.#cut(now);
  }

  /** Drops what is more than the limit, and returns the others. */
  #cut(now: number): RecordedSecrets {
    const keptFirst = [...this.#byId.values()].sort(
      (a, b) =>
        Number(b.deadAt !== null) - Number(a.deadAt !== null) ||
        (b.deadAt ?? b.seenAt) - (a.deadAt ?? a.seenAt) ||
        byId(a, b),
    );
    for (const { id } of keptFirst.slice(maxSecrets)) {
      this.#byId.delete(id);
    }
    return { secrets: [...this.#byId.values()].sort(byId), now };
  }
}

function byId(a: RecordedSecret, b: RecordedSecret): number {
  return a.id < b.id ? -1 : 1;
}
