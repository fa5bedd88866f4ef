import { Code, ConnectError } from "@connectrpc/connect";
import { assertMembers, type Duration, durationMs } from "../../base/checks.ts";
import { systemClock } from "../../base/clock.ts";
import { race } from "../call/deadline.ts";
import { hintOf } from "../refresh/hint.ts";
import type { SessionCore } from "../state/core.ts";
import { type FailedStream, Recovery, refreshAhead } from "./recovery.ts";

/** What a resumed stream is made of; see `resume`. */
export interface ResumedStreamOptions<M, C> {
  readonly open: (cursor: C, call: { readonly signal: AbortSignal }) => AsyncIterable<M>;
  readonly start: C;
  readonly cursor: (message: M, last: C) => C;
  readonly signal?: AbortSignal;
  /** Milliseconds. */
  readonly giveUpAfter: number;
  readonly onInterrupted?: (error: ConnectError, retryIn: number) => void;
}

/** One stream open at a time. */
interface Opened<M> extends FailedStream {
  readonly messages: AsyncIterator<M>;
  readonly isCallTaken: () => boolean;
  /** Ends the call. */
  readonly close: (reason: ConnectError) => void;
}

/** Milliseconds that the answer of the call which ended the session may come later than the end. */
const answerWithin = 2_000;

/** The messages of one stream after the other. */
export class ResumedStream<M, C> {
  readonly #core: SessionCore;
  readonly #options: ResumedStreamOptions<M, C>;
  readonly #stop = new AbortController();
  readonly #recovery: Recovery;
  #cursor: C;
  #opened: Opened<M> | undefined;
  /** Set when the session is over. */
  #over: ConnectError | undefined;

  constructor(core: SessionCore, options: ResumedStreamOptions<M, C>) {
    this.#core = core;
    this.#options = options;
    this.#cursor = options.start;
    this.#recovery = new Recovery(core, {
      signal: this.#stop.signal,
      giveUpAfter: options.giveUpAfter,
      onInterrupted: (error, retryIn) => options.onInterrupted?.(error, retryIn),
    });
  }

  /** Nobody wants any more messages. */
  leave(): void {
    this.#stop.abort(canceled());
  }

  async *messages(): AsyncGenerator<M, undefined> {
    const held: (() => void)[] = [this.#followSignal()];
    try {
      await race(this.#core.ready() ?? Promise.resolve(undefined), this.#stop.signal);
      held.push(this.#followSession(), refreshAhead(this.#core));
      for (;;) {
        const result = await this.#next();
        if (result.done) {
          return;
        }
        this.#cursor = this.#options.cursor(result.value, this.#cursor);
        yield result.value;
      }
    } finally {
      for (const letGo of held) {
        letGo();
      }
      this.#opened?.close(canceled());
      this.#opened = undefined;
    }
  }

  #followSignal(): () => void {
    const { signal } = this.#options;
    const abort = (): void => this.#stop.abort(ConnectError.from(signal?.reason, Code.Canceled));
    signal?.addEventListener("abort", abort, { once: true });
    if (signal?.aborted) {
      abort();
    }
    return () => signal?.removeEventListener("abort", abort);
  }

  /** Under another session it would be another stream. */
  #followSession(): () => void {
    const { local, listeners } = this.#core;
    const { epoch } = local;
    const follow = (): void => {
      if (local.epoch !== epoch) {
        this.#sessionEnded(sessionOver(local.status === "signedOut"));
      }
    };
    listeners.add(follow);
    return () => listeners.delete(follow);
  }

  #sessionEnded(over: ConnectError): void {
    this.#over ??= over;
    const opened = this.#opened;
    if (opened === undefined) {
      this.#stop.abort(over);
    } else {
      // A turn later: it may be this very stream that brings the news, and its words say more.
      systemClock.after(0, () => opened.close(over));
    }
  }

  /** The next message, of however many streams it takes. */
  async #next(): Promise<IteratorResult<M>> {
    for (;;) {
      throwIfAborted(this.#stop.signal);
      this.#opened ??= this.#openNow();
      const opened: Opened<M> = this.#opened;
      try {
        const result = await race(opened.messages.next(), this.#stop.signal);
        this.#assertGood(opened);
        if (!result.done) {
          this.#recovery.progress();
        }
        return result;
      } catch (error) {
        this.#opened = undefined;
        opened.close(canceled());
        throwIfAborted(this.#stop.signal);
        await this.#untilToldWhy(error);
        this.#throwIfOver(error);
        await this.#recovery.from(error, opened);
      }
    }
  }

  /**
   * A session that a call of its own has ended may have been replaced by it: the stream ends before
   * the answer of that call comes, which tells of the next session.
   */
  async #untilToldWhy(error: unknown): Promise<void> {
    const { local, options } = this.#core;
    const hint = error instanceof ConnectError ? hintOf(error, local.realm) : undefined;
    const isOwnEnd = hint?.action === "signIn" && !hint.clear && hint.session === local.session;
    if (isOwnEnd) {
      const { promise, resolve } = Promise.withResolvers<void>();
      const cancel = options.clock.after(answerWithin, resolve, true);
      await race(promise, this.#stop.signal).catch(() => {});
      cancel();
    }
  }

  /** The server's own words where it is what told, and there is no other session. */
  #throwIfOver(error: unknown): void {
    const over = this.#over;
    if (over !== undefined) {
      const { realm } = this.#core.local;
      const isTold = error instanceof ConnectError && hintOf(error, realm) !== undefined;
      throw isTold && over.code === Code.Unauthenticated ? error : over;
    }
  }

  #openNow(): Opened<M> {
    const { clock } = this.#core.options;
    const abort = new AbortController();
    let taken = false;
    const call = {
      get signal() {
        taken = true;
        return abort.signal;
      },
    };
    const stream = this.#options.open(this.#cursor, call);
    if (typeof stream?.[Symbol.asyncIterator] !== "function") {
      throw new TypeError(
        "resume: the function returned no stream; return client.watch({…}, call)",
      );
    }
    const messages = stream[Symbol.asyncIterator]();
    return {
      messages,
      at: clock.monotonic(),
      version: this.#core.local.version,
      isCallTaken: () => taken,
      close(reason) {
        // Clients of Connect end a call by its signal alone; others by `return`.
        abort.abort(reason);
        (async () => messages.return?.())().catch(() => {});
      },
    };
  }

  #assertGood({ isCallTaken }: Opened<M>): void {
    if (!isCallTaken()) {
      throw new TypeError(
        "resume: the function did not use its second argument, so the call could not be ended; write (cursor, call) => client.watch({…}, call)",
      );
    }
    this.#throwIfOver(undefined);
  }
}

