import http from "node:http";
import http2 from "node:http2";
import type { AddressInfo } from "node:net";
import type { ConnectRouter, ConnectRouterOptions } from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { type TestSessions, testSessions } from "rpc-session/testing";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { notesApp } from "./notes.ts";

/** A running notes service, over HTTP/1.1 and over HTTP/2 without TLS. */
export interface NotesServer {
  readonly sessions: TestSessions;
  /** How often its handlers ran. */
  readonly calls: { handled: number };
  /** The Cookie header that the service's own interceptor last saw. */
  readonly seen: { cookie: string | null };
  readonly port: { readonly h1: number; readonly h2c: number };
  /** Returns a connection to the h2c port, the same one until it ends. */
  h2(): http2.ClientHttp2Session;
  /** Closes the server. Fails if another client still holds a connection. */
  close(): Promise<void>;
}

type Routes = (router: ConnectRouter) => void;
type AdapterOptions = ConnectRouterOptions & { routes: (router: ConnectRouter) => unknown };

export type TestSessionsOptions = NonNullable<Parameters<typeof testSessions>[0]>;

/** Options of a notes server. */
export interface NotesServerOptions {
  readonly sessions?: TestSessionsOptions;
  /** Creates the sessions. Default: `testSessions`. */
  readonly create?: (options: TestSessionsOptions) => TestSessions;
  /** Turns the routes into options of an adapter. Default: `sessions.protect`. */
  readonly adapt?: (sessions: TestSessions, routes: Routes) => AdapterOptions;
}

export async function startNotes(options: NotesServerOptions = {}): Promise<NotesServer> {
  const { create = testSessions } = options;
  const sessions = create({ public: [NotesService.method.signIn], ...options.sessions });
  const { routes, calls } = notesApp(sessions);
  const seen: NotesServer["seen"] = { cookie: null };
  const adapt = options.adapt ?? ((s, r) => s.protect({ routes: r }));
  const adapted: AdapterOptions = adapt(sessions, routes);
  const handler = connectNodeAdapter({
    ...adapted,
    interceptors: [
      ...(adapted.interceptors ?? []),
      (next) => (request) => {
        seen.cookie = request.header.get("cookie");
        return next(request);
      },
    ],
  });
  await sessions.ready();
  const h1 = await listen(http.createServer(handler));
  const h2c = await listen(http2.createServer(handler));
  let client: http2.ClientHttp2Session | undefined;
  return {
    sessions,
    calls,
    seen,
    port: { h1: h1.port, h2c: h2c.port },
    h2() {
      if (client === undefined || client.closed || client.destroyed) {
        client = http2.connect(`http://127.0.0.1:${h2c.port}`);
      }
      return client;
    },
    async close() {
      client?.destroy();
      await Promise.all([h1.close(), h2c.close()]);
      await sessions.close();
    },
  };
}

interface Listening {
  readonly port: number;
  close(): Promise<void>;
}

async function listen(server: http.Server | http2.Http2Server): Promise<Listening> {
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    port: (server.address() as AddressInfo).port,
    close: () =>
      new Promise((resolve, reject) => {
        const tooLong = setTimeout(
          () =>
            reject(
              new Error(
                "a connection is still open 30 s after the server closed; close the client in the test",
              ),
            ),
          30_000,
        );
        // The callback runs when the last connection has ended.
        server.close((error) => {
          clearTimeout(tooLong);
          if (error === undefined || error === null) {
            resolve();
          } else {
            reject(error);
          }
        });
      }),
  };
}
