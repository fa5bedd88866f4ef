import { connect as connect2, createServer as createServer2 } from "node:http2";
import type { AddressInfo } from "node:net";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { jwksFallback, jwksHandler } from "rpc-session/http";
import { testSessions } from "rpc-session/testing";
import { describe, expect, it, onTestFinished } from "vitest";
import { publishAhead } from "../../src/engine/keys/rotation.ts";
import { listenForTest } from "../helpers/listen.ts";
import { notesApp } from "../helpers/notes.ts";
import { watchedStore } from "../helpers/watched-store.ts";

const url = "https://api.example.com/.well-known/jwks.json";

/** The store calls that the feed and the sweeper make on their own. */
const background = new Set<string>(["changes", "lease", "prune", "removeSigningKeysBelow"]);

describe("feat:H4 jwksHandler", () => {
  it("publishes the public members of the keys to every origin, cacheable for five minutes", async () => {
    const handle = jwksHandler(testSessions());
    const response = await handle(new Request(url));
    expect(response?.status).toBe(200);
    expect(Object.fromEntries(response?.headers ?? [])).toEqual({
      "access-control-allow-origin": "*",
      "cache-control": "public, max-age=300",
      "content-type": "application/json",
      "x-content-type-options": "nosniff",
    });
    expect(await response?.json()).toHaveProperty("keys", [
      {
        kty: "EC",
        crv: "P-256",
        x: expect.any(String),
        y: expect.any(String),
        kid: expect.stringMatching(/^[\w-]{43}$/),
        alg: "ES256",
        use: "sig",
      },
    ]);
  });

  it("sec:J17 caches keep the keys for less time than a key is published before it signs", async () => {
    const response = await jwksHandler(testSessions())(new Request(url));
    const maxAge = Number(/max-age=(\d+)/.exec(response?.headers.get("cache-control") ?? "")?.[1]);
    const oldestAnswer = 60;
    expect((maxAge + oldestAnswer) * 1000).toBeLessThan(publishAhead);
  });

  it("responds to HEAD without a body, and ignores a query", async () => {
    const handle = jwksHandler(testSessions());
    const head = await handle(new Request(`${url}?x=1`, { method: "HEAD" }));
    expect([head?.status, await head?.text()]).toEqual([200, ""]);
    expect(head?.headers.get("cache-control")).toBe("public, max-age=300");
  });

  it.each(["POST", "PUT", "DELETE", "OPTIONS"])("refuses %s", async (method) => {
    const response = await jwksHandler(testSessions())(new Request(url, { method }));
    expect([response?.status, response?.headers.get("allow")]).toEqual([405, "GET, HEAD"]);
  });

  it.each(["/", "/jwks.json", "/.well-known/jwks.json/", "/a/.well-known/jwks.json"])(
    "leaves %s to others",
    async (path) => {
      const handle = jwksHandler(testSessions());
      expect(await handle(new Request(`https://api.example.com${path}`))).toBeUndefined();
    },
  );

  it("uses the given path", async () => {
    const handle = jwksHandler(testSessions(), { path: "/keys" });
    expect((await handle(new Request("https://api.example.com/keys")))?.status).toBe(200);
    expect(await handle(new Request(url))).toBeUndefined();
    expect(() => jwksHandler(testSessions(), { path: "keys" })).toThrow(/^path must begin with/);
  });

  it("responds with a bare 503 without keys, and publishes them once they are available", async () => {
    const { store, failing } = watchedStore();
    failing.add("signingKeys");
    const handle = jwksHandler(testSessions({ store }));
    const response = await handle(new Request(url));
    expect([response?.status, response?.headers.get("retry-after")]).toEqual([503, "1"]);
    expect(response?.headers.get("cache-control")).toBe("no-store");
    expect(await response?.text()).toBe("");
    failing.clear();
    expect((await handle(new Request(url)))?.status).toBe(200);
  });

  it("publishes the known keys in an outage, and reads the store once a minute", async () => {
    const { store, failing, take } = watchedStore();
    const sessions = testSessions({ store });
    const handle = jwksHandler(sessions);
    const known = await (await handle(new Request(url)))?.text();
    failing.add("signingKeys");
    take();
    sessions.clock.advance("2m");
    for (let i = 0; i < 1000; i++) {
      expect(await (await handle(new Request(url)))?.text()).toBe(known);
    }
    expect(take().filter((method) => !background.has(method))).toEqual(["signingKeys"]);
  });
});

describe("feat:H4 jwksFallback", () => {
  const path = "/.well-known/jwks.json";

  it("works with connectNodeAdapter over HTTP/1.1 and HTTP/2", async () => {
    const sessions = testSessions();
    const adapter = connectNodeAdapter({
      ...sessions.protect({ routes: notesApp(sessions).routes }),
      fallback: jwksFallback(sessions),
    });
    const base = await listenForTest(adapter);
    const expected = JSON.stringify(await sessions.jwks());
    expect(await (await fetch(`${base}${path}`)).text()).toBe(expected);
    expect((await fetch(`${base}/else`)).status).toBe(404);
    expect(await getHttp2(adapter, path)).toEqual([200, expected]);
    expect(await getHttp2(adapter, "/else")).toEqual([404, ""]);
  });

  it("works with a plain server and responds to every method", async () => {
    const base = await listenForTest(jwksFallback(testSessions()));
    const status = async (method: string) => (await fetch(`${base}${path}`, { method })).status;
    expect(await status("GET")).toBe(200);
    expect(await status("HEAD")).toBe(200);
    expect(await status("POST")).toBe(405);
    expect((await fetch(`${base}${path}?a=b`)).status).toBe(200);
  });

  it("works in front of other middleware", async () => {
    const fallback = jwksFallback(testSessions());
    const base = await listenForTest((request, response) => {
      fallback(request, response, () => response.writeHead(418).end());
    });
    expect((await fetch(`${base}${path}`)).status).toBe(200);
    expect((await fetch(`${base}/else`)).status).toBe(418);
  });

  it("responds with 503 without keys", async () => {
    const { store, failing } = watchedStore();
    failing.add("signingKeys");
    const base = await listenForTest(jwksFallback(testSessions({ store })));
    const response = await fetch(`${base}${path}`);
    expect([response.status, await response.text()]).toEqual([503, ""]);
  });
});

async function getHttp2(
  listener: Parameters<typeof createServer2>[1] & object,
  path: string,
): Promise<[number | undefined, string]> {
  const server = createServer2(listener);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const client = connect2(`http://127.0.0.1:${(server.address() as AddressInfo).port}`);
  onTestFinished(() => {
    client.destroy();
    server.close();
  });
  const stream = client.request({ ":path": path });
  let status: number | undefined;
  stream.on("response", (headers) => {
    status = headers[":status"];
  });
  let body = "";
  for await (const chunk of stream.setEncoding("utf8")) {
    body += String(chunk);
  }
  return [status, body];
}
