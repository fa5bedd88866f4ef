import { Code, ConnectError } from "@connectrpc/connect";
import { assertMembers, type Duration, durationMs, durationOf } from "../../base/checks.ts";
import { systemClock } from "../../base/clock.ts";
import { header } from "../../base/wire.ts";
import { abortWith, deadlineSignal, race, reasonOf } from "../call/deadline.ts";
import type { SessionCore } from "../core.ts";
import { hintOf } from "../state/hint.ts";
import { type FailedStream, Recovery, refreshAhead } from "./recovery.ts";

/** The call options that a resumed stream passes to its call. */
export interface ResumedCall {
  /** Ends the call. */
  readonly signal: AbortSignal;
  /** Reads the interval of the heartbeats that the server announces. */
  readonly onHeader: (headers: Headers) => void;
}

/** Opens the stream: `(cursor, call) => client.watch({ after: cursor }, call)`. */
export type OpenStream<M, C> = (cursor: C, call: ResumedCall) => AsyncIterable<M>;

/** Options of `session.resume`. */
export interface ResumeOptions<M = never> {
  /** Ends the stream. The pending read rejects with the signal's reason or with Canceled. */
  readonly signal?: AbortSignal;
  /**
   * How long interruptions may last before the last error is thrown. A message, or a stream that
   * stays open for 30 s, starts the count anew. Default `"5m"`; from `"0s"`, which gives up at once,
   * to 24 h.
   */
  readonly giveUpAfter?: Duration;
  /**
   * How long the stream may be without any message, heartbeats included, before its connection counts
   * as lost and the stream is opened again; from `"1s"` to `"24h"`, or `"0s"` for no limit. Default:
   * three times the interval that the server announces with `keepAlive`, and no limit if it announces
   * none.
   */
  readonly silence?: Duration;
  /** Returns whether a message is a heartbeat. The loop does not receive it. Default: no message is one. */
  readonly heartbeat?: (message: M) => boolean;
  /**
   * Called on every interruption, with the milliseconds until the next attempt. Use it to show
   * "reconnecting…". Errors that it throws are ignored.
   */
  readonly onInterrupted?: (error: ConnectError, retryIn: number) => void;
}

/** Where a stream continues after an interruption, so that no message is lost or repeated. */
export interface CursorOptions<M, C> {
  /** The cursor that the stream is opened with first. */
  readonly start: C;
  /** Returns the cursor to reopen the stream with after `message`. */
  readonly cursor: (message: M, last: C) => C;
}

/** All options of `session.resume`. */
export type AllResumeOptions<M, C> = ResumeOptions<M> & CursorOptions<M, C>;

const members: Readonly<Record<keyof AllResumeOptions<unknown, unknown>, 0>> = {
  ...{ start: 0, cursor: 0, signal: 0, giveUpAfter: 0, onInterrupted: 0 },
  ...{ silence: 0, heartbeat: 0 },
};

/**
 * Resumes a stream: opens it again, from a cursor, each time it is interrupted. Without a cursor
 * option the cursor stays undefined.
 *
 * @throws TypeError for invalid options
 */
export function resume<M, C>(
  core: SessionCore,
  open: OpenStream<M, C>,
  options: Partial<AllResumeOptions<M, C>>,
): AsyncIterable<M> {
  assertMembers("resume", options, members);
  const { start, cursor } = options;
  if ("start" in options !== (cursor !== undefined)) {
    throw new TypeError("resume: `start` and `cursor` belong together; set both or neither");
  }
  if (typeof open !== "function") {
    throw new TypeError(
      `resume: the first argument must be a function such as (cursor, call) => client.watch({…}, call), got ${typeof open}`,
    );
  }
  const giveUpAfter = durationMs("giveUpAfter", options.giveUpAfter ?? "5m", { max: 86_400_000 });
  const resumed: ResumedStreamOptions<M, C> = {
    ...options,
    open,
    giveUpAfter,
    silence: readSilence(options.silence),
    heartbeat: options.heartbeat ?? (() => false),
    // Undefined is a C if the caller set no start.
    start: start as C,
    cursor: cursor ?? ((_message, last) => last),
  };
  return {
    [Symbol.asyncIterator]() {
      const stream = new ResumedStream(core, resumed);
      const messages = stream.messages();
      return {
        next: () => messages.next(),
        throw: (error) => messages.throw(error),
        return() {
          // A generator that is waiting for a message would return only after that message.
          stream.stop();
          return messages.return(undefined);
        },
      };
    },
  };
}

