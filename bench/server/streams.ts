import type { HandlerContext } from "@connectrpc/connect";

/** The number of open streams in this process. */
export const openStreams = { count: 0 };

/** A stream that sends its only message when its call ends. */
export async function* silentStream(
  _: unknown,
  { signal }: HandlerContext,
): AsyncGenerator<object> {
  openStreams.count++;
  await new Promise((resolve) => {
    signal.addEventListener("abort", resolve, { once: true });
  });
  openStreams.count--;
  yield {};
}
