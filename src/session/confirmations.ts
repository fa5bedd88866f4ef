import type { Clock } from "../clock.ts";
import type { SessionStore } from "./store.ts";

/** Tells the store that a generation is in use: once per generation and process, in the background. */
export interface Confirmations {
  /**
   * Takes note of a use. Never waits and never fails; what could not be written is tried again by a
   * later use.
   */
  used(session: string, generation: number): void;
  /** Waits until nothing is under way. */
  settled(): Promise<void>;
}

/** What confirmations are made of. */
export interface ConfirmationsOptions {
  readonly store: SessionStore;
  readonly clock: Clock;
  /** Milliseconds a generation must be old by the store's clock before it is confirmed. */
  readonly settle: number;
}

/** Generations remembered as done; past it the older half is forgotten, which costs one write each. */
const rememberedMax = 50_000;
/** Milliseconds until a use is tried again that was too early by the store's clock, or failed. */
const againAfter = 5_000;

export function createConfirmations(options: ConfirmationsOptions): Confirmations {
  const { store, clock, settle } = options;
  // By "session.generation": when to try again; Infinity once it is done.
  let young = new Map<string, number>();
  let old = new Map<string, number>();
  const underWay = new Set<Promise<void>>();

  const remember = (key: string, tryAgainAt: number): void => {
    if (young.size >= rememberedMax / 2) {
      old = young;
      young = new Map();
    }
    young.set(key, tryAgainAt);
  };

  return {
    used(session, generation) {
      const key = `${session}.${generation}`;
      const tryAgainAt = young.get(key) ?? old.get(key);
      if (tryAgainAt !== undefined && clock.monotonic() < tryAgainAt) {
        return;
      }
      remember(key, clock.monotonic() + againAfter);
      const work = store
        .confirm(session, generation, settle)
        .then((done) => {
          if (done) {
            remember(key, Number.POSITIVE_INFINITY);
          }
        })
        .catch(() => {
          // The call that used the token goes on; a later one tries again.
        })
        .finally(() => underWay.delete(work));
      underWay.add(work);
    },
    async settled() {
      await Promise.all(underWay);
    },
  };
}
