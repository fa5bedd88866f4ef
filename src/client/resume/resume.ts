import type { ConnectError } from "@connectrpc/connect";
import { type Duration, durationMs } from "../../base/duration.ts";
import { assertMembers } from "../../base/members.ts";
import { ResumedStream } from "./resumed-stream.ts";
import type { SessionCore } from "../state/session-core.ts";

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
