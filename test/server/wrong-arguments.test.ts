import { IncomingMessage, ServerResponse } from "node:http";
import { Socket } from "node:net";
import { createContextValues, type HandlerContext } from "@connectrpc/connect";
import { Hono } from "hono";
import type { Exchange } from "rpc-session";
import { testSessions } from "rpc-session/testing";
import { describe, expect, it } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { exchangeOf } from "../helpers/exchanges.ts";
import { wireServer } from "../helpers/wire-server.ts";

const node = new IncomingMessage(new Socket());
const fetched = new Request("https://test.example/");
const fastify = { raw: node, headers: node.headers, body: {} };
let hono: unknown;
await new Hono()
  .get("/", (c) => {
    hono = c;
    return c.text("");
  })
  .request("/");

const given: readonly (readonly [string, unknown, string, string | undefined])[] = [
  ["a request of Node.js", node, "a request of Node.js or Express", "fromNode(req, res)"],
  ["a request of Fastify", fastify, "a request of Fastify", "fromFastify(request, reply)"],
  ["a fetch Request", fetched, "a fetch Request", "fromFetch(request)"],
  ["a context of Hono", hono, "a context of Hono", "fromFetch(c.req.raw)"],
  [
    "an event of SvelteKit",
    { request: fetched },
    "an object with a fetch Request",
    "fromFetch(event.request)",
  ],
  ["a response", new ServerResponse(node), "an object of another kind", undefined],
  ["nothing", undefined, "undefined", undefined],
  ["null", null, "null", undefined],
  ["a text", "ctx", "a string", undefined],
];

describe("feat:B16 a wrong argument is named, and the message says what to pass", () => {
  const sessions = testSessions();
  const externalId = { issuer: "former", sid: "1" };
  const createdAt = new Date();
  const onExchanges: readonly (readonly [string, (x: Exchange) => Promise<unknown>])[] = [
    ["getSession", (x) => sessions.getSession(x)],
    ["create", (x) => sessions.create(x, { userId: "alice" })],
    ["adopt", (x) => sessions.adopt(x, { userId: "alice", externalId, createdAt })],
    ["reauthenticate", (x) => sessions.reauthenticate(x)],
    ["fork", (x) => sessions.fork(x)],
    ["ticket", (x) => sessions.ticket(x, { purpose: "download" })],
    ["signOut", (x) => sessions.signOut(x)],
  ];
  it.each(given)("%s, instead of an exchange", async (_, value, name, helper) => {
    for (const [method, call] of onExchanges) {
      const expected =
        helper === undefined
          ? `sessions.${method} received ${name}; pass the context of the handler, or an exchange such as fromNode(req, res) of rpc-session/http`
          : `sessions.${method} received ${name}; pass ${helper} of rpc-session/http`;
      await expect(call(value as Exchange)).rejects.toThrow(new TypeError(expected));
    }
  });

  const onRpcs: readonly (readonly [string, (context: HandlerContext) => unknown])[] = [
    ["require", (context) => sessions.require(context)],
    ["current", (context) => sessions.current(context)],
    ["requireFresh", (context) => sessions.requireFresh(context, "5m")],
  ];
  it.each(given)("%s, instead of the context of an RPC", (_, value, name, helper) => {
    for (const [method, call] of onRpcs) {
      const expected =
        helper === undefined
          ? `sessions.${method} received ${name}; pass the context that the handler of the RPC receives, or the request of an interceptor`
          : `sessions.${method} received ${name}, which is not the context of an RPC; outside RPCs use await sessions.getSession(${helper}), with the helper of rpc-session/http`;
      expect(() => call(value as HandlerContext)).toThrow(new TypeError(expected));
    }
  });

  it("the request of an interceptor, instead of an exchange", async () => {
    const request = { header: new Headers(), contextValues: createContextValues() };
    await expect(sessions.create(request as never, { userId: "alice" })).rejects.toThrow(
      "sessions.create received the request of an interceptor; pass the context of the handler",
    );
  });

  it("an exchange, instead of the context of an RPC", () => {
    expect(() => sessions.require(exchangeOf({}) as HandlerContext)).toThrow(
      "sessions.require received an exchange that is not an RPC; use await sessions.getSession(exchange)",
    );
  });

  it.each(["require", "create", "getSession"] as const)(
    "%s with a call of another instance",
    async (method) => {
      const others = testSessions();
      const { tokens } = await others.issue({ userId: "alice", transport: "cookie" });
      let failure: unknown;
      const routes = others.protect({
        routes: (router) =>
          router.service(NotesService, {
            async listNotes(_, context) {
              try {
                await {
                  require: () => sessions.require(context),
                  create: () => sessions.create(context, { userId: "alice" }),
                  getSession: () => sessions.getSession(context),
                }[method]();
              } catch (error) {
                failure = error;
              }
              return {};
            },
          }),
      });
      const { error } = await wireServer(routes).call(
        NotesService.method.listNotes,
        {},
        {
          access: tokens.accessToken,
        },
      );
      expect(error).toBeUndefined();
      expect((failure as Error).message).toMatch(
        /another instance of createSessions or verifySessions does; use the instance whose protect\(\)/,
      );
    },
  );

  it("afterRedirect in an RPC", async () => {
    const own = testSessions({ public: [NotesService.method.signIn] });
    let failure: unknown;
    const routes = own.protect({
      routes: (router) =>
        router.service(NotesService, {
          async signIn(_, context) {
            failure = await own
              .create(context, { userId: "alice", afterRedirect: "state-verified" })
              .catch((error: unknown) => error);
            return {};
          },
        }),
    });
    await wireServer(routes).call(NotesService.method.signIn, {}, {});
    expect((failure as Error).message).toMatch(
      /sessions\.create: afterRedirect is for the callback of a redirect, which is never an RPC/,
    );
  });
});
