import { type Clock, systemClock } from "../../base/clock.ts";
import type { SessionError } from "../../base/errors.ts";
import type { Revocations } from "../../engine/revocation/log.ts";
import type { VerifiedSession } from "../../engine/session.ts";
import type { VerifyingCore } from "../core.ts";
import { type StreamEnds, WatchedStream } from "./watched.ts";

/** The shortest and longest time between two rounds over the open streams, in milliseconds. */
const roundInterval = { min: 25, max: 1_000 } as const;

/**
 * The open streams of an instance. One timer serves all of them: it fires when the next stream is
 * due, and at least once a second, because the store's clock may jump and its log may become unreadable.
 */
export class OpenStreams {
  readonly #core: VerifyingCore;
  readonly #open = new Set<WatchedStream>();
  readonly #log: LogWatch;
  #roundAt = Number.POSITIVE_INFINITY;
  #cancelRound: () => void = () => {};

  constructor(core: VerifyingCore) {
    this.#core = core;
    core.operations.onClosing(() => this.#round());
    this.#log = new LogWatch(core.revocations, core.clock, core.maxStreamStaleness);
  }

  /**
   * Watches a stream that runs under a session, until the stream is closed.
   * @param end ends the stream; called at most once, and at once if the session has already ended
   * @throws SessionError `unavailable`
   */
  async watch(
    session: VerifiedSession,
    ends: StreamEnds,
    end: (error: SessionError) => void,
  ): Promise<WatchedStream> {
    const { clock, maxStreamStaleness } = this.#core;
    const engine = await this.#core.engine();
    // The limit differs per stream, so that not all of them end at once.
    const silence = maxStreamStaleness * (0.9 + 0.1 * Math.random());
    const options = {
      ...{ engine, end, ...ends },
      isLogLost: () => this.#log.isLost(silence),
      isClosing: () => this.#core.operations.isClosing,
      monotonic: () => clock.monotonic(),
      closed: (stream: WatchedStream) => this.#remove(stream),
    };
    const stream = new WatchedStream(options, session);
    if (stream.isOpen) {
      this.#open.add(stream);
      stream.look();
      this.#scheduleRound(stream.dueIn);
    }
    return stream;
  }

  /** Looks at the log and at every stream, then schedules the next round. */
  #round(): void {
    this.#roundAt = Number.POSITIVE_INFINITY;
    this.#log.look();
    let dueIn: number = roundInterval.max;
    for (const stream of this.#open) {
      stream.look();
      dueIn = stream.isOpen ? Math.min(dueIn, stream.dueIn) : dueIn;
    }
    this.#scheduleRound(dueIn);
  }

  #scheduleRound(ms: number): void {
    const { clock } = this.#core;
    const wait = Math.min(Math.max(ms, roundInterval.min), roundInterval.max);
    const at = clock.monotonic() + wait;
    if (this.#open.size > 0 && at < this.#roundAt) {
      this.#cancelRound();
      this.#roundAt = at;
      this.#cancelRound = clock.after(wait, () => this.#round());
    }
  }

  #remove(stream: WatchedStream): void {
    this.#open.delete(stream);
    if (this.#open.size === 0) {
      this.#cancelRound();
      this.#roundAt = Number.POSITIVE_INFINITY;
    }
  }
}

/** How long a read of the log may take after this process was suspended, in milliseconds. */
const answerTime = 5_000;

/**
 * Detects that the change log has been silent for so long that open streams must end. After the
 * process was suspended the log looks silent too, so the log is read once more before giving up.
 */
class LogWatch {
  readonly #revocations: Revocations;
  readonly #clock: Clock;
  readonly #lateAfter: number;
  /** The unanswered read, and since when it could have been answered. */
  #read: { since: number } | undefined;

  /** @param max the longest silence that any stream tolerates, in milliseconds */
  constructor(revocations: Revocations, clock: Clock, max: number) {
    this.#revocations = revocations;
    this.#clock = clock;
    this.#lateAfter = max / 2;
  }

  /** Reads the log if it is late. Call it regularly. */
  look(): void {
    if (this.#revocations.staleness() < this.#lateAfter) {
      this.#read = undefined;
    } else if (this.#read === undefined) {
      const read = { since: Number.POSITIVE_INFINITY };
      this.#read = read;
      const couldAnswer = (): void => {
        read.since = Math.min(read.since, this.#clock.monotonic());
      };
      // Wait for a turn of the event loop, not for a span of time: no answer can arrive before it.
      systemClock.after(0, couldAnswer);
      this.#revocations.catchUp().then(couldAnswer, couldAnswer);
    }
  }

  /** Whether the log has been silent for `silence` milliseconds although it was read. */
  isLost(silence: number): boolean {
    return (
      this.#revocations.staleness() >= silence &&
      this.#read !== undefined &&
      this.#clock.monotonic() - this.#read.since >= answerTime
    );
  }
}
