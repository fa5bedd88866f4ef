import { connect, createServer, type Http2Server } from "node:http2";
import type { AddressInfo } from "node:net";
import { createContextKey, createContextValues } from "@connectrpc/connect";
import { serve } from "@hono/node-server";
import express from "express";
import { fastify } from "fastify";
import { Hono } from "hono";
import { SessionError } from "rpc-session";
import { type FetchExchange, fromFastify, fromFetch, fromNode } from "rpc-session/http";
import { type TestSessions, testSessions } from "rpc-session/testing";
import { describe, expect, it, onTestFinished } from "vitest";
import { cookieEffects } from "../helpers/exchanges.ts";
import { listenForTest } from "../helpers/listen.ts";
import { send } from "../helpers/send.ts";

const issuer = "https://test.example";
const sameOrigin = { "sec-fetch-site": "same-origin", origin: issuer };
const navigation = {
  "sec-fetch-site": "cross-site",
  "sec-fetch-mode": "navigate",
  "sec-fetch-dest": "document",
};

/** The cookies of a response as a Cookie header; those of the sessions only. */
function cookieOf(response: Response): string {
  return response.headers
    .getSetCookie()
    .filter((cookie) => cookie.includes("rpcsession") && !cookie.includes("Max-Age=0"))
    .map((cookie) => cookie.slice(0, cookie.indexOf(";")))
    .join("; ");
}

/** Serves an application until the test is over, and returns its address. */
type Serve = (sessions: TestSessions) => Promise<string>;

/** The same small application with each framework: sign-in, callback, page, step-up, sign-out. */
const frameworks: readonly (readonly [string, Serve])[] = [
  [
    "Node.js",
    (sessions) =>
      listenForTest(async (req, res) => {
        res.setHeader("set-cookie", "theme=dark");
        try {
          const exchange = fromNode(req, res);
          if (req.url?.startsWith("/page")) {
            const { userId } = await sessions.getSession(exchange, { crossSite: "navigations" });
            res.end(userId);
            return;
          }
          await change(sessions, exchange, req.url ?? "");
          res.writeHead(303, { location: "/page" }).end();
        } catch (error) {
          res.writeHead(error instanceof SessionError ? error.statusCode : 500);
          res.end(String(error));
        }
      }),
  ],
  [
    "Express",
    (sessions) => {
      const app = express();
      app.disable("etag");
      app.use((_req, res, next) => {
        res.cookie("theme", "dark");
        next();
      });
      const router = express.Router();
      router.get("/page", async (req, res) => {
        const { userId } = await sessions.getSession(fromNode(req, res), {
          crossSite: "navigations",
        });
        res.send(userId);
      });
      router.all("/{*path}", async (req, res) => {
        await change(sessions, fromNode(req, res), req.originalUrl);
        res.redirect(303, "/page");
      });
      app.use("/", router);
      return listenForTest(app);
    },
  ],
  [
    "Fastify",
    async (sessions) => {
      const app = fastify();
      app.addHook("onRequest", async (_request, reply) => {
        reply.header("set-cookie", "theme=dark");
      });
      app.get("/page", async (request, reply) => {
        const exchange = fromFastify(request, reply);
        const { userId } = await sessions.getSession(exchange, { crossSite: "navigations" });
        return userId;
      });
      app.route({
        method: ["GET", "POST"],
        url: "/*",
        async handler(request, reply) {
          await change(sessions, fromFastify(request, reply), request.url);
          return reply.redirect("/page", 303);
        },
      });
      onTestFinished(() => app.close());
      return await app.listen({ port: 0, host: "127.0.0.1" });
    },
  ],
  [
    "Hono",
    async (sessions) => {
      const app = new Hono();
      app.use(async (c, next) => {
        c.header("set-cookie", "theme=dark");
        await next();
      });
      app.all("*", async (c) => {
        const exchange = fromFetch(c.req.raw);
        try {
          if (c.req.path === "/page") {
            const { userId } = await sessions.getSession(exchange, { crossSite: "navigations" });
            return exchange.respond(c.text(userId));
          }
          await change(sessions, exchange, c.req.path);
          return exchange.respond(c.redirect("/page", 303));
        } catch (error) {
          const status = error instanceof SessionError ? error.statusCode : 500;
          return exchange.respond(c.text(String(error), status));
        }
      });
      const server = serve({ fetch: app.fetch, port: 0, hostname: "127.0.0.1" });
      onTestFinished(() => void server.close());
      await new Promise<void>((resolve) => server.once("listening", resolve));
      return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    },
  ],
];

