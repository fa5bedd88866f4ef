import type { Clock } from "../clock.ts";
import type { SessionStore } from "./store.ts";

/** Tells the store that a generation is in use: once per generation and process, in the background. */
export interface Confirmations {
  /**
   * Takes note of a use. Never waits and never fails; what could not be written is tried again by a
   * later use.
   */
  used(session: string, generation: number): void;
  /** Waits until nothing is under way, but no longer than two seconds. */
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
/** Writes under way at most; a use beyond them is left to a later one. */
const underWayMax = 1_000;
/** Milliseconds until a use is tried again that was too early by the store's clock, or failed. */
const againAfter = 5_000;
/** Milliseconds that `settled` waits at most. */
const settledWithin = 2_000;

export function createConfirmations(options: ConfirmationsOptions): Confirmations {
  return new BackgroundConfirmations(options);
}

class BackgroundConfirmations implements Confirmations {
  readonly #options: ConfirmationsOptions;
  // By "session.generation": when to try again; Infinity once it is done.
  #young = new Map<string, number>();
  #old = new Map<string, number>();
  readonly #underWay = new Map<string, Promise<void>>();

  constructor(options: ConfirmationsOptions) {
    this.#options = options;
  }

  used(session: string, generation: number): void {
    const key = `${session}.${generation}`;
    const tryAgainAt = this.#young.get(key) ?? this.#old.get(key) ?? 0;
    if (tryAgainAt === Number.POSITIVE_INFINITY) {
      return;
    }
    const now = this.#options.clock.monotonic();
    const held = this.#underWay.has(key) || this.#underWay.size >= underWayMax;
    if (now < tryAgainAt || held) {
      return;
    }
    this.#remember(key, now + againAfter);
    const work = this.#confirm(key, session, generation);
    this.#underWay.set(key, work);
    void work.then(() => this.#underWay.delete(key));
  }

  async settled(): Promise<void> {
    let cancel = (): void => {};
    const late = new Promise<void>((resolve) => {
      cancel = this.#options.clock.after(settledWithin, resolve, true);
    });
    await Promise.race([Promise.all(this.#underWay.values()), late]);
    cancel();
  }

  async #confirm(key: string, session: string, generation: number): Promise<void> {
    const { store, settle } = this.#options;
    try {
      if (await store.confirm(session, generation, settle)) {
        this.#remember(key, Number.POSITIVE_INFINITY);
      }
    } catch {
      // The call that used the token goes on; a later one tries again.
    }
  }

  #remember(key: string, tryAgainAt: number): void {
    if (this.#young.size >= rememberedMax / 2) {
      this.#old = this.#young;
      this.#young = new Map();
    }
    this.#young.set(key, tryAgainAt);
  }
}
