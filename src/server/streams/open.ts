import { type Clock, systemClock } from "../../base/clock.ts";
import { SessionError } from "../../base/errors.ts";
import type { Revocations } from "../../engine/revocation/log.ts";
import type { VerifiedSession } from "../../engine/session.ts";
import type { VerifyingCore } from "../core.ts";
import { type StreamEnds, WatchedStream } from "./watched.ts";

/** The shortest and longest time between two rounds over the open streams, in milliseconds. */
const roundInterval = { min: 25, max: 1_000 } as const;

/** Streams that a draining server ends at once, at most; the rest follows in such groups. */
const drainedAtOnce = 100;
/** Milliseconds over which streams end if the server closes, at most. */
const drainWithin = 5_000;
/** Milliseconds between two groups. */
const drainPause = 25;

/**
 * The open streams of an instance. One timer serves all of them: it fires when the next stream is
 * due, and at least once a second, because the store's clock may jump and its log may become unreadable.
 */
export class OpenStreams {
  readonly #core: VerifyingCore;
  readonly #open = new Set<WatchedStream>();
  readonly #log: LogWatch;
  /** What ends each stream that can be opened again elsewhere. */
  readonly #drained = new Set<(error: SessionError) => void>();
  #draining: Promise<void> | undefined;
  #roundAt = Number.POSITIVE_INFINITY;
  #cancelRound: () => void = () => {};

  constructor(core: VerifyingCore) {
    this.#core = core;
    core.operations.onClosing((within) => void this.drain(Math.min(drainWithin, within / 2)));
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

  /**
   * Takes in a stream that ends when the server drains.
   * @returns a function that takes it out again
   * @throws SessionError `unavailable` if the server drains already
   */
  drained(end: (error: SessionError) => void): () => void {
    if (this.#core.operations.isDraining) {
      throw draining();
    }
    this.#drained.add(end);
    return () => this.#drained.delete(end);
  }

  /**
   * Ends the streams of this instance, in groups, so that their clients do not come back all at once.
   * Opens no more from now on. Further calls have no effect.
   * @param within milliseconds until the last one has ended
   */
  drain(within: number): Promise<void> {
    this.#draining ??= this.#drain(within);
    return this.#draining;
  }

  async #drain(within: number): Promise<void> {
    this.#core.operations.isDraining = true;
    const all = [...this.#drained];
    const groups = Math.max(1, Math.min(within / drainPause, all.length / drainedAtOnce));
    const size = Math.ceil(all.length / groups);
    for (let first = 0; first < all.length; first += size) {
      if (first > 0) {
        // The time of the orchestrator that stops this server, so no other clock counts.
        await new Promise<void>((resolve) => {
          systemClock.after(drainPause, resolve, true);
        });
      }
      for (const end of all.slice(first, first + size)) {
        if (this.#drained.delete(end)) {
          end(draining());
        }
      }
    }
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

function draining(): SessionError {
  return new SessionError("unavailable", "SERVER_DRAINING", {
    message: "this server is about to stop and keeps no streams; open the stream again",
  });
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
