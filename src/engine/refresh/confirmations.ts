import type { Clock } from "../../base/clock.ts";
import type { SessionStore } from "../store.ts";

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

/** Sessions remembered; past it the older half is forgotten, which costs one write each. */
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

/** What is known of a session's newest generation that was used here. */
interface Noted {
  readonly generation: number;
  /** Monotonic milliseconds; Infinity once it is confirmed. */
  readonly tryAgainAt: number;
}

class BackgroundConfirmations implements Confirmations {
  readonly #options: ConfirmationsOptions;
  #young = new Map<string, Noted>();
  #old = new Map<string, Noted>();
  readonly #underWay = new Map<string, Promise<void>>();

  constructor(options: ConfirmationsOptions) {
    this.#options = options;
  }

  used(session: string, generation: number): void {
    const noted = this.#young.get(session) ?? this.#old.get(session);
    const tryAgainAt = againAt(noted, generation);
    if (tryAgainAt === Number.POSITIVE_INFINITY) {
      return;
    }
    const key = `${session}.${generation}`;
    const now = this.#options.clock.monotonic();
    const held = this.#underWay.has(key) || this.#underWay.size >= underWayMax;
    if (now < tryAgainAt || held) {
      return;
    }
    this.#remember(session, { generation, tryAgainAt: now + againAfter });
    const work = this.#confirm(session, generation);
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

  async #confirm(session: string, generation: number): Promise<void> {
    const { store, settle } = this.#options;
    try {
      if (await store.confirm(session, generation, settle)) {
        this.#remember(session, { generation, tryAgainAt: Number.POSITIVE_INFINITY });
      }
    } catch {
      // The call that used the token goes on; a later one tries again.
    }
  }

  #remember(session: string, noted: Noted): void {
    const newest = this.#young.get(session) ?? this.#old.get(session);
    if (newest !== undefined && newest.generation > noted.generation) {
      return;
    }
    if (this.#young.size >= rememberedMax / 2) {
      this.#old = this.#young;
      this.#young = new Map();
    }
    this.#young.set(session, noted);
  }
}

/** Before the newest generation none is confirmed any more: its successor proves that it was used. */
function againAt(noted: Noted | undefined, generation: number): number {
  if (noted === undefined || noted.generation < generation) {
    return 0;
  }
  return noted.generation > generation ? Number.POSITIVE_INFINITY : noted.tryAgainAt;
}