async function change(
  sessions: TestSessions,
  exchange: Parameters<TestSessions["create"]>[0],
  path: string,
): Promise<void> {
  if (path.startsWith("/sign-in")) {
    await sessions.create(exchange, { userId: "alice" });
  } else if (path.startsWith("/callback")) {
    await sessions.create(exchange, { userId: "alice", afterRedirect: "state-verified" });
  } else if (path.startsWith("/confirm")) {
    await sessions.reauthenticate(exchange);
  } else {
    await sessions.signOut(exchange);
  }
}

describe.each(frameworks)("feat:A12 an HTTP handler of %s", (_, start) => {
  it("signs in, reads the session, replaces it and signs out, and keeps other cookies", async () => {
    const sessions = testSessions();
    const url = await start(sessions);

    // 1. Sign in with a form.
    const signedIn = await send(`${url}/sign-in`, { method: "POST", headers: sameOrigin });
    expect([signedIn.status, signedIn.headers.get("location")]).toEqual([303, "/page"]);
    expect(signedIn.headers.get("cache-control")).toBe("no-store");
    expect(signedIn.headers.getSetCookie()[0]).toMatch(/^theme=dark/);
    expect(cookieEffects(signedIn.headers).slice(1)).toEqual(["access set", "refresh set"]);

    // 2. Open a page from a link of another site.
    const cookie = cookieOf(signedIn);
    const page = await send(`${url}/page`, { headers: { ...navigation, cookie } });
    expect([page.status, await page.text()]).toEqual([200, "alice"]);
    expect(page.headers.get("cache-control")).toBe("private, no-store");

    // 3. Authenticate again: the former cookies are of no use any more.
    const confirmed = await send(`${url}/confirm`, {
      method: "POST",
      headers: { ...sameOrigin, cookie },
    });
    expect(confirmed.status).toBe(303);
    const late = await send(`${url}/page`, { headers: { ...navigation, cookie } });
    expect(late.status).toBe(401);

    // 4. Sign out, after the access token has expired.
    sessions.clock.advance("20m");
    const after = { method: "POST", headers: { ...sameOrigin, cookie: cookieOf(confirmed) } };
    const signedOut = await send(`${url}/sign-out`, after);
    expect(cookieEffects(signedOut.headers).slice(1)).toHaveLength(4);
    expect((await sessions.list({ userId: "alice" })).sessions).toEqual([]);
  });

  it("feat:A13 signs in in the callback of a redirect, and refuses what nobody asked for", async () => {
    const sessions = testSessions();
    const url = await start(sessions);
    const callback = await send(`${url}/callback?code=1`, { headers: navigation });
    expect([callback.status, cookieOf(callback)]).toEqual([
      303,
      expect.stringContaining("access="),
    ]);

    const image = { ...navigation, "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image" };
    for (const [method, path, headers] of [
      ["GET", "/callback", image],
      ["HEAD", "/callback", navigation],
      ["GET", "/sign-in", navigation],
      ["POST", "/sign-in", { ...navigation, origin: "https://evil.example" }],
    ] as const) {
      const refused = await send(`${url}${path}`, { method, headers });
      expect([method, path, refused.status, cookieOf(refused)]).toEqual([method, path, 403, ""]);
    }
  });
});