/** Returns milliseconds; undefined for the default. */
function readSilence(silence: Duration | undefined): number | undefined {
  if (silence === undefined) {
    return undefined;
  }
  const ms = durationMs("silence", silence, { max: 86_400_000 });
  if (ms > 0 && ms < 1_000) {
    throw new TypeError(`silence must be at least 1s, or 0s for no limit, got "${silence}"`);
  }
  return ms;
}

interface ResumedStreamOptions<M, C> extends CursorOptions<M, C> {
  readonly open: OpenStream<M, C>;
  readonly signal?: AbortSignal;
  /** Milliseconds. */
  readonly giveUpAfter: number;
  /** Milliseconds; 0 for no limit, undefined for the default. */
  readonly silence: number | undefined;
  readonly heartbeat: (message: M) => boolean;
  readonly onInterrupted?: (error: ConnectError, retryIn: number) => void;
}

/** A stream that is open. There is one at a time. */
interface OpenedStream<M> extends FailedStream {
  readonly messages: AsyncIterator<M>;
  /** Whether the application has used the call options it was given. */
  readonly isCallUsed: () => boolean;
  /** Ends the call. */
  readonly close: (reason: ConnectError) => void;
}

/** How many heartbeats may be missing. Networks and busy servers delay one or two. */
const missingHeartbeats = 3;

/** Milliseconds to wait for the response of the client's own call that ended the session. */
const replacementTimeout = 2_000;

/** One loop over a resumed stream: the messages of one stream after another. */
class ResumedStream<M, C> {
  readonly #core: SessionCore;
  readonly #options: ResumedStreamOptions<M, C>;
  readonly #abort = new AbortController();
  readonly #recovery: Recovery;
  #cursor: C;
  #opened: OpenedStream<M> | undefined;
  /** The interval of heartbeats that the server has announced, in milliseconds; 0 if it has not. */
  #heartbeat = 0;
  /** Set when the session has ended or changed. */
  #sessionError: ConnectError | undefined;

