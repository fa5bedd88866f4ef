import type { Clock } from "../base/clock.ts";

/** Options of {@link Gathering}. */
interface GatheringOptions<Write, Result> {
  readonly clock: Clock;
  /** Does one write. It may wait for others, for example for a lock. */
  readonly one: (write: Write) => Promise<Result>;
  /**
   * Does many writes, and waits for no lock. Returns their results in the same order; undefined for a
   * write that `one` must do.
   */
  readonly many: (writes: readonly Write[]) => Promise<readonly (Result | undefined)[]>;
}

/** Statements under way, beyond which writes are gathered. */
const atOnce = 2;
/** Writes in one statement. */
const batchMax = 100;
/** Milliseconds that a write waits for others to end. One of those may wait for a lock. */
const waitAtMost = 50;

/**
 * Gathers writes while others are under way, so that one statement does many of them. A write that comes
 * alone is done at once, as if there were no gathering.
 */
export class Gathering<Write, Result> {
  readonly #options: GatheringOptions<Write, Result>;
  #waiting: Waiting<Write, Result>[] = [];
  #underWay = 0;
  #cancelTimer: (() => void) | undefined;

  constructor(options: GatheringOptions<Write, Result>) {
    this.#options = options;
  }

  /** Does a write, alone or together with others. */
  add(write: Write): Promise<Result> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ write, resolve, reject });
      this.#schedule();
    });
  }

  #schedule(): void {
    if (this.#waiting.length === 0) {
      return;
    }
    if (this.#underWay < atOnce) {
      void this.#next();
    } else {
      this.#cancelTimer ??= this.#options.clock.after(waitAtMost, () => void this.#next());
    }
  }

  /** Does what waits. */
  async #next(): Promise<void> {
    this.#cancelTimer?.();
    this.#cancelTimer = undefined;
    const writes = this.#waiting.splice(0, batchMax);
    this.#underWay++;
    this.#schedule();
    const [first] = writes;
    await (writes.length === 1 && first !== undefined ? this.#one(first) : this.#many(writes));
    this.#underWay--;
    this.#schedule();
  }

  async #one({ write, resolve, reject }: Waiting<Write, Result>): Promise<void> {
    await this.#options.one(write).then(resolve, reject);
  }

  async #many(writes: readonly Waiting<Write, Result>[]): Promise<void> {
    try {
      const results = await this.#options.many(writes.map(({ write }) => write));
      for (const [index, waiting] of writes.entries()) {
        const result = results[index];
        if (result === undefined) {
          // Nobody waits for it: it may wait for a lock.
          void this.#one(waiting);
        } else {
          waiting.resolve(result);
        }
      }
    } catch (error) {
      for (const { reject } of writes) {
        reject(error);
      }
    }
  }
}

interface Waiting<Write, Result> {
  readonly write: Write;
  readonly resolve: (result: Result) => void;
  readonly reject: (error: unknown) => void;
}
