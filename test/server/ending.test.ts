import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { Code, ConnectError } from "@connectrpc/connect";
import { describe, expect, it } from "vitest";
import { Ending } from "../../src/server/streams/ending.ts";

const reason = new ConnectError("over", Code.Unauthenticated);

/** Messages that are sent on demand, and what happened to their source. */
function source() {
  const returned: unknown[] = [];
  const waiting: ((result: IteratorResult<string>) => void)[] = [];
  const messages: AsyncIterable<string> = {
    [Symbol.asyncIterator]: () => ({
      next: () => new Promise((resolve) => waiting.push(resolve)),
      async return(value) {
        returned.push(value);
        return { done: true, value };
      },
    }),
  };
  const send = (value: string): void => waiting.shift()?.({ done: false, value });
  return { messages, send, returned };
}

describe("Ending", () => {
  it("reaches readers and the signal before `end` returns", async () => {
    const ending = new Ending();
    const { messages } = source();
    const reading = ending.wrap(messages)[Symbol.asyncIterator]().next();
    const order: string[] = [];
    ending.signal.addEventListener("abort", () => order.push("signal"));
    const read = reading.catch((error: unknown) => order.push(error === reason ? "reader" : "?"));
    ending.end(reason);
    expect(order).toEqual(["signal"]);
    expect(ending.signal.reason).toBe(reason);
    await read;
    expect(order).toEqual(["signal", "reader"]);
  });

  it("keeps the first reason", async () => {
    const ending = new Ending();
    ending.end(reason);
    ending.end(new ConnectError("later", Code.Unavailable));
    expect(ending.reason).toBe(reason);
    const { messages } = source();
    await expect(ending.wrap(messages)[Symbol.asyncIterator]().next()).rejects.toBe(reason);
    await expect(ending.race(new Promise(() => {}))).rejects.toBe(reason);
  });

  it("closes the handler's generator and leaves the request open", async () => {
    const ending = new Ending();
    const response = source();
    const request = source();
    ending.wrap(response.messages, { returnSource: true })[Symbol.asyncIterator]();
    const requests = ending.wrap(request.messages)[Symbol.asyncIterator]();
    ending.end(reason);
    await Promise.resolve();
    expect(response.returned).toHaveLength(1);
    // A `for await` does this when its handler leaves the loop because of the signal.
    expect(await requests.return?.("left")).toEqual({ done: true, value: "left" });
    expect(request.returned).toEqual([]);
  });

  it("passes `throw` and `return` on to the source until the stream is ended", async () => {
    const ending = new Ending();
    const { messages, send, returned } = source();
    const iterator = ending.wrap(messages)[Symbol.asyncIterator]();
    const first = iterator.next();
    send("a");
    expect(await first).toEqual({ done: false, value: "a" });
    expect(await iterator.return?.("left")).toEqual({ done: true, value: "left" });
    expect(returned).toEqual(["left"]);
    // A source without a `throw` method is closed instead.
    await expect(iterator.throw?.(reason)).rejects.toBe(reason);
    expect(returned).toHaveLength(2);
  });

  it("keeps no reference to messages that were passed on", async () => {
    const ending = new Ending();
    async function* many() {
      for (let i = 0; i < 1_000; i++) {
        yield i;
      }
    }
    let last: WeakRef<Promise<unknown>> | undefined;
    for await (const _ of ending.wrap(many())) {
      last = new WeakRef(ending.race(Promise.resolve()));
    }
    await new Promise((resolve) => setTimeout(resolve, 0));
    setFlagsFromString("--expose-gc");
    (runInNewContext("gc") as () => void)();
    await new Promise((resolve) => setTimeout(resolve, 0));
    (runInNewContext("gc") as () => void)();
    expect(last?.deref()).toBeUndefined();
  });
});
