import { once } from "node:events";
import type { IncomingMessage, ServerResponse } from "node:http";
import { connect as connectHttp2, createServer as createHttp2Server } from "node:http2";
import type { AddressInfo } from "node:net";
import { type ConnectRouter, createConnectRouter } from "@connectrpc/connect";
import { createFetchHandler } from "@connectrpc/connect/protocol";
import { expressConnectMiddleware } from "@connectrpc/connect-express";
import { fastifyConnectPlugin } from "@connectrpc/connect-fastify";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { serve } from "@hono/node-server";
import express from "express";
import { fastify } from "fastify";
import { sessionCors } from "rpc-session";
import { superTokens, superTokensAnswer } from "rpc-session/compat/supertokens";
import { fromNode } from "rpc-session/http";
import type { JsonObject } from "rpc-session/testing";
import { type TestSessions, testSessions } from "rpc-session/testing";
import { describe, expect, it, onTestFinished } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { SessionService } from "../../gen/rpcsession/v1/service_pb.ts";
import { listenForTest } from "../helpers/listen.ts";
import { send } from "../helpers/send.ts";

const issuer = "https://test.example";
const page = { origin: issuer, "sec-fetch-site": "same-origin" };

const routesOf = (sessions: TestSessions) => (router: ConnectRouter) => {
  router.service(NotesService, {
    async signIn({ user }, ctx) {
      await sessions.create(ctx, { userId: user, claims: { role: "reader", plan: "pro" } });
      return {};
    },
    listNotes: (_, ctx) => ({ notes: [{ text: sessions.require(ctx).userId }] }),
    async addNote(_, ctx) {
      await sessions.require(ctx).updateClaims({ plan: "frée" });
      return {};
    },
  });
};

/** A plain handler beside the RPCs, as the guide shows it. */
async function me(sessions: TestSessions, req: IncomingMessage, res: ServerResponse) {
  try {
    const session = await sessions.getSession(fromNode(req, res));
    res.setHeader("content-type", "application/json");
    res.end(JSON.stringify({ user: session.userId }));
  } catch (error) {
    const { status, body } = superTokensAnswer(error);
    res.writeHead(status, { "content-type": "application/json" });
    res.end(JSON.stringify(body));
  }
}

type Serve = (sessions: TestSessions) => Promise<string>;
const servers: readonly (readonly [string, Serve])[] = [
  [
    "Node.js",
    (sessions) => {
      const compat = superTokens(sessions, { issuer });
      const rpc = connectNodeAdapter(sessions.protect({ routes: routesOf(sessions) }));
      return listenForTest(
        compat.node((req: IncomingMessage, res: ServerResponse) =>
          req.url === "/me" ? void me(sessions, req, res) : rpc(req, res),
        ),
      );
    },
  ],
  [
    "Express",
    (sessions) => {
      const app = express();
      app.use(superTokens(sessions, { issuer }).middleware);
      app.get("/me", (req, res) => void me(sessions, req, res));
      app.use(expressConnectMiddleware(sessions.protect({ routes: routesOf(sessions) })));
      return listenForTest(app);
    },
  ],
  [
    "Fastify",
    async (sessions) => {
      const app = fastify();
      const { middleware } = superTokens(sessions, { issuer });
      app.addHook("onRequest", (request, reply, done) => middleware(request.raw, reply.raw, done));
      await app.register(fastifyConnectPlugin, sessions.protect({ routes: routesOf(sessions) }));
      app.get("/me", (request, reply) => {
        reply.hijack();
        return me(sessions, request.raw, reply.raw);
      });
      onTestFinished(() => app.close());
      return app.listen();
    },
  ],
  [
    "fetch",
    async (sessions) => {
      const { handlers } = routerOf(sessions);
      const byPath = new Map(handlers.map((each) => [each.requestPath, createFetchHandler(each)]));
      const handler = superTokens(sessions, { issuer }).fetch(async (request) => {
        const found = byPath.get(new URL(request.url).pathname);
        return found === undefined ? new Response(null, { status: 404 }) : found(request);
      });
      return new Promise<string>((resolve) => {
        const server = serve({ fetch: handler, port: 0 }, ({ port }) =>
          resolve(`http://localhost:${port}`),
        );
        onTestFinished(() => void server.close());
      });
    },
  ],
];

