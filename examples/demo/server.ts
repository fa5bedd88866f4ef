// The server of the demo: a notes service with sessions, over HTTP/1.1 and HTTP/2 without TLS.
import { createServer as createHttp1, type RequestListener } from "node:http";
import { createServer as createHttp2, type Http2Session } from "node:http2";
import type { AddressInfo, Server } from "node:net";
import { Code, ConnectError, type ConnectRouter } from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import {
  createSessions,
  type SessionEvent,
  type Sessions,
  type SessionsOptions,
} from "rpc-session";
import { sqliteStore } from "rpc-session/stores/sqlite";
import { NotesService } from "../gen/notes/v1/notes_pb.ts";

export interface DemoServer {
  /** The HTTP/1.1 URL, for Connect and gRPC-Web. It is also the issuer. */
  readonly http1: string;
  /** The URL for HTTP/2 without TLS, which gRPC needs. */
  readonly http2: string;
  /** How often a method was requested. */
  readonly asked: (method: string) => number;
  /** How often the handlers of the notes service ran. */
  readonly handled: () => number;
  readonly events: readonly SessionEvent[];
  close(): Promise<void>;
}

/** @param file the SQLite database */
export async function startServer(
  file: string,
  options: Pick<SessionsOptions, "lifetimes" | "refresh">,
): Promise<DemoServer> {
  const http1 = createHttp1();
  const http2 = createHttp2();
  const connections = new Set<Http2Session>();
  http2.on("session", (session) => connections.add(session));
  // Listen before creating the sessions: the issuer is the address of the service.
  const [issuer, http2Url] = await Promise.all([listen(http1), listen(http2)]);

  const events: SessionEvent[] = [];
  const asked = new Map<string, number>();
  const handled = { count: 0 };
  const sessions = createSessions({
    issuer,
    store: sqliteStore(file),
    public: [NotesService.method.signIn],
    onEvent: (event) => events.push(event),
    ...options,
  });
  const handle = connectNodeAdapter(
    sessions.protect({
      routes: (router) => notes(router, sessions, handled),
      readMaxBytes: 2 ** 20,
    }),
  );
  const listener: RequestListener = (request, response) => {
    const method = request.url?.split("?")[0]?.split("/").at(-1) ?? "";
    asked.set(method, (asked.get(method) ?? 0) + 1);
    handle(request, response);
  };
  http1.on("request", listener);
  http2.on("request", listener as never);
  await sessions.ready();

  return {
    http1: issuer,
    http2: http2Url,
    asked: (method) => asked.get(method) ?? 0,
    handled: () => handled.count,
    events,
    async close() {
      for (const connection of connections) {
        connection.destroy();
      }
      http1.closeAllConnections();
      await Promise.all([closed(http1), closed(http2)]);
      await sessions.close();
    },
  };
}

function notes(router: ConnectRouter, sessions: Sessions, handled: { count: number }): void {
  const texts = new Map<string, string[]>();
  const notesOf = (userId: string): string[] => {
    handled.count++;
    const list = texts.get(userId) ?? [];
    texts.set(userId, list);
    return list;
  };
  router.service(NotesService, {
    async signIn({ user, password }, context) {
      if (password !== "correct horse") {
        throw new ConnectError("wrong user or password", Code.PermissionDenied);
      }
      await sessions.create(context, { userId: user, claims: { role: "editor" } });
      return {};
    },
    async signOut(_request, context) {
      await sessions.require(context).revoke();
      return {};
    },
    listNotes(_request, context) {
      return { notes: notesOf(sessions.require(context).userId).map((text) => ({ text })) };
    },
    addNote({ note }, context) {
      notesOf(sessions.require(context).userId).push(note?.text ?? "");
      return {};
    },
    async *watchNotes(_request, context) {
      for (const text of notesOf(sessions.require(context).userId)) {
        yield { note: { text } };
      }
    },
    async *syncNotes(requests, context) {
      const notes = notesOf(sessions.require(context).userId);
      for await (const { note } of requests) {
        yield { number: notes.push(note?.text ?? "") };
      }
    },
  });
}

function listen(server: Server): Promise<string> {
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen(0, "127.0.0.1", () => {
      resolve(`http://127.0.0.1:${(server.address() as AddressInfo).port}`);
    });
  });
}

function closed(server: Server): Promise<void> {
  return new Promise((resolve) => {
    server.close(() => resolve());
  });
}
