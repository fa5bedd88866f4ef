import { ConnectError } from "@connectrpc/connect";
import { race } from "../call/deadline.ts";
import { notify } from "../events.ts";
import { Backoff } from "../refresh/backoff.ts";
import { type Hint, hintOf, isInterruption, retryAfterOf } from "../refresh/hint.ts";
import type { SessionCore } from "../state/core.ts";

/** What there is to know of a stream that failed. */
export interface FailedStream {
  /** When it was opened; monotonic milliseconds. */
  readonly at: number;
  /** The version of the session's tokens then. */
  readonly version: number;
}

/** How long a {@link Recovery} goes on. */
export interface RecoveryOptions {
  readonly signal: AbortSignal;
  /** Milliseconds that a row of failures may take. */
  readonly giveUpAfter: number;
  readonly onInterrupted: (error: ConnectError, retryIn: number) => void;
}

/** A stream that stands for so long, in milliseconds, is no longer one of a row of failures. */
const standing = 30_000;
const pauses = { first: 500, longest: 30_000, jitter: 0.5 };

/** Decides whether, and when, a stream that failed is opened again. */
export class Recovery {
  readonly #core: SessionCore;
  readonly #options: RecoveryOptions;
  readonly #backoff: Backoff;
  /** When the row of failures began; undefined while there is none. */
  #failingSince: number | undefined;
  /** Whether a stream has ended for its token's age since the last progress. */
  #refreshed = false;

  constructor(core: SessionCore, options: RecoveryOptions) {
    this.#core = core;
    this.#options = options;
    this.#backoff = new Backoff(core.options.clock, pauses);
  }

  /** A message came, or a stream stood for long. */
  progress(): void {
    this.#backoff.reset();
    this.#failingSince = undefined;
    this.#refreshed = false;
  }

  /**
   * Returns when the stream shall be opened again.
   * @throws what the caller shall see otherwise
   */
  async from(error: unknown, stream: FailedStream): Promise<void> {
    if (!(error instanceof ConnectError)) {
      throw error;
    }
    if (this.#core.options.clock.monotonic() - stream.at >= standing) {
      this.progress();
    }
    const hint = hintOf(error, this.#core.local.realm);
    if (hint?.action === "refresh") {
      await this.#refresh(error, hint, stream);
    } else if (isInterruption(error)) {
      await this.#pause(error);
    } else {
      throw error;
    }
  }

  async #refresh(error: ConnectError, hint: Hint, { version }: FailedStream): Promise<void> {
    const { local, refresher } = this.#core;
    const isAgain = this.#refreshed;
    this.#refreshed = true;
    if (local.version === version) {
      if (!refresher.can(hint)) {
        throw error;
      }
      const outcome = await race(refresher.run(), this.#options.signal);
      if (outcome.type === "failed" && !isInterruption(outcome.error)) {
        throw outcome.error;
      }
      if (outcome.type === "failed") {
        return this.#pause(outcome.error);
      }
    }
    // A fresh token that ages at once would go round in circles.
    if (isAgain) {
      await this.#pause(error);
    }
  }

  async #pause(error: ConnectError): Promise<void> {
    const { clock } = this.#core.options;
    const { giveUpAfter, onInterrupted, signal } = this.#options;
    const now = clock.monotonic();
    this.#failingSince ??= now;
    const ms = Math.max(this.#backoff.failed(), retryAfterOf(error));
    if (now + ms - this.#failingSince > giveUpAfter) {
      throw error;
    }
    // What it throws is no concern of the stream.
    notify([(wait: number) => onInterrupted(error, wait)], ms);
    const { promise, resolve } = Promise.withResolvers<void>();
    const cancel = clock.after(ms, resolve, true);
    try {
      await race(promise, signal);
    } finally {
      cancel();
    }
  }
}

/** Milliseconds between two tries, at least. */
const soonest = 5_000;
const unknownLife = 60_000;

/**
 * Refreshes ahead of the access token's end for as long as somebody needs it without calling: when
 * an open stream ends with its token, the next one opens at once.
 *
 * @returns a function that stops it
 */
export function refreshAhead({ local, refresher, options }: SessionCore): () => void {
  let cancel = (): void => {};
  let stopped = false;
  const wait = (least = 0): void => {
    const dueIn = local.dueIn(options.earlyRefresh) ?? unknownLife;
    cancel = options.clock.after(Math.max(dueIn, least), look);
  };
  const look = (): void => {
    const isDue = (local.dueIn(options.earlyRefresh) ?? 1) <= 0;
    const refreshed = isDue && refresher.can() ? refresher.runEarly() : undefined;
    // Whether it succeeded or not: not again at once.
    void Promise.resolve(refreshed).then(() => {
      if (!stopped) {
        wait(soonest);
      }
    });
  };
  wait();
  return () => {
    stopped = true;
    cancel();
  };
}
