import { readFileSync } from "node:fs";
import http from "node:http";
import http2 from "node:http2";
import type { AddressInfo, Server } from "node:net";
import { join } from "node:path";
import { type ConnectRouter, createConnectRouter } from "@connectrpc/connect";
import { createFetchHandler } from "@connectrpc/connect/protocol";
import { expressConnectMiddleware } from "@connectrpc/connect-express";
import { fastifyConnectPlugin } from "@connectrpc/connect-fastify";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { createAdaptorServer } from "@hono/node-server";
import express from "express";
import { fastify } from "fastify";
import { Hono } from "hono";
import type { Sessions } from "rpc-session";
import type { Wire, WireTarget } from "../helpers/wire.ts";

const fixture = (name: string): string =>
  readFileSync(join(import.meta.dirname, "../fixtures", name), "utf8");
/** A certificate for the names of this machine, for tests only. */
export const certificate = fixture("localhost.crt");
const tls = { cert: certificate, key: fixture("localhost.key") };

/** A running server, over one version of HTTP. */
export interface Running extends WireTarget {
  readonly url: string;
  close(): Promise<void>;
}

/** A way to serve routes that sessions protect. */
export interface Adapter {
  readonly name: string;
  readonly protocols: readonly Wire["protocol"][];
  readonly http: Wire["http"];
  start(sessions: Sessions, routes: (router: ConnectRouter) => void): Promise<Running>;
}

const withoutGrpc = ["connect-json", "connect-proto", "grpc-web"] as const;
const all = [...withoutGrpc, "grpc"] as const;

export const adapters: readonly Adapter[] = [
  {
    name: "connect-node over HTTP/1.1",
    protocols: withoutGrpc,
    http: "h1",
    start: (sessions, routes) =>
      listen(http.createServer(connectNodeAdapter(sessions.protect({ routes })))),
  },
  {
    name: "connect-node over HTTP/2 with TLS",
    protocols: all,
    http: "h2c",
    start: (sessions, routes) =>
      listen(http2.createSecureServer(tls, connectNodeAdapter(sessions.protect({ routes }))), {
        url: "https://127.0.0.1",
      }),
  },
  {
    name: "connect-node over HTTP/2 without TLS",
    protocols: all,
    http: "h2c",
    start: (sessions, routes) =>
      listen(http2.createServer(connectNodeAdapter(sessions.protect({ routes })))),
  },
  {
    name: "connect-express",
    protocols: withoutGrpc,
    http: "h1",
    start(sessions, routes) {
      const app = express();
      app.use(expressConnectMiddleware(sessions.protect({ routes })));
      return listen(http.createServer(app));
    },
  },
  {
    name: "connect-fastify over HTTP/1.1",
    protocols: withoutGrpc,
    http: "h1",
    async start(sessions, routes) {
      const app = fastify();
      await app.register(fastifyConnectPlugin, sessions.protect({ routes }));
      await app.ready();
      return listen(app.server);
    },
  },
  {
    name: "connect-fastify over HTTP/2 without TLS",
    protocols: all,
    http: "h2c",
    async start(sessions, routes) {
      const app = fastify({ http2: true });
      await app.register(fastifyConnectPlugin, sessions.protect({ routes }));
      await app.ready();
      return listen(app.server);
    },
  },
  {
    name: "createFetchHandler in Hono",
    protocols: withoutGrpc,
    http: "h1",
    start(sessions, routes) {
      const { routes: guarded, ...options } = sessions.protect({ routes });
      const router = createConnectRouter(options);
      guarded(router);
      const app = new Hono();
      for (const handler of router.handlers) {
        const serve = createFetchHandler(handler);
        app.all(handler.requestPath, (context) => serve(context.req.raw));
      }
      return listen(createAdaptorServer(app) as http.Server);
    },
  },
];

async function listen(
  server: Server,
  { url = "http://127.0.0.1" }: { readonly url?: string } = {},
): Promise<Running> {
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  let client: http2.ClientHttp2Session | undefined;
  return {
    url: `${url}:${port}`,
    port: { h1: port, h2c: port },
    h2() {
      client ??= http2.connect(`${url}:${port}`, { ca: certificate });
      return client;
    },
    close: () =>
      new Promise((resolve) => {
        client?.destroy();
        server.close(() => resolve());
        if ("closeAllConnections" in server) {
          (server as http.Server).closeAllConnections();
        }
      }),
  };
}
