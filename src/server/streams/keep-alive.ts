import type { HandlerContext } from "@connectrpc/connect";
import { type Duration, durationMs } from "../../base/checks.ts";
import { type Clock, systemClock } from "../../base/clock.ts";
import { header } from "../../base/wire.ts";

/** Options of {@link keepAlive}. */
export interface KeepAliveOptions<H> {
  /**
   * The message to send as a heartbeat. Choose one that your clients can tell from the others, such as
   * `{}` or a field of its own.
   */
  readonly message: H;
  /** How long the stream may be quiet before a heartbeat, from 1 s to 1 h. Default `"15s"`. */
  readonly every?: Duration;
  /** The source of time. Default: the system clock. */
  readonly clock?: Clock;
}

/**
 * Keeps a quiet stream alive: passes on `messages`, and sends a heartbeat at the start and whenever
 * `every` has passed without a message. Proxies then do not take the stream for idle, and clients notice
 * a dead connection. The response header `rpcsession-heartbeat` announces the interval, from which
 * `session.resume` takes its default for `silence`. Works in every protocol.
 *
 * ```ts
 * async *watch({ after }, ctx) {
 *   yield* keepAlive(ctx, inbox.after(after, ctx.signal), { message: {} });
 * }
 * ```
 *
 * When the call is over, it calls `return` of `messages` and throws the reason of `ctx.signal`, even if
 * `messages` ignores the signal.
 *
 * @throws TypeError for an invalid interval
 */
export function keepAlive<M, H>(
  context: Pick<HandlerContext, "responseHeader" | "signal">,
  messages: AsyncIterable<M>,
  { message, every = "15s", clock = systemClock }: KeepAliveOptions<H>,
): AsyncGenerator<M | H, undefined> {
  const ms = durationMs("every", every, { min: 1_000, max: 3_600_000 });
  context.responseHeader.set(header.heartbeat, String(ms));
  const beat = (action: () => void) => clock.after(ms, action);
  return withHeartbeats(messages[Symbol.asyncIterator](), message, {
    beat,
    signal: context.signal,
  });
}

interface Waits {
  /** Calls the action when a heartbeat is due. Returns a function that cancels it. */
  readonly beat: (action: () => void) => () => void;
  readonly signal: AbortSignal;
}

async function* withHeartbeats<M, H>(
  source: AsyncIterator<M>,
  heartbeat: H,
  { beat, signal }: Waits,
): AsyncGenerator<M | H, undefined> {
  let isReading = false;
  let read: (() => IteratorResult<M>) | undefined;
  let wake = (): void => {};
  const onAbort = (): void => wake();
  signal.addEventListener("abort", onAbort);
  try {
    // 1. Send the response headers at once.
    yield heartbeat;
    for (;;) {
      // 2. Have one read under way. Its handlers are added once, so that a long wait collects none.
      if (!isReading) {
        isReading = true;
        const arrived = (result: () => IteratorResult<M>): void => {
          read = result;
          wake();
        };
        source.next().then(
          (result) => arrived(() => result),
          (error: unknown) => {
            arrived(() => {
              throw error;
            });
          },
        );
      }

      // 3. Wait for the message, for the time of a heartbeat, or for the end of the call.
      if (read === undefined && !signal.aborted) {
        let cancel = (): void => {};
        await new Promise<void>((resolve) => {
          wake = resolve;
          cancel = beat(resolve);
        });
        cancel();
      }

      // 4. Pass on what came.
      if (read !== undefined) {
        const result = read;
        read = undefined;
        isReading = false;
        const { done, value } = result();
        if (done) {
          return;
        }
        yield value;
      } else {
        signal.throwIfAborted();
        yield heartbeat;
      }
    }
  } finally {
    signal.removeEventListener("abort", onAbort);
    // A source that waits for its next message returns only after it.
    const returned = (async () => source.return?.())();
    returned.catch(() => {});
    if (!isReading) {
      await returned;
    }
  }
}
