import {
  type ConnectRouterOptions,
  createConnectRouter,
  createContextValues,
  createRouterTransport,
  type Interceptor,
} from "@connectrpc/connect";
import { expressConnectMiddleware } from "@connectrpc/connect-express";
import { fastifyConnectPlugin } from "@connectrpc/connect-fastify";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import type { Request as ExpressRequest } from "express";
import { type FastifyInstance, type FastifyRequest, fastify } from "fastify";
import type { Sessions } from "rpc-session";
import type { VerifySessions } from "rpc-session/verify";
import { describe, expectTypeOf, it } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";

declare const sessions: Sessions;
declare const verifying: VerifySessions;

type NodeHandler = ReturnType<typeof connectNodeAdapter>;
type NodeServerRequest = Parameters<NodeHandler>[0];
type NodeServerResponse = Parameters<NodeHandler>[1];

describe("protect fits every adapter without a cast", () => {
  it("feat:K5 connect-node", () => {
    const listener = connectNodeAdapter(
      sessions.protect({
        routes: (router) => router.service(NotesService, {}),
        requestPathPrefix: "/api",
        contextValues(request) {
          expectTypeOf(request.socket.remoteAddress).toEqualTypeOf<string | undefined>();
          return createContextValues();
        },
      }),
    );
    expectTypeOf(listener).toBeFunction();
  });

  it("feat:K5 connect-node: an inline fallback needs no types of its own", () => {
    const listener = connectNodeAdapter(
      sessions.protect({
        routes: (router) => router.service(NotesService, {}),
        fallback(request, response) {
          expectTypeOf(request).toEqualTypeOf<NodeServerRequest>();
          expectTypeOf(response).toEqualTypeOf<NodeServerResponse>();
          response.end();
        },
      }),
    );
    expectTypeOf(listener).toBeFunction();
    const stored = verifying.protect({
      routes: (router) => router.service(NotesService, {}),
      fallback: (_request: NodeServerRequest, response: NodeServerResponse) => {
        response.end();
      },
    });
    expectTypeOf(connectNodeAdapter).toBeCallableWith(stored);
  });

  it("feat:K5 connect-express", () => {
    const handler = expressConnectMiddleware(
      sessions.protect({
        routes: (router) => router.service(NotesService, {}),
        requestPathPrefix: "/api",
        contextValues(request) {
          expectTypeOf(request).toEqualTypeOf<ExpressRequest>();
          return createContextValues();
        },
      }),
    );
    expectTypeOf(handler).toBeFunction();
  });

  it("feat:K5 connect-fastify", async () => {
    const server = fastify();
    await server.register(
      fastifyConnectPlugin,
      sessions.protect({
        routes: (router) => router.service(NotesService, {}),
        shutdownTimeoutMs: 1000,
        contextValues(request) {
          expectTypeOf(request).toExtend<FastifyRequest>();
          return createContextValues();
        },
      }),
    );
    expectTypeOf(server).toExtend<FastifyInstance>();
  });

  it("feat:K5 a router assembled by hand, for createFetchHandler", () => {
    const { routes, ...options } = sessions.protect({
      routes: (router) => router.service(NotesService, {}),
      readMaxBytes: 1024,
    });
    routes(createConnectRouter(options));
    expectTypeOf(options.readMaxBytes).toEqualTypeOf<number>();
    expectTypeOf(options.requestGate).toEqualTypeOf<ConnectRouterOptions["requestGate"]>();
    expectTypeOf(options.interceptors).toEqualTypeOf<Interceptor[] | undefined>();
    createRouterTransport(routes, { router: options });
  });

  it("feat:K5 options stored in a variable", () => {
    const options = sessions.protect({ routes: (router) => router.service(NotesService, {}) });
    expectTypeOf(connectNodeAdapter).toBeCallableWith(options);
    expectTypeOf(expressConnectMiddleware).toBeCallableWith(options);
    const forExpress = sessions.protect({
      routes: (router) => router.service(NotesService, {}),
      contextValues: (request: ExpressRequest) => {
        void request.ip;
        return createContextValues();
      },
    });
    expectTypeOf(expressConnectMiddleware).toBeCallableWith(forExpress);
    // @ts-expect-error the context values of another framework
    fastify().register(fastifyConnectPlugin, forExpress);
  });

  it("feat:K5 a service that only verifies", () => {
    const handler = expressConnectMiddleware(
      verifying.protect({
        routes: (router) => router.service(NotesService, {}),
        contextValues(request) {
          expectTypeOf(request).toEqualTypeOf<ExpressRequest>();
          return createContextValues();
        },
      }),
    );
    expectTypeOf(handler).toBeFunction();
  });
});
