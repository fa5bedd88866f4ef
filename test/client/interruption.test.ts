import { Code, ConnectError } from "@connectrpc/connect";
import { describe, expect, it } from "vitest";
import { isInterruption } from "../../src/client/state/hint.ts";

const plain = (code: Code) =>
  Object.assign(new ConnectError("from the server", code), { isWireError: true });
const local = (code: Code, cause: unknown) =>
  new ConnectError("from the transport", code, undefined, undefined, cause);
const page = { "content-type": "text/html" };
const system = Object.assign(new Error("read ECONNRESET"), { code: "ECONNRESET" });

describe("isInterruption(error)", () => {
  it.each<[string, ConnectError]>([
    ["Unavailable", plain(Code.Unavailable)],
    ["Canceled, which reports a lost connection over HTTP/2", local(Code.Canceled, undefined)],
    ["a page with the status 401", new ConnectError("HTTP 401", Code.Unauthenticated, page)],
    ["a page with the status 403", new ConnectError("HTTP 403", Code.PermissionDenied, page)],
    ["a page with the status 404", new ConnectError("HTTP 404", Code.Unimplemented, page)],
    ["a page with the status 408", new ConnectError("HTTP 408", Code.Unknown, page)],
    ["a body without an end", new ConnectError("protocol error: x", Code.InvalidArgument)],
    ["a reset by HTTP/2", new ConnectError("http/2 stream closed", Code.ResourceExhausted)],
    ["a failed fetch in a browser", ConnectError.from(new TypeError("Failed to fetch"))],
    ["a failed fetch in Node.js", local(Code.Internal, new Error("x", { cause: system }))],
    ["a lost HTTP/1.1 connection", local(Code.Aborted, system)],
  ])("returns true for %s", (_, error) => {
    expect(isInterruption(error)).toBe(true);
  });

  const others = Object.values(Code).filter(
    (code): code is Code => typeof code === "number" && code !== Code.Unavailable,
  );
  it.each(others)("returns false for code %i from a server", (code) => {
    expect(isInterruption(plain(code))).toBe(false);
  });

  it.each<[string, ConnectError]>([
    ["a refusal of the application's own interceptor", local(Code.PermissionDenied, undefined)],
    ["an argument that the application refuses", local(Code.InvalidArgument, undefined)],
    ["a message that cannot be read", new ConnectError("parse binary: x", Code.Internal)],
    ["a message over a limit", new ConnectError("message size 9 is …", Code.ResourceExhausted)],
    ["a deadline", new ConnectError("the operation timed out", Code.DeadlineExceeded)],
    ["a conflict", new ConnectError("the session changed", Code.Aborted)],
  ])("returns false for %s", (_, error) => {
    expect(isInterruption(error)).toBe(false);
  });

  it("returns false for an error with details, which no transport adds", () => {
    const error = new ConnectError("x", Code.Unknown);
    error.details = [{ type: "some.Detail", value: new Uint8Array() }];
    expect(isInterruption(error)).toBe(false);
  });

  it("returns false for a deadline and for a local error without a network cause", () => {
    expect(isInterruption(local(Code.DeadlineExceeded, system))).toBe(false);
    expect(isInterruption(local(Code.Internal, new Error("a bug")))).toBe(false);
    const circle = new Error("a circle");
    circle.cause = circle;
    expect(isInterruption(local(Code.Internal, circle))).toBe(false);
  });
});
