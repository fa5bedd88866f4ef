import type { Clock } from "../../base/clock.ts";
import type { TokenClaims } from "../../jwt/claims.ts";
import type { SessionStore } from "../store.ts";
import { parseRefreshToken } from "./format.ts";
import { showsReceipt } from "./rule.ts";

interface ConfirmationsOptions {
  readonly store: SessionStore;
  readonly clock: Clock;
  /** Milliseconds since a refresh token was sent, by the store's clock, before it is confirmed. */
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
   * Notes a use, unless it does not show that its client holds the refresh token. Never waits and
   * never fails; a write that failed is repeated by a later use.
   */
  used({ sid: session, gen: generation, transport }: Use, refreshCookies: readonly string[]): void {
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
    // Last, because it has to be done at each use until the generation is confirmed.
    const use = { transport, generation };
    if (!showsReceipt(use, generationsOf(session, refreshCookies))) {
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

type Use = Pick<TokenClaims, "sid" | "gen" | "transport">;

/** The generations of a session that refresh cookies name. */
function generationsOf(session: string, cookies: readonly string[]): readonly number[] {
  return cookies.flatMap((cookie) => {
    const named = parseRefreshToken(cookie);
    return named?.session === session ? [named.generation] : [];
  });
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
