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
 * @throws TypeError for an invalid interval
 */
export function keepAlive<M, H>(
  context: Pick<HandlerContext, "responseHeader">,
  messages: AsyncIterable<M>,
  { message, every = "15s", clock = systemClock }: KeepAliveOptions<H>,
): AsyncGenerator<M | H, undefined> {
  const ms = durationMs("every", every, { min: 1_000, max: 3_600_000 });
  context.responseHeader.set(header.heartbeat, String(ms));
  return withHeartbeats(messages, message, (action) => clock.after(ms, action));
}

async function* withHeartbeats<M, H>(
  messages: AsyncIterable<M>,
  heartbeat: H,
  schedule: (action: () => void) => () => void,
): AsyncGenerator<M | H, undefined> {
  const source = messages[Symbol.asyncIterator]();
  let isReading = false;
  let read: { readonly result: IteratorResult<M> } | { readonly error: unknown } | undefined;
  let wake = (): void => {};
  try {
    // 1. Send the response headers at once.
    yield heartbeat;
    for (;;) {
      // 2. One read at a time. Its handlers are added once, so that a long wait collects none.
      if (!isReading) {
        isReading = true;
        source.next().then(
          (result) => {
            read = { result };
            wake();
          },
          (error: unknown) => {
            read = { error };
            wake();
          },
        );
      }

      // 3. Wait for the message, or for the time of a heartbeat.
      let cancel = (): void => {};
      if (read === undefined) {
        await new Promise<void>((resolve) => {
          wake = resolve;
          cancel = schedule(resolve);
        });
        cancel();
      }

      // 4. Pass on what came.
      if (read === undefined) {
        yield heartbeat;
        continue;
      }
      const done = read;
      read = undefined;
      isReading = false;
      if ("error" in done) {
        throw done.error;
      }
      if (done.result.done) {
        return;
      }
      yield done.result.value;
    }
  } finally {
    // A source that waits for its next message would return only after it.
    const returned = Promise.resolve(source.return?.());
    returned.catch(() => {});
    if (!isReading) {
      await returned;
    }
  }
}
