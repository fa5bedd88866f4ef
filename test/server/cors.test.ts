import { cors } from "@connectrpc/connect";
import { type CorsLists, sessionCors } from "rpc-session";
import { describe, expect, it } from "vitest";

const allowedOrigins = ["https://app.example.com"];

describe("sessionCors", () => {
  it("keeps Connect's lists and adds what sessions need", () => {
    const lists = sessionCors({ ...cors, allowedOrigins });
    expect(lists.allowedMethods).toEqual([...cors.allowedMethods]);
    expect(lists.allowedHeaders).toEqual([
      ...cors.allowedHeaders,
      "authorization",
      "rpcsession-transport",
      "rpcsession-csrf",
    ]);
    expect(lists.exposedHeaders).toEqual([
      ...cors.exposedHeaders,
      "rpcsession-access-token",
      "rpcsession-refresh-token",
      "rpcsession-csrf",
      "rpcsession-hint",
      "rpcsession-session",
    ]);
    expect(lists).toMatchObject({ allowedOrigins, allowCredentials: true });
  });

  it("names a header once, in whatever case it was there", () => {
    const lists = sessionCors({ ...cors, allowedHeaders: ["Authorization"] });
    expect(lists.allowedHeaders.filter((name) => /^authorization$/i.test(name))).toHaveLength(1);
  });

  it.each([
    ["allowedOrigins", { allowedOrigins: ["*"] }],
    ["allowedHeaders", { allowedHeaders: ["*"] }],
    ["exposedHeaders", { exposedHeaders: ["*"] }],
    ["allowedMethods", { allowedMethods: ["*"] }],
  ] as [string, Partial<CorsLists>][])("C20 refuses a wildcard in %s", (_name, wildcard) => {
    expect(() => sessionCors({ ...cors, allowedOrigins, ...wildcard })).toThrow(TypeError);
  });
});
