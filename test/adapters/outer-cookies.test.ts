// What docs/handlers.md says of cookies that the framework sets, not Connect.
import type { AddressInfo } from "node:net";
import type { ConnectRouter } from "@connectrpc/connect";
import { expressConnectMiddleware } from "@connectrpc/connect-express";
import { fastifyConnectPlugin } from "@connectrpc/connect-fastify";
import express from "express";
import { fastify } from "fastify";
import { type TestSessions, testSessions } from "rpc-session/testing";
import { afterEach, expect, test } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";

const cleanup: (() => unknown)[] = [];
afterEach(async () => {
  for (const close of cleanup.splice(0)) {
    await close();
  }
});

function serviceOf(sessions: TestSessions) {
  return sessions.protect({
    routes: (router: ConnectRouter) =>
      router.service(NotesService, {
        async signIn(_request, context) {
          await sessions.create(context, { userId: "alice" });
          return {};
        },
        addNote: () => ({}),
      }),
  });
}

async function cookiesOf(port: number, method: string): Promise<string[]> {
  const headers = { "content-type": "application/json", "sec-fetch-site": "same-origin" };
  const url = `http://127.0.0.1:${port}/notes.v1.NotesService/${method}`;
  const response = await fetch(url, { method: "POST", headers, body: "{}" });
  expect(response.status).toBe(200);
  return response.headers.getSetCookie().map((cookie) => cookie.replace(/=.*/, ""));
}

const session = ["__Host-Http-rpcsession-access", "__Host-Http-rpcsession-refresh"];

test("feat:I8 cookies that Express sets survive unless the response sets session cookies", async () => {
  const sessions = testSessions({
    public: [NotesService.method.signIn, NotesService.method.addNote],
  });
  const app = express();
  app.use((_request, response, next) => {
    response.cookie("outer", "1");
    next();
  });
  app.use(expressConnectMiddleware(serviceOf(sessions)));
  const server = app.listen(0, "127.0.0.1");
  await new Promise((resolve) => server.once("listening", resolve));
  cleanup.push(
    () => server.closeAllConnections(),
    () => server.close(),
  );
  const { port } = server.address() as AddressInfo;
  expect(await cookiesOf(port, "AddNote")).toEqual(["outer"]);
  expect(await cookiesOf(port, "SignIn")).toEqual(session);
});

test.each([
  ["onRequest", ["outer"]],
  ["onSend", []],
] as const)(
  "feat:I8 cookies that Fastify sets in %s are lost where the response sets session cookies",
  async (hook, kept) => {
    const sessions = testSessions({
      public: [NotesService.method.signIn, NotesService.method.addNote],
    });
    const server = fastify();
    const set = async (
      _request: unknown,
      reply: { header(name: string, value: string): unknown },
    ) => void reply.header("set-cookie", "outer=1");
    if (hook === "onRequest") {
      server.addHook("onRequest", set);
    } else {
      server.addHook("onSend", set);
    }
    await server.register(fastifyConnectPlugin, serviceOf(sessions));
    await server.listen({ port: 0, host: "127.0.0.1" });
    cleanup.push(() => server.close());
    const { port } = server.server.address() as AddressInfo;
    expect(await cookiesOf(port, "AddNote")).toEqual(kept);
    expect(await cookiesOf(port, "SignIn")).toEqual(session);
  },
);
