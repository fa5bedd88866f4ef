import { ConnectError } from "@connectrpc/connect";
import { header } from "../../base/wire.ts";
import { race } from "../call/deadline.ts";
import type { SessionCore } from "../core.ts";
import { notify } from "../events.ts";
import { Backoff } from "../refresh/refresher.ts";
import { isInterruption, retryAfterOf, type StreamHint, streamHintOf } from "../state/hint.ts";
import { onPageEvent } from "../state/page.ts";

/** The facts about a failed stream that its recovery depends on. */
export interface FailedStream {
  /** Monotonic milliseconds. */
  readonly openedAt: number;
  /** The version of the session's access token when the stream was opened. */
  readonly version: number;
}

/** Options of a {@link Recovery}. */
interface RecoveryOptions {
  readonly signal: AbortSignal;
  /** The time that a series of failures may take, in milliseconds. */
  readonly giveUpAfter: number;
  readonly onInterrupted: ((error: ConnectError, retryIn: number) => void) | undefined;
}

/** A stream that was open this long, in milliseconds, starts a new series of failures. */
const stableAfter = 30_000;
/**
 * A pause that takes this much longer than planned, in milliseconds, was a sleep of the machine.
 * Browsers delay the timers of hidden pages by up to a minute.
 */
const sleepAfter = 120_000;
const pauses = { first: 500, longest: 30_000, jitter: 0.5 };

/** Decides whether and when a failed stream is opened again. */
export class Recovery {
  readonly #core: SessionCore;
  readonly #options: RecoveryOptions;
  readonly #backoff: Backoff;
  /** When the series of failures began; undefined while there is none. */
  #failingSince: number | undefined;
  /**
   * Whether a stream was opened again without a pause, without progress since: its token had expired, or
   * its server stops. Without a pause at the next time this could repeat endlessly.
   */
  #isAgain = false;

  constructor(core: SessionCore, options: RecoveryOptions) {
    this.#core = core;
    this.#options = options;
    this.#backoff = new Backoff(core.options.clock, pauses);
  }

  /** Records progress: a message arrived, or a stream was open for long. */
  progress(): void {
    this.#backoff.reset();
    this.#failingSince = undefined;
    this.#isAgain = false;
  }

  /**
   * Returns when the stream is to be opened again.
   *
   * @throws the error for the reader if it is not to be opened again
   */
  async from(error: unknown, stream: FailedStream): Promise<void> {
    if (!(error instanceof ConnectError)) {
      throw error;
    }
    if (this.#core.options.clock.monotonic() - stream.openedAt >= stableAfter) {
      this.progress();
    }
    const hint = streamHintOf(error, this.#core.local.realm);
    if (hint?.action === "refresh") {
      await this.#refresh(error, hint, stream);
    } else if (isInterruption(error)) {
      // A stream that a stopping server ended has not failed. If the next one meets that server again,
      // pause: others may not be ready.
      if (this.#isAgain || error.metadata.get(header.hint) !== "reopen") {
        await this.#pause(error);
      } else {
        this.#isAgain = true;
      }
    } else {
      throw error;
    }
  }

  async #refresh(error: ConnectError, hint: StreamHint, { version }: FailedStream): Promise<void> {
    const { local, refresher } = this.#core;
    const isAgain = this.#isAgain;
    this.#isAgain = true;
    if (local.version === version) {
      if (!refresher.canRefresh(hint)) {
        throw error;
      }
      const outcome = await race(refresher.refresh(true), this.#options.signal);
      if (outcome.type === "failed") {
        if (!isInterruption(outcome.error)) {
          throw outcome.error;
        }
        return this.#pause(outcome.error);
      }
    }
    // A new token was refused as well. Without a pause this could repeat endlessly.
    if (isAgain) {
      await this.#pause(error);
    }
  }

  async #pause(error: ConnectError): Promise<void> {
    const { clock } = this.#core.options;
    const { giveUpAfter, onInterrupted, signal } = this.#options;
    const now = clock.monotonic();
    const wallNow = clock.now();
    this.#failingSince ??= now;
    const ms = Math.max(this.#backoff.failed(), retryAfterOf(error));
    if (now + ms - this.#failingSince > giveUpAfter) {
      throw error;
    }
    notify(onInterrupted, error, ms);
    // The browser knows first that the network is back.
    let release = (): void => {};
    const over = new Promise<void>((resolve) => {
      const cancel = clock.after(ms, resolve, true);
      const stopListening = onPageEvent("online", () => resolve());
      release = () => {
        cancel();
        stopListening();
      };
    });
    try {
      await race(over, signal);
    } finally {
      release();
    }
    // The machine slept. The network could not fail meanwhile, so a new series begins.
    if (Math.max(clock.monotonic() - now, clock.now() - wallNow) > ms + sleepAfter) {
      this.progress();
    }
  }
}

/** The shortest time between two early refreshes, in milliseconds. */
const shortestWait = 5_000;
/** How long to wait while the lifetime of the access token is not known, in milliseconds. */
const waitIfUnknown = 60_000;

/**
 * Refreshes before the access token expires, again and again while a stream is open: the stream itself
 * makes no calls that would trigger a refresh. When the server ends the stream because its token has
 * expired, the next stream can then open at once.
 *
 * @returns a function that stops it
 */
export function refreshAhead({ local, refresher, options }: SessionCore): () => void {
  let cancel = (): void => {};
  let isStopped = false;
  const wait = (least = 0): void => {
    cancel = options.clock.after(
      Math.max(local.lifetime.dueIn ?? waitIfUnknown, least),
      refreshIfDue,
    );
  };
  const refreshIfDue = (): void => {
    const isDue = (local.lifetime.dueIn ?? 1) <= 0;
    const refreshed = isDue && refresher.canRefresh() ? refresher.refreshEarly() : undefined;
    // Wait after a failure too.
    void Promise.resolve(refreshed).then(() => {
      if (!isStopped) {
        wait(shortestWait);
      }
    });
  };
  wait();
  return () => {
    isStopped = true;
    cancel();
  };
}
