import { type Clock, systemClock } from "../../base/clock.ts";
import { SessionError, unavailable } from "../../base/errors.ts";
import { endedError, liveOf } from "../../engine/liveness.ts";
import type { Revocations } from "../../engine/revocation/log.ts";
import type { VerifiedSession } from "../../engine/session.ts";
import type { EndedEntry } from "../../engine/store.ts";
import type { Authenticator } from "../core.ts";

/** Milliseconds that a read of the log has to answer, after this process was asleep. */
const answerTime = 5_000;

/** Tells when the change log has been silent for so long that open streams must not go on. */
export interface LogWatch {
  /** Reads the log by itself where it is late. To be called now and then. */
  look(): void;
  /** Whether nothing was heard for `patience` milliseconds, although it was asked. */
  isLost(patience: number): boolean;
}

/**
 * A process that was asleep finds its log late as well; it reads once more before it gives up.
 * @param max milliseconds; the greatest patience there is
 */
export function createLogWatch(revocations: Revocations, clock: Clock, max: number): LogWatch {
  /** The question that is not answered yet, and since when it could have been. */
  let asked: { since: number } | undefined;
  const isLate = (): boolean => revocations.staleness() >= max / 2;
  return {
    look() {
      if (!isLate()) {
        asked = undefined;
      } else if (asked === undefined) {
        const question = { since: Number.POSITIVE_INFINITY };
        asked = question;
        const turn = (): void => {
          question.since = Math.min(question.since, clock.monotonic());
        };
        // A turn of the event loop, no time: without one no answer can have come.
        systemClock.after(0, turn);
        revocations.catchUp().then(turn, turn);
      }
    },
    isLost: (patience) =>
      revocations.staleness() >= patience &&
      asked !== undefined &&
      clock.monotonic() - asked.since >= answerTime,
  };
}

/** What a stream ends on. */
export interface StreamEnds {
  /** Whether it goes on after its access token expired, as long as the session lives. */
  readonly outlivesToken: boolean;
  /** Whether it ends when the session is revoked, and when nobody can tell whether it was. */
  readonly onRevoke: boolean;
}

/** What a stream is watched by. */
export interface WatchedStreamOptions extends StreamEnds {
  readonly engine: Authenticator;
  readonly freshness: LogWatch;
  /** Milliseconds without word of the change log that it goes on for. */
  readonly patience: number;
  readonly monotonic: () => number;
  /** Ends the stream. Called once at most. */
  readonly end: (error: SessionError) => void;
  /** Called when there is nothing left to watch, after an end too. */
  readonly closed: (stream: WatchedStream) => void;
}

/** Before its end is reached, the store is asked whether the session was refreshed meanwhile. */
const lookAhead = 60_000;
const lookAgain = 10_000;
/** Where the log has lost changes, the store is asked about each stream within this time. */
const lookWithin = 10_000;
/** Milliseconds that a handler which ended the session itself has for its last message. */
const lastWords = 5_000;

/** Knows when one open stream must end, and ends it. Whoever holds it asks it to look now and then. */
export class WatchedStream {
  readonly #options: WatchedStreamOptions;
  #session: VerifiedSession;
  /** Milliseconds since 1970 by the store's clock. */
  #endsAt: number;
  #looksAt = Number.POSITIVE_INFINITY;
  #wasUnsure: boolean;
  #stop: () => void = () => {};
  #ownEnds = 0;
  /** How the session ended while the handler was about to end it, which may take no longer than this. */
  #endedMeanwhile: LastWords | undefined;
  #last: LastWords | undefined;
  #closed = false;

  constructor(options: WatchedStreamOptions, session: VerifiedSession) {
    this.#options = options;
    this.#session = session;
    this.#endsAt = endOf(session);
    // Where it was so already, the call that opened the stream has asked.
    this.#wasUnsure = options.engine.revocations.unsure;
    this.follow(session);
  }