  constructor(core: SessionCore, options: ResumedStreamOptions<M, C>) {
    this.#core = core;
    this.#options = options;
    this.#cursor = options.start;
    this.#recovery = new Recovery(core, {
      signal: this.#abort.signal,
      giveUpAfter: options.giveUpAfter,
      onInterrupted: options.onInterrupted,
    });
  }

  /** Ends a pending read, because the loop was left. */
  stop(): void {
    abortWith(this.#abort, canceled());
  }

  async *messages(): AsyncGenerator<M, undefined> {
    const releases: (() => void)[] = [this.#followSignal()];
    try {
      // 1. Wait until the tokens are loaded.
      await race(Promise.resolve(this.#core.local.ready()), this.#abort.signal);

      // 2. From now on, end with the session, and refresh before the access token expires.
      releases.push(this.#followSession(), refreshAhead(this.#core));

      // 3. Hand out messages. The cursor moves before the message is handed out.
      for (;;) {
        const result = await this.#next();
        if (result.done) {
          return;
        }
        this.#cursor = this.#options.cursor(result.value, this.#cursor);
        yield result.value;
      }
    } finally {
      // 4. However the loop ends: release everything and end the call.
      for (const release of releases) {
        release();
      }
      this.#opened?.close(canceled());
      this.#opened = undefined;
    }
  }

  /** Returns the next message; opens as many streams as necessary. */
  async #next(): Promise<IteratorResult<M>> {
    for (;;) {
      throwIfAborted(this.#abort.signal);
      // 1. Open a stream, unless one is open.
      this.#opened ??= this.#open();
      const opened: OpenedStream<M> = this.#opened;
      try {
        // 2. Wait for its next message. A heartbeat only shows that the connection lives: a stream
        //    that breaks off after its first one makes no progress.
        const result = await this.#read(opened);
        this.#assertUsable(opened);
        if (result.done) {
          return result;
        }
        if (!this.#options.heartbeat(result.value)) {
          this.#recovery.progress();
          return result;
        }
      } catch (error) {
        // 3. It failed. Throw if the caller or the session ended it.
        this.#opened = undefined;
        opened.close(canceled());
        throwIfAborted(this.#abort.signal);
        await this.#waitForReplacement(error);
        this.#throwSessionError(error);
        // 4. Otherwise refresh or pause, then open it again. Throws if that cannot help.
        await this.#recovery.from(error, opened);
      }
    }
  }

  /** Reads a message, within the time that the stream may be silent. */
  async #read({ messages }: OpenedStream<M>): Promise<IteratorResult<M>> {
    const silence = this.#options.silence ?? this.#heartbeat * missingHeartbeats;
    const [until, done] = deadlineSignal(
      this.#core.options.clock,
      silence > 0 ? silence : undefined,
      this.#abort.signal,
      () => silent(silence),
    );
    try {
      return await race(messages.next(), until);
    } finally {
      done();
    }
  }

  #open(): OpenedStream<M> {
    const { local, options } = this.#core;
    const abort = new AbortController();
    let isUsed = false;
    const call = {
      get signal() {
        isUsed = true;
        return abort.signal;
      },
      onHeader: (headers: Headers) => {
        const announced = headers.get(header.heartbeat) ?? "";
        this.#heartbeat = /^\d{4,7}$/.test(announced) ? Number(announced) : 0;
      },
    };
    const stream = this.#options.open(this.#cursor, call);
    if (typeof stream?.[Symbol.asyncIterator] !== "function") {
      throw new TypeError(
        "resume: the function must return a stream; write (cursor, call) => client.watch({…}, call)",
      );
    }
    const messages = stream[Symbol.asyncIterator]();
    return {
      messages,
      openedAt: options.clock.monotonic(),
      version: local.version,
      isCallUsed: () => isUsed,
      close(reason) {
        // Connect clients end a call only by its signal; other iterables end by `return`.
        abortWith(abort, reason);
        (async () => messages.return?.())().catch(() => {});
      },
    };
  }

  #assertUsable({ isCallUsed }: OpenedStream<M>): void {
    if (!isCallUsed()) {
      throw new TypeError(
        "resume: the function must pass its second argument to the call; write (cursor, call) => client.watch({…}, call)",
      );
    }
    this.#throwSessionError(undefined);
  }

  /**
   * The client's own call, such as a sign-in, may have ended the session and replaced it. The stream
   * then fails before the response of that call announces the new session, so wait for it briefly.
   */
  async #waitForReplacement(error: unknown): Promise<void> {
    const { local, options } = this.#core;
    const hint = error instanceof ConnectError ? hintOf(error, local.realm) : undefined;
    if (hint?.action === "signIn" && !hint.clear && hint.sessionId === local.sessionId) {
      let cancel = (): void => {};
      const over = new Promise<void>((resolve) => {
        cancel = options.clock.after(replacementTimeout, resolve, true);
      });
      await race(over, this.#abort.signal).catch(() => {});
      cancel();
    }
  }

  /** Prefers the server's error if the session ended and the error carries a hint about it. */
  #throwSessionError(error: unknown): void {
    const sessionError = this.#sessionError;
    if (sessionError !== undefined) {
      const { realm } = this.#core.local;
      const hasHint = error instanceof ConnectError && hintOf(error, realm) !== undefined;
      throw hasHint && sessionError.code === Code.Unauthenticated ? error : sessionError;
    }
  }

  #followSignal(): () => void {
    const { signal } = this.#options;
    const abort = (): void => signal && abortWith(this.#abort, reasonOf(signal));
    signal?.addEventListener("abort", abort, { once: true });
    if (signal?.aborted) {
      abort();
    }
    return () => signal?.removeEventListener("abort", abort);
  }

  /** Ends the stream when the session ends, because it must not continue under a different session. */
  #followSession(): () => void {
    const { local } = this.#core;
    const { epoch } = local;
    return local.subscribe(({ status }) => {
      if (local.epoch !== epoch) {
        this.#sessionEnded(sessionOver(status === "signedOut"));
      }
    });
  }

  #sessionEnded(error: ConnectError): void {
    this.#sessionError ??= error;
    const opened = this.#opened;
    if (opened === undefined) {
      abortWith(this.#abort, error);
    } else {
      // Not before the next turn of the event loop: this stream may have announced the change itself,
      // and then its own error is more specific.
      systemClock.after(0, () => opened.close(error));
    }
  }
}

function throwIfAborted(signal: AbortSignal): void {
  if (signal.aborted) {
    throw reasonOf(signal);
  }
}

function silent(ms: number): ConnectError {
  return new ConnectError(
    `no message arrived for ${durationOf(ms)}, so the connection counts as lost`,
    Code.Unavailable,
  );
}

function canceled(): ConnectError {
  return new ConnectError("the reader left the stream, so its call was ended", Code.Canceled);
}

function sessionOver(isSignedOut: boolean): ConnectError {
  return isSignedOut
    ? new ConnectError(
        "the session of this stream is over; sign in and open it again",
        Code.Unauthenticated,
      )
    : new ConnectError(
        "the session changed while this stream was open; open it again",
        Code.Aborted,
      );
}
