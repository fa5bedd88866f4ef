import { SessionError, unavailable } from "../../base/errors.ts";
import { endedError, liveOf } from "../../engine/liveness.ts";
import type { VerifiedSession } from "../../engine/session.ts";
import type { EndedEntry } from "../../engine/store.ts";
import type { CallStream } from "../call/call.ts";
import type { Authenticator } from "../core.ts";

/** The events that end a stream. */
export interface StreamEnds {
  /** Whether the stream continues after its access token expired, as long as the session is alive. */
  readonly outlivesToken: boolean;
  /** Whether it ends when the session is revoked, and when revocations can no longer be read. */
  readonly onRevoke: boolean;
}

/** Options of {@link WatchedStream}. */
export interface WatchedStreamOptions extends StreamEnds {
  readonly engine: Authenticator;
  /** Whether revocations could not be read for longer than this stream may run without them. */
  readonly isLogLost: () => boolean;
  readonly monotonic: () => number;
  /** Ends the stream. Called at most once. */
  readonly end: (error: SessionError) => void;
  /** Called once, when there is nothing left to watch; also after `end`. */
  readonly closed: (stream: WatchedStream) => void;
}

/** Read the session this many milliseconds before it ends: a refresh may have moved its end. */
const askBefore = 60_000;
/** Minimum time between two reads of the session for a stream, in milliseconds. */
const askAgain = 10_000;
/** Read the session of each stream within this many milliseconds after the log lost entries. */
const askWithin = 10_000;
/** Time for the last message of a handler that ended the session itself, in milliseconds. */
const lastMessageTime = 5_000;

/**
 * One open stream that ends with its session. `look` is called regularly and ends the stream when it
 * is due; revocations arrive from the change log between two looks.
 */
export class WatchedStream implements CallStream {
  readonly #options: WatchedStreamOptions;
  #session: VerifiedSession;
  /** Milliseconds since 1970 by the store's clock. */
  #endsAt: number;
  /** When to ask the store next, by the store's clock. */
  #asksAt = Number.POSITIVE_INFINITY;
  #wasUnsure: boolean;
  #history: string | undefined;
  #unsubscribe: () => void = () => {};
  /** How many operations of the handler that may end the session are running. */
  #ownEnds = 0;
  /** Set when the session ended during such an operation; the operation itself may time out. */
  #endedMeanwhile: LastMessage | undefined;
  #lastMessage: LastMessage | undefined;
  #closed = false;

  constructor(options: WatchedStreamOptions, session: VerifiedSession) {
    this.#options = options;
    this.#session = session;
    this.#endsAt = endOf(session);
    // If entries were lost before, the call that opened the stream has already asked the store.
    const { unsure, history } = options.engine.revocations;
    this.#wasUnsure = unsure;
    this.#history = history;
    this.follow(session);
  }