describe("fromNode", () => {
  it("returns one exchange for each request, so that a second part of the handler sees the new session", async () => {
    const sessions = testSessions();
    const url = await listenForTest(async (req, res) => {
      await sessions.create(fromNode(req, res), { userId: "alice" });
      const { userId } = await sessions.getSession(fromNode(req, res));
      res.end(userId);
    });
    const { tokens } = await sessions.issue({ userId: "bob", transport: "cookie" });
    const cookie = `__Host-Http-rpcsession-access=${tokens.accessToken}`;
    const response = await send(url, { method: "POST", headers: { ...sameOrigin, cookie } });
    expect(await response.text()).toBe("alice");
    expect(cookieEffects(response.headers)).toEqual(["access set", "refresh set"]);
  });

  it("reads and writes the headers of the response itself, whoever set them", async () => {
    const url = await listenForTest((req, res) => {
      const { responseHeader } = fromNode(req, res);
      res.setHeader("vary", "Accept");
      responseHeader.append("vary", "Cookie");
      res.appendHeader("set-cookie", "a=1");
      responseHeader.append("set-cookie", "b=2");
      res.appendHeader("set-cookie", "c=3");
      res.setHeader("x-gone", "1");
      responseHeader.delete("x-gone");
      responseHeader.set("x-set", "1");
      res.setHeader("x-list", ["1", "2"]);
      const seen = { ...Object.fromEntries(responseHeader), has: responseHeader.has("x-gone") };
      res.removeHeader("x-set");
      const keys = [...responseHeader.keys()];
      const values: string[] = [];
      responseHeader.forEach((value) => {
        values.push(value);
      });
      res.end(
        JSON.stringify({
          seen,
          keys,
          values: values.length,
          list: [...responseHeader.values()].length,
          cookies: responseHeader.getSetCookie(),
        }),
      );
    });
    const response = await send(url);
    expect(await response.json()).toEqual({
      seen: {
        vary: "Accept, Cookie",
        "set-cookie": "c=3",
        "x-set": "1",
        "x-list": "1, 2",
        has: false,
      },
      keys: ["set-cookie", "set-cookie", "set-cookie", "vary", "x-list"],
      values: 5,
      list: 5,
      cookies: ["a=1", "b=2", "c=3"],
    });
    expect(response.headers.getSetCookie()).toEqual(["a=1", "b=2", "c=3"]);
    expect(response.headers.get("vary")).toBe("Accept, Cookie");
  });

  it("throws once the response headers have been sent, and so does an exchange from before", async () => {
    const sessions = testSessions();
    const failures: unknown[] = [];
    const url = await listenForTest(async (req, res) => {
      const before = fromNode(req, res);
      res.writeHead(200);
      for (const work of [
        async () => fromNode(req, res),
        async () => before.responseHeader.set("x-late", "1"),
        () => sessions.create(before, { userId: "alice" }),
      ]) {
        try {
          await work();
        } catch (error) {
          failures.push(error);
        }
      }
      res.end();
    });
    await send(url, { method: "POST" });
    expect(failures.map(String)).toEqual([
      expect.stringMatching(/^TypeError: fromNode: the response headers have already been sent/),
      expect.stringMatching(/^TypeError: the response headers have already been sent/),
      expect.stringMatching(/^TypeError: sessions\.create: the response headers have already been/),
    ]);
  });

  it("a response that is sent during a sign-in leaves no session behind", async () => {
    let sendResponse = () => {};
    const sessions = testSessions({
      onEvent: ({ type }) => {
        if (type === "created") {
          sendResponse();
        }
      },
    });
    let failure: unknown;
    const url = await listenForTest(async (req, res) => {
      sendResponse = () => res.end();
      failure = await sessions
        .create(fromNode(req, res), { userId: "alice" })
        .catch((error: unknown) => error);
    });
    await send(url, { method: "POST" });
    await expect.poll(() => failure).toBeInstanceOf(SessionError);
    expect((await sessions.list({ userId: "alice" })).sessions).toEqual([]);
  });

  it("a fetch Response that is returned during a sign-in leaves no session behind", async () => {
    let sendResponse = () => {};
    const sessions = testSessions({
      onEvent: ({ type }) => {
        if (type === "created") {
          sendResponse();
        }
      },
    });
    const exchange = fromFetch(new Request("https://test.example/sign-in", { method: "POST" }));
    sendResponse = () => void exchange.respond(new Response());
    await expect(sessions.create(exchange, { userId: "alice" })).rejects.toThrow(SessionError);
    expect((await sessions.list({ userId: "alice" })).sessions).toEqual([]);
  });

  it("works over HTTP/2, where the host is in :authority", async () => {
    const sessions = testSessions();
    const server = createServer((req, res) => {
      const exchange = fromNode(req, res);
      void sessions.create(exchange, { userId: "alice" }).then(() => res.end(exchange.url ?? ""));
    });
    const [headers, body] = await postOverHttp2(server, { origin: "http://other.example" });
    expect(body).toBe("http://other.example/sign-in?x=1");
    expect(headers["set-cookie"]).toHaveLength(2);
  });

  it.each([
    ["no host", "", "/path"],
    ["a host that is none", "[", "/path"],
    ["a host", "test.example:8443", "http://test.example:8443/path"],
  ])("survives %s", async (_, host, expected) => {
    const url = await listenForTest((req, res) => {
      res.end(fromNode(req, res).url ?? "");
    });
    expect(await getWithHost(url, host)).toBe(expected);
  });

  it("passes context values to clientIp", async () => {
    const kIp = createContextKey("");
    const sessions = testSessions({ clientIp: ({ values }) => values.get(kIp) });
    const url = await listenForTest(async (req, res) => {
      const values = createContextValues().set(kIp, req.socket.remoteAddress ?? "");
      const session = await sessions.create(fromNode(req, res, { values }), { userId: "alice" });
      res.end(JSON.stringify((await session.info()).device));
    });
    const response = await send(url, { method: "POST", headers: { "user-agent": "test" } });
    expect(await response.json()).toEqual({ userAgent: "test", ip: "127.0.0.1" });
  });
});

