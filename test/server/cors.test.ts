import { cors } from "@connectrpc/connect";
import { type CorsLists, sessionCors } from "rpc-session";
import { describe, expect, it } from "vitest";
import { header } from "../../src/base/wire.ts";

const allowedOrigins = ["https://app.example.com"];

describe("sessionCors", () => {
  it("feat:J3 sessionCors keeps Connect's lists and adds the headers of sessions", () => {
    const lists = sessionCors({ ...cors, allowedOrigins });
    expect(lists.allowedMethods).toEqual([...cors.allowedMethods]);
    expect(lists.allowedHeaders).toEqual([
      ...cors.allowedHeaders,
      "authorization",
      "rpcsession-transport",
      "rpcsession-csrf",
      "rpcsession-session",
      "dpop",
    ]);
    expect(lists.exposedHeaders).toEqual([
      ...cors.exposedHeaders,
      "rpcsession-access-token",
      "rpcsession-refresh-token",
      "rpcsession-csrf",
      "rpcsession-hint",
      "rpcsession-session",
      "rpcsession-heartbeat",
      "dpop-nonce",
    ]);
    expect(lists).toMatchObject({ allowedOrigins, allowCredentials: true, maxAge: 7200 });
  });

  it("feat:J3 sessionCors lists a header once, whatever its case was", () => {
    const lists = sessionCors({ ...cors, allowedHeaders: ["Authorization"] });
    expect(lists.allowedHeaders.filter((name) => /^authorization$/i.test(name))).toHaveLength(1);
  });

  it.each([
    ["allowedOrigins", { allowedOrigins: ["*"] }],
    ["allowedHeaders", { allowedHeaders: ["*"] }],
    ["exposedHeaders", { exposedHeaders: ["*"] }],
    ["allowedMethods", { allowedMethods: ["*"] }],
  ] as [string, Partial<CorsLists>][])(
    "feat:J3 sec:C20 sessionCors refuses a wildcard in %s",
    (_name, wildcard) => {
      expect(() => sessionCors({ ...cors, allowedOrigins, ...wildcard })).toThrow(TypeError);
    },
  );

  it("feat:J3 sessionCors accepts the origins of apps and extensions", () => {
    const apps = ["capacitor://localhost", "tauri://localhost", "chrome-extension://abcdef"];
    expect(sessionCors({ ...cors, allowedOrigins: apps }).allowedOrigins).toEqual(apps);
  });

  it.each([
    "https://app.example.com/",
    "capacitor://localhost/",
    "app.example.com",
    "null",
    "https://*.example.com",
  ])("feat:J3 sessionCors refuses an origin that no browser sends: %s", (origin) => {
    const make = () => sessionCors({ ...cors, allowedOrigins: [origin] });
    expect(make).toThrow(TypeError);
    expect(make).toThrow(/^allowedOrigins: .* is not an origin as browsers send it/);
  });

  it("feat:J3 sessionCors requires Connect's lists", () => {
    for (const slip of [{ allowedOrigins }, { ...cors, allowedOrigins: "https://a.example" }]) {
      expect(() => sessionCors(slip as never)).toThrow(
        /^sessionCors requires lists of strings: pass \{ \.\.\.cors/,
      );
    }
  });

  it("feat:J3 sessionCors: maxAge is a whole number of seconds", () => {
    expect(sessionCors({ ...cors, maxAge: 0 }).maxAge).toBe(0);
    for (const maxAge of [-1, 1.5, Number.NaN, Number.POSITIVE_INFINITY]) {
      expect(() => sessionCors({ ...cors, maxAge })).toThrow(
        /^maxAge must be a non-negative integer \(seconds\), got .*$/,
      );
    }
  });

  it("feat:J3 sessionCors exposes every header that a client reads", () => {
    const { exposedHeaders } = sessionCors(cors);
    const { transport: _asked, ...read } = header;
    expect(exposedHeaders).toEqual(expect.arrayContaining(Object.values(read)));
  });
});
