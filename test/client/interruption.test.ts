import { Code, ConnectError } from "@connectrpc/connect";
import { describe, expect, it } from "vitest";
import { isInterruption } from "../../src/client/state/hint.ts";

const plain = (code: Code) => new ConnectError("from the server", code);
const local = (code: Code, cause: unknown) =>
  new ConnectError("from the transport", code, undefined, undefined, cause);
const system = Object.assign(new Error("read ECONNRESET"), { code: "ECONNRESET" });

describe("isInterruption(error)", () => {
  it.each<[string, ConnectError]>([
    ["Unavailable", plain(Code.Unavailable)],
    ["Canceled, which reports a lost connection over HTTP/2", plain(Code.Canceled)],
    ["a failed fetch in a browser", ConnectError.from(new TypeError("Failed to fetch"))],
    ["a failed fetch in Node.js", local(Code.Internal, new Error("x", { cause: system }))],
    ["a lost HTTP/1.1 connection", local(Code.Aborted, system)],
  ])("returns true for %s", (_, error) => {
    expect(isInterruption(error)).toBe(true);
  });

  const others = [Code.Unknown, Code.Internal, Code.Aborted, Code.Unauthenticated, Code.NotFound];
  it.each(others)("returns false for code %i from a server", (code) => {
    expect(isInterruption(plain(code))).toBe(false);
  });

  it("returns false for a deadline and for a local error without a network cause", () => {
    expect(isInterruption(local(Code.DeadlineExceeded, system))).toBe(false);
    expect(isInterruption(local(Code.Internal, new Error("a bug")))).toBe(false);
    const circle = new Error("a circle");
    circle.cause = circle;
    expect(isInterruption(local(Code.Internal, circle))).toBe(false);
  });
});