describe("fromFetch and fromFastify", () => {
  it("respond keeps status, body and cookies of a response, also if its headers are immutable", async () => {
    const sessions = testSessions();
    const request = () =>
      fromFetch(new Request(`${issuer}/`, { method: "POST", headers: sameOrigin }));
    const signedIn = async (response: Response): Promise<Response> => {
      const exchange: FetchExchange = request();
      await sessions.create(exchange, { userId: "alice" });
      return exchange.respond(response);
    };
    const redirect = await signedIn(Response.redirect(`${issuer}/next`, 303));
    expect([redirect.status, redirect.headers.get("location")]).toEqual([303, `${issuer}/next`]);
    expect(cookieEffects(redirect.headers)).toEqual(["access set", "refresh set"]);
    const text = await signedIn(
      new Response("hello", { status: 201, headers: { "set-cookie": "a=1", vary: "Accept" } }),
    );
    expect([text.status, await text.text()]).toEqual([201, "hello"]);
    expect(cookieEffects(text.headers)).toEqual(["a set", "access set", "refresh set"]);
    const empty = await signedIn(new Response(null, { status: 204 }));
    expect(empty.status).toBe(204);

    const late = request();
    late.respond(new Response());
    await expect(sessions.create(late, { userId: "alice" })).rejects.toThrow(
      /headers have already been sent/,
    );
  });

  it("say what to pass instead of something else", async () => {
    const nothing = undefined as never;
    expect(() => fromNode({} as never, {} as never)).toThrow(/pass fromNode\(req, res\)/);
    expect(() => fromNode(nothing, nothing)).toThrow(/pass fromNode\(req, res\)/);
    expect(() => fromFetch({} as never)).toThrow(/in Hono pass c\.req\.raw/);
    expect(() => fromFetch(nothing)).toThrow(/fromFetch needs a fetch Request/);
    expect(() => fromFastify({} as never, {} as never)).toThrow(/fromFastify\(request, reply\)/);
  });

  it("a reply of Fastify that has been sent is refused", async () => {
    const app = fastify();
    let failure: unknown;
    app.get("/", (request, reply) => {
      reply.send("done");
      setImmediate(() => {
        try {
          fromFastify(request, reply);
        } catch (error) {
          failure = error;
        }
      });
    });
    onTestFinished(() => app.close());
    await send(await app.listen({ port: 0, host: "127.0.0.1" }));
    await expect.poll(() => String(failure)).toMatch(/fromFastify: the response headers have/);
  });
});

/** Sends a GET request with any Host header. */
async function getWithHost(url: string, host: string): Promise<string> {
  const { connect: connectTo } = await import("node:net");
  const { port } = new URL(url);
  return await new Promise<string>((resolve, reject) => {
    let text = "";
    const socket = connectTo(Number(port), "127.0.0.1", () => {
      socket.write(`GET /path HTTP/1.1\r\nHost: ${host}\r\nConnection: close\r\n\r\n`);
    });
    socket.on("data", (data) => {
      text += data.toString();
    });
    socket.on("error", reject);
    socket.on("end", () => resolve(/\r\n\r\n(?:\w+\r\n)?(\S+)/.exec(text)?.[1] ?? text));
  });
}

async function postOverHttp2(
  server: Http2Server,
  { origin }: { readonly origin: string },
): Promise<[Record<string, unknown>, string]> {
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  const client = connect(`http://127.0.0.1:${port}`);
  onTestFinished(() => {
    client.close();
    server.close();
  });
  const stream = client.request({
    ":method": "POST",
    ":path": "/sign-in?x=1",
    ":authority": new URL(origin).host,
    "sec-fetch-site": "same-origin",
    origin,
  });
  let body = "";
  stream.setEncoding("utf8");
  stream.on("data", (text: string) => {
    body += text;
  });
  stream.end();
  return await new Promise((resolve, reject) => {
    let headers: Record<string, unknown> = {};
    stream.on("response", (received) => {
      headers = received;
    });
    stream.on("end", () => resolve([headers, body]));
    stream.on("error", reject);
  });
}
