import type { IncomingMessage } from "node:http";
import type { Http2ServerRequest } from "node:http2";
import {
  Code,
  type ConnectRouter,
  createClient,
  createContextKey,
  createContextValues,
  createRouterTransport,
} from "@connectrpc/connect";
import { connectNodeAdapter, createConnectTransport } from "@connectrpc/connect-node";
import { createSessionClient } from "rpc-session/client";
import { type TestSessions, testSessions } from "rpc-session/testing";
import { describe, expect, it } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { SessionService } from "../../gen/rpcsession/v1/service_pb.ts";
import { listenForTest } from "../helpers/listen.ts";
import { notesApp } from "../helpers/notes.ts";

describe("feat:N2 a custom SessionService", () => {
  it("replaces a method, leaves another one out, and keeps the rest", async () => {
    const { rpc, session, sessions } = await signedIn((router, { service }) => {
      const { revokeOtherSessions: _, ...kept } = service;
      const getSession = () => ({ session: { userId: "nobody" } });
      router.service(SessionService, { ...kept, getSession });
    });
    expect((await rpc.getSession({})).session?.userId).toBe("nobody");
    expect((await rpc.listSessions({})).sessions[0]?.userId).toBe("alice");
    const left = await rpc.revokeOtherSessions({}).catch((error: unknown) => error);
    expect(left).toMatchObject({ code: Code.Unimplemented });
    sessions.clock.advance("16m");
    expect((await rpc.listSessions({})).sessions).toHaveLength(1);
    await session.signOut();
    expect((await sessions.list({ userId: "alice" })).sessions).toEqual([]);
  });

  it("is protected like the built-in one", async () => {
    const { transport } = await signedIn((router, { service }) => {
      router.service(SessionService, { ...service, getSession: () => ({}) });
    });
    const stranger = createClient(SessionService, transport());
    await expect(stranger.getSession({})).rejects.toMatchObject({ code: Code.Unauthenticated });
  });
});

describe("feat:N3 custom context values", () => {
  it("reach gates, clientIp, interceptors and handlers of the same call", async () => {
    const key = createContextKey("nowhere");
    const seen: string[] = [];
    const sessions = testSessions({
      public: [NotesService.method.signIn],
      clientIp: ({ values }) => values.get(key),
    });
    const url = await listenForTest(
      connectNodeAdapter(
        sessions.protect({
          contextValues: ({ socket }: IncomingMessage | Http2ServerRequest) =>
            createContextValues().set(key, `${socket.remoteAddress}`),
          requestGate: async ({ values }) => {
            seen.push(`gate ${values.get(key)}`);
          },
          interceptors: [
            (next) => (request) => {
              seen.push(`interceptor ${request.contextValues.get(key)}`);
              return next(request);
            },
          ],
          routes: (router) =>
            router.service(NotesService, {
              async signIn({ user }, context) {
                seen.push(`handler ${context.values.get(key)}`);
                await sessions.create(context, { userId: user });
                return {};
              },
            }),
        }),
      ),
    );
    const notes = createClient(
      NotesService,
      createConnectTransport({ baseUrl: url, httpVersion: "1.1" }),
    );
    await notes.signIn({ user: "alice" });
    expect(seen).toEqual(["gate", "interceptor", "handler"].map((name) => `${name} 127.0.0.1`));
    const [session] = (await sessions.list({ userId: "alice" })).sessions;
    expect(session?.device.ip).toBe("127.0.0.1");
  });
});

/** A service with the routes that `add` adds, and alice's client. */
async function signedIn(add: (router: ConnectRouter, sessions: TestSessions) => void) {
  const sessions = testSessions({ public: [NotesService.method.signIn] });
  const { routes, ...router } = sessions.protect({
    routes: (given) => {
      notesApp(sessions).routes(given);
      add(given, sessions);
    },
  });
  const transport = (options: object = {}) =>
    createRouterTransport(routes, { router, transport: options });
  const session = createSessionClient({
    transport: ({ interceptors }) => transport({ interceptors }),
  });
  await createClient(NotesService, session.transport).signIn({ user: "alice" });
  return { sessions, session, transport, rpc: createClient(SessionService, session.transport) };
}