  /** Watches another session from now on: the handler signed in again. */
  follow(session: VerifiedSession): void {
    this.#unsubscribe();
    this.#session = session;
    this.#lastMessage = undefined;
    this.#endedMeanwhile = undefined;
    this.#setEnd(endOf(session));
    if (this.#closed || !this.#options.onRevoke) {
      return;
    }
    const unsubscribe = this.#options.engine.revocations.watch(session.id, (entry) => {
      // The log calls a listener once, and has removed it by then.
      this.#unsubscribe = () => {};
      this.#revoked(entry);
    });
    // The listener may have been called at once.
    if (this.isOpen) {
      this.#unsubscribe = unsubscribe;
    }
  }

  /** Ends the stream if it is due. */
  look(): void {
    if (this.#closed) {
      return;
    }
    const { engine, isLogLost, monotonic, onRevoke } = this.#options;
    const now = engine.revocations.storeNow();

    // 1. The access token has expired, or the session if the stream outlives its token.
    if (now >= this.#endsAt) {
      this.#end(accessExpired(this.#session.id));
      return;
    }

    // 2. Revocations can no longer be detected: the sessions were closed, or the log cannot be read.
    if (engine.revocations.isClosed()) {
      // Other servers are ready, but not for all streams of this one in the same moment.
      this.#end(endedByServer("the server is closing", { from: 0, to: 1_000 }));
      return;
    }
    if (onRevoke && isLogLost()) {
      this.#end(endedByServer("revocations could not be read for too long"));
      return;
    }

    // 3. The handler ended the session itself: wait for its last message, but not for long.
    const last = this.#lastMessage ?? this.#endedMeanwhile;
    if (last !== undefined) {
      if (monotonic() >= last.until) {
        this.#end(last.error);
      }
      return;
    }

    // 4. The log has lost entries since the last look: ask the store soon, at a random time so that
    // not all streams ask at once.
    const { unsure, history } = engine.revocations;
    const hasLost = (unsure && !this.#wasUnsure) || history !== this.#history;
    if (hasLost && onRevoke) {
      this.#asksAt = Math.min(this.#asksAt, now + askWithin * Math.random());
    }
    this.#wasUnsure = unsure;
    this.#history = history;

    // 5. Ask the store whether the session has ended, or a refresh has moved its end.
    if (now >= this.#asksAt) {
      this.#asksAt = now + askAgain;
      void this.#askStore();
    }
  }

  /** Milliseconds until the next look is due. */
  get dueIn(): number {
    return Math.min(this.#endsAt, this.#asksAt) - this.#options.engine.revocations.storeNow();
  }

  get isOpen(): boolean {
    return !this.#closed;
  }

  /**
   * Runs an operation of this stream's own handler that ends the session. The handler may still
   * report it: the stream continues for one message, or until the handler ends it.
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
        this.#lastMessage = { ...ended, until: this.#options.monotonic() + lastMessageTime };
      }
    }
  }

  /** Reports that a message of the handler was sent. After its last message, the stream can only end. */
  sent(): void {
    if (this.#lastMessage !== undefined) {
      this.#lastMessage = { ...this.#lastMessage, until: this.#options.monotonic() };
    }
  }

  /** Stops watching. Does not end the stream. */
  close(): void {
    if (this.#closed) {
      return;
    }
    this.#closed = true;
    this.#unsubscribe();
    this.#options.closed(this);
  }

  #revoked({ session, endedBy, at }: EndedEntry): void {
    const error = endedError({ session, endedBy, at }, this.#options.engine.revocations.storeNow());
    if (this.#ownEnds > 0) {
      this.#endedMeanwhile = { error, until: this.#options.monotonic() + lastMessageTime };
    } else {
      this.#end(error);
    }
  }

  /** Asks the store for the session. During an outage the known end stays. */
  async #askStore(): Promise<void> {
    const { id } = this.#session;
    try {
      const stored = await this.#options.engine.loadUnsure(id);
      // The handler may have ended or replaced the session in the meantime.
      if (id === this.#session.id && this.#ownEnds === 0 && this.#lastMessage === undefined) {
        const { idleExpiresAt, expiresAt } = liveOf(id, stored);
        this.#foundAlive(Math.min(idleExpiresAt, expiresAt));
      }
    } catch (error) {
      if (error instanceof SessionError && error.kind === "unauthorized") {
        this.#end(error);
      }
    }
  }

  #foundAlive(endsAt: number): void {
    if (!this.#options.outlivesToken) {
      this.#asksAt = Number.POSITIVE_INFINITY;
    } else if (endsAt !== this.#endsAt) {
      this.#setEnd(endsAt);
    }
  }

  #setEnd(endsAt: number): void {
    this.#endsAt = endsAt;
    // At a random time, so that not all streams ask at once.
    this.#asksAt = this.#options.outlivesToken
      ? endsAt - askBefore * (0.5 + 0.5 * Math.random())
      : Number.POSITIVE_INFINITY;
  }

  #end(error: SessionError): void {
    if (!this.#closed) {
      this.close();
      this.#options.end(error);
    }
  }
}

/** The end of a stream whose handler may send one more message. */
interface LastMessage {
  readonly error: SessionError;
  /** When the stream ends at the latest, in monotonic milliseconds. */
  readonly until: number;
}

function endOf(session: VerifiedSession): number {
  return session.accessExpiresAt.getTime();
}

/** Also used when the session itself has expired; the client's refresh then reports that. */
function accessExpired(session: string): SessionError {
  return new SessionError("tryRefreshToken", "TOKEN_EXPIRED", {
    message: "the access token has expired; refresh the session and open the stream again",
    sessionId: session,
  });
}

/** The random delay keeps clients from reconnecting all at once. */
function endedByServer(reason: string, { from, to } = { from: 1_000, to: 10_000 }): SessionError {
  const message = `the stream ended because ${reason}; open it again`;
  return unavailable(message, undefined, from + (to - from) * Math.random());
}
