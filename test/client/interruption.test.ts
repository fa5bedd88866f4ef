import { Code, ConnectError } from "@connectrpc/connect";
import { describe, expect, it } from "vitest";
import { isInterruption } from "../../src/client/state/hint.ts";

const plain = (code: Code) => new ConnectError("said by the server", code);
const local = (code: Code, cause: unknown) =>
  new ConnectError("said by the transport", code, undefined, undefined, cause);
const system = Object.assign(new Error("read ECONNRESET"), { code: "ECONNRESET" });

describe("what is an interruption", () => {
  it.each<[string, ConnectError]>([
    ["Unavailable", plain(Code.Unavailable)],
    ["Canceled, as HTTP/2 tells of a lost connection", plain(Code.Canceled)],
    ["a fetch that failed in a browser", ConnectError.from(new TypeError("Failed to fetch"))],
    ["a fetch that failed in Node.js", local(Code.Internal, new Error("x", { cause: system }))],
    ["a lost connection of HTTP/1.1", local(Code.Aborted, system)],
  ])("%s", (_, error) => {
    expect(isInterruption(error)).toBe(true);
  });

  const others = [Code.Unknown, Code.Internal, Code.Aborted, Code.Unauthenticated, Code.NotFound];
  it.each(others)("not code %i of a server", (code) => {
    expect(isInterruption(plain(code))).toBe(false);
  });

  it("not a deadline, nor an error of our own whose cause is no network's", () => {
    expect(isInterruption(local(Code.DeadlineExceeded, system))).toBe(false);
    expect(isInterruption(local(Code.Internal, new Error("a bug")))).toBe(false);
    const circle = new Error("a circle");
    circle.cause = circle;
    expect(isInterruption(local(Code.Internal, circle))).toBe(false);
  });
});