  /** Belongs to this session from now on: the handler signed in anew. */
  follow(session: VerifiedSession): void {
    this.#stop();
    this.#session = session;
    this.#last = undefined;
    this.#endedMeanwhile = undefined;
    this.#setEnd(endOf(session));
    if (this.#closed || !this.#options.onRevoke) {
      return;
    }
    const stop = this.#options.engine.revocations.watch(session.id, (change) =>
      this.#ended(change),
    );
    if (this.isOpen) {
      this.#stop = stop;
    }
  }

  /**
   * Runs what ends the session for the handler of this stream itself. It may still say so: the
   * stream goes on for one message, or its own end.
   */
  async ownEnd<T>(work: () => Promise<T>): Promise<T> {
    this.#ownEnds += 1;
    try {
      return await work();
    } finally {
      this.#ownEnds -= 1;
      const ended = this.#endedMeanwhile;
      this.#endedMeanwhile = undefined;
      if (ended !== undefined) {
        this.#last = { ...ended, until: this.#options.monotonic() + lastWords };
      }
    }
  }

  /** A message of the handler went out. After its last words it may only end. */
  sent(): void {
    if (this.#last !== undefined) {
      this.#last = { ...this.#last, until: this.#options.monotonic() };
    }
  }

  /** Ends the stream if it is time. */
  look(): void {
    if (this.#closed) {
      return;
    }
    const { engine, freshness, patience, monotonic, onRevoke } = this.#options;
    const now = engine.revocations.storeNow();
    const last = this.#last ?? this.#endedMeanwhile;
    if (now >= this.#endsAt) {
      this.#end(accessExpired(this.#session.id));
    } else if (engine.revocations.isClosed() || (onRevoke && freshness.isLost(patience))) {
      this.#end(logLost());
    } else if (last !== undefined) {
      if (monotonic() >= last.until) {
        this.#end(last.error);
      }
    } else {
      this.#lookAtStore(now);
    }
  }

  #lookAtStore(now: number): void {
    const { unsure } = this.#options.engine.revocations;
    if (unsure && !this.#wasUnsure && this.#options.onRevoke) {
      this.#looksAt = Math.min(this.#looksAt, now + lookWithin * Math.random());
    }
    this.#wasUnsure = unsure;
    if (now >= this.#looksAt) {
      this.#looksAt = now + lookAgain;
      void this.#askStore();
    }
  }

  /** Milliseconds until it wants to look, at the latest. */
  get dueIn(): number {
    return Math.min(this.#endsAt, this.#looksAt) - this.#options.engine.revocations.storeNow();
  }

  get isOpen(): boolean {
    return !this.#closed;
  }

  close(): void {
    this.#closed = true;
    this.#stop();
    this.#options.closed(this);
  }

  #ended(change: EndedEntry): void {
    const error = this.#errorOf(change);
    if (this.#ownEnds > 0) {
      this.#endedMeanwhile = { error, until: this.#options.monotonic() + lastWords };
    } else {
      this.#end(error);
    }
  }

  #errorOf({ session, endedBy, at }: EndedEntry): SessionError {
    return endedError({ session, endedBy, at }, this.#options.engine.revocations.storeNow());
  }

  /** A refresh moves the end of a session; an outage does not, and leaves the end that is known. */
  async #askStore(): Promise<void> {
    const { id } = this.#session;
    try {
      const stored = await this.#options.engine.loadUnsure(id);
      if (id === this.#session.id && this.#ownEnds === 0 && this.#last === undefined) {
        const { idleExpiresAt, expiresAt } = liveOf(id, stored);
        this.#found(Math.min(idleExpiresAt, expiresAt));
      }
    } catch (error) {
      if (error instanceof SessionError && error.kind === "unauthorized") {
        this.#end(error);
      }
    }
  }

  #found(end: number): void {
    if (!this.#options.outlivesToken) {
      this.#looksAt = Number.POSITIVE_INFINITY;
    } else if (end !== this.#endsAt) {
      this.#setEnd(end);
    }
  }

  #setEnd(endsAt: number): void {
    this.#endsAt = endsAt;
    // Not all streams at once.
    this.#looksAt = this.#options.outlivesToken
      ? endsAt - lookAhead * (0.5 + 0.5 * Math.random())
      : Number.POSITIVE_INFINITY;
  }

  #end(error: SessionError): void {
    if (!this.#closed) {
      this.close();
      this.#options.end(error);
    }
  }
}

/** Why a stream ends that may still say something, and until when; in monotonic milliseconds. */
interface LastWords {
  readonly error: SessionError;
  readonly until: number;
}

function endOf(session: VerifiedSession): number {
  return session.accessExpiresAt.getTime();
}

/** Also where the session itself is over by its age: the refresh finds out. */
function accessExpired(session: string): SessionError {
  return new SessionError("tryRefreshToken", "TOKEN_EXPIRED", {
    message: "the access token has expired",
    sessionId: session,
  });
}

/** Not everybody shall come back at once. */
function logLost(): SessionError {
  return unavailable(
    "the stream ended because revocations could not be read for too long; open it again",
    undefined,
    1_000 + 9_000 * Math.random(),
  );
}