function routerOf(sessions: TestSessions): ConnectRouter {
  const { routes, ...options } = sessions.protect({ routes: routesOf(sessions) });
  const router = createConnectRouter(options);
  routes(router);
  return router;
}

/** What the SDK does with a response: its cookies, and the headers that it keeps. */
class Sdk {
  readonly kept = new Map<string, string>();
  readonly #cookies = new Map<string, string>();
  readonly base: string;
  readonly #mode: "cookie" | "header";

  constructor(base: string, mode: "cookie" | "header" = "cookie") {
    this.base = base;
    this.#mode = mode;
  }

  get cookie(): string {
    return [...this.#cookies].map((pair) => pair.join("=")).join("; ");
  }

  /** What the SDK tells the page about its session; undefined if it has none. */
  get front(): { uid: string; ate: number; up: Record<string, unknown> } | undefined {
    const token = this.kept.get("front-token");
    return token === undefined || token === "remove"
      ? undefined
      : JSON.parse(Buffer.from(token, "base64").toString());
  }

  async post(path: string, body: object = {}, rid = "anti-csrf"): Promise<Response> {
    const token = this.kept.get(rid === "session" ? "st-refresh-token" : "st-access-token");
    const antiCsrf = this.kept.get("anti-csrf");
    return this.#keep(
      await send(this.base + path, {
        method: path === "/me" ? "GET" : "POST",
        headers: {
          ...{ ...page, rid, "st-auth-mode": this.#mode, "content-type": "application/json" },
          ...{ "accept-encoding": "gzip, br" },
          ...(this.#cookies.size > 0 && { cookie: this.cookie }),
          ...(token && { authorization: `Bearer ${token}` }),
          ...(antiCsrf && { "anti-csrf": antiCsrf }),
        },
        ...(path !== "/me" && { body: JSON.stringify(body) }),
      }),
    );
  }

  call(method: string, body: object = {}): Promise<Response> {
    return this.post(`/notes.v1.NotesService/${method}`, body);
  }

  refresh(): Promise<Response> {
    return this.post("/auth/session/refresh", {}, "session");
  }

  #keep(response: Response): Response {
    for (const line of response.headers.getSetCookie()) {
      const [, name = "", value = ""] = /^([^=]+)=([^;]*)/.exec(line) ?? [];
      this.#cookies.set(name, value);
      if (value === "") {
        this.#cookies.delete(name);
      }
    }
    for (const name of ["front-token", "st-access-token", "st-refresh-token", "anti-csrf"]) {
      const value = response.headers.get(name);
      if (value !== null) {
        this.kept.set(name, value);
      }
    }
    return response;
  }
}

const options = {
  public: [NotesService.method.signIn],
  origins: [issuer],
  clientClaims: ({ role, plan }: JsonObject) => ({ role, plan }),
};

describe.each(servers)("feat:P20 the SDKs of SuperTokens, %s", (_, serveOn) => {
  it.each(["cookie", "header"] as const)(
    "sign in, refresh, see claims, sign out, by %s",
    async (mode) => {
      const sessions = testSessions({ ...options, browserHeaderTransport: true });
      const sdk = new Sdk(await serveOn(sessions), mode);

      const signedIn = await sdk.call("SignIn", { user: "ada" });
      expect(signedIn.status).toBe(200);
      expect(sdk.front).toMatchObject({
        uid: "ada",
        up: { sub: "ada", role: "reader", plan: "pro", iss: issuer },
      });
      const { ate, up } = sdk.front ?? { ate: 0, up: {} as Record<string, unknown> };
      expect(ate).toBeGreaterThan(sessions.clock.now());
      expect(Math.abs(Number(up.iat) * 1000 - sessions.clock.now())).toBeLessThan(1000);
      expect(sdk.kept.has("st-refresh-token")).toBe(mode === "header");
      expect(sdk.cookie === "").toBe(mode === "header");
      expect([...signedIn.headers.keys()].filter((name) => name.startsWith("rpcsession"))).toEqual(
        [],
      );
      expect(signedIn.headers.get("access-control-expose-headers")).toContain("front-token");

      expect(await (await sdk.call("ListNotes")).json()).toEqual({ notes: [{ text: "ada" }] });

      await sdk.call("AddNote");
      expect(sdk.front?.up).toMatchObject({ plan: "frée", sub: "ada" });

      sessions.clock.advance("20m");
      expect((await sdk.call("ListNotes")).status).toBe(401);
      const before = sdk.kept.get("front-token");
      const refreshed = await sdk.refresh();
      expect([refreshed.status, await refreshed.json()]).toEqual([200, {}]);
      expect(sdk.kept.get("front-token")).not.toBe(before);
      expect((await sdk.call("ListNotes")).status).toBe(200);

      const out = await sdk.post("/auth/signout");
      expect([out.status, await out.json()]).toEqual([200, { status: "OK" }]);
      expect(sdk.kept.get("front-token")).toBe("remove");
      expect(sdk.cookie).toBe("");
      expect((await sdk.call("ListNotes")).status).toBe(401);
      expect((await sdk.refresh()).status).toBe(401);
    },
  );

  it("a refused claim is 403, with what the SDK reports", async () => {
    const sessions = testSessions({
      ...options,
      methods: { "notes.v1.NotesService/ListNotes": { claims: { role: ["admin"] } } },
    });
    const sdk = new Sdk(await serveOn(sessions));
    await sdk.call("SignIn", { user: "ada" });
    const refused = await sdk.call("ListNotes");
    expect(refused.status).toBe(403);
    expect(await refused.json()).toMatchObject({
      code: "permission_denied",
      claimValidationErrors: [
        { id: "role", reason: { message: expect.any(String), expectedValue: "one of admin" } },
      ],
    });
  });

  it("a stolen refresh token ends the session of both holders", async () => {
    const sessions = testSessions(options);
    const sdk = new Sdk(await serveOn(sessions));
    await sdk.call("SignIn", { user: "ada" });
    const stolenCookie = sdk.cookie;
    for (let i = 0; i < 4; i++) {
      sessions.clock.advance("20m");
      expect((await sdk.refresh()).status).toBe(200);
      sessions.clock.advance("2m");
      await sdk.call("ListNotes");
    }
    const stolen = await send(`${sdk.base}/auth/session/refresh`, {
      method: "POST",
      headers: { ...page, rid: "session", "st-auth-mode": "cookie", cookie: stolenCookie },
    });
    expect(stolen.status).toBe(401);
    expect(stolen.headers.get("front-token")).toBe("remove");
    expect((await sdk.call("ListNotes")).status).toBe(401);
  });
});

it("feat:P20 over HTTP/2 as well", async () => {
  const sessions = testSessions({ ...options, browserHeaderTransport: true });
  const compat = superTokens(sessions, { issuer });
  const server = createHttp2Server(
    compat.node(connectNodeAdapter(sessions.protect({ routes: routesOf(sessions) }))),
  );
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  const client = connectHttp2(`http://127.0.0.1:${port}`);
  onTestFinished(() => {
    client.close();
    server.close();
  });
  const post = async (path: string, given: Record<string, string>, body: string) => {
    const stream = client.request({
      ...{ ":method": "POST", ":path": path, "content-type": "application/json", ...page },
      ...{ "st-auth-mode": "header", ...given },
    });
    stream.end(body);
    const [headers] = (await once(stream, "response")) as [Record<string, string>];
    stream.resume();
    await once(stream, "end");
    return headers;
  };
  const signedIn = await post("/notes.v1.NotesService/SignIn", {}, '{"user":"ada"}');
  expect(signedIn["front-token"]).toMatch(/^ey/);
  const refreshed = await post(
    "/auth/session/refresh",
    { authorization: `Bearer ${signedIn["st-refresh-token"]}` },
    "",
  );
  expect([refreshed[":status"], refreshed["front-token"]?.slice(0, 2)]).toEqual([200, "ey"]);
});

it.each<[string, unknown, object, RegExp]>([
  [
    "sessions that only verify",
    { jwks() {} },
    { issuer },
    /pass the object that createSessions returns/,
  ],
  [
    "an issuer that is none",
    testSessions(),
    { issuer: "here" },
    /issuer must be the issuer of createSessions/,
  ],
  [
    "a base path that is none",
    testSessions(),
    { issuer, basePath: "auth" },
    /basePath must be a path such as/,
  ],
])("refuses %s", (_, sessions, given, message) => {
  expect(() => superTokens(sessions as TestSessions, given as { issuer: string })).toThrow(message);
});

it("publishes keys and discovery, and adds its headers to CORS", async () => {
  const sessions = testSessions(options);
  const compat = superTokens(sessions, { issuer, basePath: "/api" });
  const handle = compat.fetch(() => new Response(null, { status: 404 }));
  const json = async (path: string) => (await handle(new Request(`${issuer}${path}`))).json();
  expect(await json("/api/jwt/jwks.json")).toEqual(await sessions.jwks());
  expect(await json("/api/.well-known/openid-configuration")).toEqual({
    ...{ issuer, jwks_uri: `${issuer}/api/jwt/jwks.json` },
  });
  const lists = compat.cors(
    sessionCors({ allowedMethods: [], allowedHeaders: [], exposedHeaders: [] }),
  );
  expect(lists.allowedHeaders).toEqual(
    expect.arrayContaining(["st-auth-mode", "anti-csrf", "rid"]),
  );
  expect(lists.exposedHeaders).toEqual(expect.arrayContaining(["front-token", "st-access-token"]));
});

it("its endpoints leave the origin to the CORS middleware, which allows credentials", async () => {
  const app = express();
  app.use((_, res, next) => {
    res.set("access-control-allow-origin", "https://app.example").set("x-app", "1");
    next();
  });
  app.use(superTokens(testSessions(options), { issuer }).middleware);
  const url = await listenForTest(app);
  for (const path of ["/.well-known/openid-configuration", "/jwt/jwks.json"]) {
    const { status, headers } = await send(`${url}/auth${path}`);
    expect([status, headers.get("access-control-allow-origin")]).toEqual([
      ...[200, "https://app.example"],
    ]);
  }
});

it("a session that ends while it is refreshed is over for the SDK", async () => {
  // The engine has taken the tokens back: they must not reach the client any more.
  const ended = {
    ...testSessions(options),
    register: (router: ConnectRouter) => router.service(SessionService, { refresh: () => ({}) }),
  };
  const handle = superTokens(ended, { issuer }).fetch(() => new Response());
  const headers = { ...page, rid: "session", "st-auth-mode": "header", authorization: "Bearer x" };
  const asked = new Request(`${issuer}/auth/session/refresh`, { method: "POST", headers });
  const answer = await handle(asked);
  expect([answer.status, answer.headers.get("front-token")]).toEqual([401, "remove"]);
  expect(await answer.json()).toEqual({ message: "unauthorised" });
});

it("requests of other clients stay as they are", async () => {
  const sessions = testSessions(options);
  const seen: Record<string, string>[] = [];
  const handle = superTokens(sessions, { issuer }).fetch((request) => {
    seen.push(Object.fromEntries(request.headers));
    return new Response(null, { headers: { "rpcsession-csrf": "x" } });
  });
  const own = { "rpcsession-session": "signedOut", rid: "anti-csrf", "anti-csrf": "y" };
  for (const headers of [{ "accept-encoding": "gzip" }, own]) {
    const response = await handle(new Request(`${issuer}/x`, { headers }));
    expect(response.headers.get("rpcsession-csrf")).toBe("x");
    expect(response.headers.has("anti-csrf")).toBe(false);
    expect(seen.at(-1)).toEqual(headers);
  }
});
