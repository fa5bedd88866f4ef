import type { Clock } from "../../base/clock.ts";
import type { TokenClaims } from "../../jwt/claims.ts";
import { maxAccessLife } from "../lifetimes.ts";
import type { GenerationUse, SessionStore } from "../store.ts";
import { parseRefreshToken } from "./format.ts";
import { Generations } from "./generations.ts";
import { neededAge, showsReceipt } from "./rule.ts";

interface ConfirmationsOptions {
  readonly store: SessionStore;
  readonly clock: Clock;
  /** Milliseconds since a refresh token was sent, by the store's clock, before it is confirmed. */
  readonly settle: number;
}

/** Sessions whose confirmed generation is remembered, in up to 96 MB. Beyond it, half are forgotten. */
const rememberedMax = 4_000_000;
/** Uses that wait for the next write; those beyond are left to a later use. */
const waitingMax = 100_000;
/** So many uses are written without waiting for more. */
const waitingEnough = 10_000;
/** Uses in one statement. */
const batchMax = 500;
/**
 * Milliseconds for which uses are gathered, from the first one on: between this and twice as long, so that
 * servers that saw the same uses ask at different times. One of them confirms, the others find it done.
 */
const gatherFor = 5_000;
/** Milliseconds until a use is tried again that failed, or was too early by the store's clock. */
const againAfter = 5_000;
/** Milliseconds that `settled` waits, at most. */
const settledWithin = 2_000;

/**
 * Confirms in the store, in the background, that generations are in use. Each process asks once per
 * generation; it gathers what it has to ask for five to ten seconds, and asks for all of it at once.
 */
export class Confirmations {
  readonly #options: ConfirmationsOptions;
  /** The generations that are confirmed, or never can be. */
  readonly #done = new Generations(rememberedMax);
  /** The claims of cached tokens of those generations, for the warm path. */
  #doneTokens = new WeakSet<object>();
  #turnedAt = 0;
  /** The newest use of each session that has not been asked for. */
  #waiting = new Map<string, Waiting>();
  /** The uses that were too early, or whose write failed. */
  #early = new Map<string, Waiting>();
  #cancelTimer: (() => void) | undefined;
  #writing: Promise<void> | undefined;

  constructor(options: ConfirmationsOptions) {
    this.#options = options;
  }

  /**
   * Notes a use, unless it does not show that its client holds the refresh token. Never waits and
   * never fails; a write that failed is repeated by a later use.
   */
  used(use: Use, refreshCookies: readonly string[]): void {
    // 1. Is there anything to confirm? The existence of a newer generation confirms an older one.
    if (this.#doneTokens.has(use)) {
      return;
    }
    const { sid: session, gen: generation, transport } = use;
    if (this.#done.get(session) >= generation) {
      this.#doneTokens.add(use);
      return;
    }
    // 2. Does it wait already, or was it too early just now?
    const waits = (this.#waiting.get(session)?.generation ?? -1) >= generation;
    if (waits || this.#waiting.size >= waitingMax || this.#isEarly(session, generation)) {
      return;
    }
    // 3. Last, because it has to be done at each use until the generation is confirmed.
    if (!showsReceipt({ transport, generation }, generationsOf(session, refreshCookies))) {
      return;
    }
    const now = this.#options.clock.monotonic();
    this.#waiting.set(session, { generation, at: now });
    if (this.#waiting.size === waitingEnough && this.#writing === undefined) {
      void this.#write();
      return;
    }
    this.#cancelTimer ??= this.#options.clock.after(
      gatherFor + scattered(now, gatherFor),
      () => void this.#write(),
    );
  }

  #isEarly(session: string, generation: number): boolean {
    const early = this.#early.get(session);
    return (
      early !== undefined &&
      early.generation >= generation &&
      this.#options.clock.monotonic() < early.at + againAfter
    );
  }

  /** Writes what waits, and waits for it, for two seconds at most. */
  async settled(): Promise<void> {
    let cancel = (): void => {};
    const late = new Promise<void>((resolve) => {
      cancel = this.#options.clock.after(settledWithin, resolve, true);
    });
    await Promise.race([this.#write(), late]);
    cancel();
  }

  /** Writes what waits, after what is being written. */
  async #write(): Promise<void> {
    this.#cancelTimer?.();
    this.#cancelTimer = undefined;
    while (this.#writing !== undefined) {
      await this.#writing;
    }
    const uses = [...this.#waiting];
    if (uses.length > 0) {
      this.#waiting = new Map();
      this.#writing = this.#writeAll(uses);
      await this.#writing;
    }
  }

  async #writeAll(uses: readonly (readonly [string, Waiting])[]): Promise<void> {
    for (let i = 0; i < uses.length; i += batchMax) {
      await this.#confirm(uses.slice(i, i + batchMax));
    }
    this.#writing = undefined;
  }

  async #confirm(uses: readonly (readonly [string, Waiting])[]): Promise<void> {
    const { store, clock, settle } = this.#options;
    const asked = uses.map(
      ([session, { generation, at }]): GenerationUse => ({
        ...{ session, generation, settle: neededAge(settle, clock.monotonic() - at) },
      }),
    );
    let done: readonly boolean[] = [];
    try {
      done = await store.confirm(asked);
    } catch {
      // The calls that used the tokens go on; later ones try again.
    }
    this.#forget();
    for (const [i, [session, use]] of uses.entries()) {
      if (done[i] === true) {
        this.#done.set(session, Math.max(use.generation, this.#done.get(session)));
        this.#early.delete(session);
      } else {
        this.#early.set(session, { ...use, at: clock.monotonic() });
      }
    }
  }

  /** No token of a generation lives longer than this, so that what is older is not asked for again. */
  #forget(): void {
    const now = this.#options.clock.monotonic();
    if (now - this.#turnedAt >= maxAccessLife) {
      this.#turnedAt = now;
      this.#done.turn();
    }
    if (this.#early.size >= waitingMax) {
      this.#early = new Map();
    }
  }
}

type Use = Pick<TokenClaims, "sid" | "gen" | "transport">;

/** A use of a generation. */
interface Waiting {
  readonly generation: number;
  /** Monotonic milliseconds: when it was used, or asked for. */
  readonly at: number;
}

/** The generations of a session that refresh cookies name. */
function generationsOf(session: string, cookies: readonly string[]): readonly number[] {
  return cookies.flatMap((cookie) => {
    const named = parseRefreshToken(cookie);
    return named?.session === session ? [named.generation] : [];
  });
}

/** A whole number below `limit` that looks random, from a time. Unlike a random one, a test can repeat it. */
function scattered(time: number, limit: number): number {
  return (Math.imul(Math.floor(time * 1_000), 0x9e3779b1) >>> 0) % limit;
}