function throwIfAborted({ aborted, reason }: AbortSignal): void {
  if (aborted) {
    throw reason;
  }
}

function canceled(): ConnectError {
  return new ConnectError("the stream was left", Code.Canceled);
}

function sessionOver(signedOut: boolean): ConnectError {
  return signedOut
    ? new ConnectError("the session of the stream is over; sign in", Code.Unauthenticated)
    : new ConnectError("the session changed while the stream was open", Code.Aborted);
}

/** What a call of a resumed stream must be given: its call options, or a part of them. */
export interface ResumedCall {
  readonly signal: AbortSignal;
}

/** Opens the stream: `(cursor, call) => client.watch({ after: cursor }, call)`. */
export type OpenStream<M, C> = (cursor: C, call: ResumedCall) => AsyncIterable<M>;

/** How a stream is resumed. */
export interface ResumeOptions {
  /** Ends it: what waits for a message gets the reason, or Canceled. */
  readonly signal?: AbortSignal;
  /**
   * How long interruptions may go on, with no message and no stream that stands for 30 s, before the
   * last one is thrown. Default "5m"; "0s" gives up at once, at most 24 h.
   */
  readonly giveUpAfter?: Duration;
  /** Told of every interruption and in how many milliseconds the next try is made. For a "reconnecting…". */
  readonly onInterrupted?: (error: ConnectError, retryIn: number) => void;
}

/** Where a stream goes on after it was interrupted, so that nothing is lost or comes twice. */
export interface CursorOptions<M, C> {
  /** What the stream is opened with first. */
  readonly start: C;
  /** What it is opened with after this message, which is handed out next. */
  readonly cursor: (message: M, last: C) => C;
}

/** What {@link resume} works with; without a cursor it stays undefined. */
export type ResolvedResume<M, C> = ResumeOptions & CursorOptions<M, C>;

const members: Readonly<Record<keyof ResolvedResume<unknown, unknown>, 0>> = {
  ...{ start: 0, cursor: 0, signal: 0, giveUpAfter: 0, onInterrupted: 0 },
};

/**
 * Without a cursor it stays undefined.
 * @throws TypeError when only one half of it is given, or for an option that there is none of
 */
export function readCursor<M, C>(options: Partial<ResolvedResume<M, C>>): ResolvedResume<M, C> {
  assertMembers("resume", options, members);
  const { start, cursor } = options;
  if ("start" in options !== (cursor !== undefined)) {
    throw new TypeError("resume: start and cursor belong together; give both or none");
  }
  // Undefined is a C where the caller gave none.
  return { ...options, start: start as C, cursor: cursor ?? ((_message, last) => last) };
}

/** @throws TypeError for options that cannot work */
export function resume<M, C>(
  core: SessionCore,
  open: OpenStream<M, C>,
  options: ResolvedResume<M, C>,
): AsyncIterable<M> {
  if (typeof open !== "function") {
    throw new TypeError("resume: give a function, (cursor, call) => client.watch({…}, call)");
  }
  const giveUpAfter = durationMs("giveUpAfter", options.giveUpAfter ?? "5m", { max: 86_400_000 });
  return {
    [Symbol.asyncIterator]() {
      const stream = new ResumedStream(core, { ...options, open, giveUpAfter });
      const messages = stream.messages();
      return {
        next: () => messages.next(),
        throw: (error) => messages.throw(error),
        return() {
          // A generator that waits for a message would return only after it.
          stream.leave();
          return messages.return(undefined);
        },
      };
    },
  };
}
