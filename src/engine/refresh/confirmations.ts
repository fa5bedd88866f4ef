import type { Clock } from "../../base/clock.ts";
import type { SessionStore } from "../store.ts";

interface ConfirmationsOptions {
  readonly store: SessionStore;
  readonly clock: Clock;
  /** Milliseconds. A generation must be this old, by the store's clock, before it is confirmed. */
  readonly settle: number;
}

/** Sessions that are remembered. Beyond it the older half is forgotten, at the cost of a write each. */
const rememberedMax = 50_000;
/** Concurrent writes, at most; a use beyond them is left to a later one. */
const underWayMax = 1_000;
/** Milliseconds until a use is tried again that failed, or was too early by the store's clock. */
const againAfter = 5_000;
/** Milliseconds that `settled` waits, at most. */
const settledWithin = 2_000;

/**
 * Confirms in the store, in the background, that a generation is in use: once per generation and
 * process.
 */
export class Confirmations {
  readonly #options: ConfirmationsOptions;
  #young = new Map<string, Noted>();
  #old = new Map<string, Noted>();
  readonly #underWay = new Map<string, Promise<void>>();

  constructor(options: ConfirmationsOptions) {
    this.#options = options;
  }

  /**
   * Notes a use. Never waits and never fails; a write that failed is repeated by a later use.
   */
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

  /** Waits until no write is in progress, for two seconds at most. */
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
      // The call that used the token continues; a later one tries again.
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

/** The newest generation of a session that was used here. */
interface Noted {
  readonly generation: number;
  /** Monotonic milliseconds; Infinity once it is confirmed. */
  readonly tryAgainAt: number;
}

/** Older generations need no confirmation: the existence of a newer one proves that they were used. */
function againAt(noted: Noted | undefined, generation: number): number {
  if (noted === undefined || noted.generation < generation) {
    return 0;
  }
  return noted.generation > generation ? Number.POSITIVE_INFINITY : noted.tryAgainAt;
}
