// One server process of the soak test. Its parent configures it, and it ends with its parent.
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import type { ConnectRouter } from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { createClient } from "redis";
import { createSessions, type Sessions } from "rpc-session";
import { postgresStore } from "rpc-session/stores/postgres";
import { redisStore } from "rpc-session/stores/redis";
import { sqliteStore } from "rpc-session/stores/sqlite";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { issuer, type StoreKind, times } from "./options.ts";

/** The message from the parent. */
export interface ServerConfig {
  readonly store: StoreKind;
  readonly url: string;
  /** 0 for any free port. */
  readonly port: number;
  readonly secrets: readonly string[];
  /** The format of new refresh tokens; undefined for the store's. */
  readonly tokenFormat?: 1 | 2 | undefined;
}

/** The messages to the parent: the port, and events of the sessions. */
export type ServerReport =
  | { readonly type: "listening"; readonly port: number }
  | {
      readonly type: "theft" | "storeWentBack";
      readonly session: string;
      readonly presented: number;
    }
  | { readonly type: "failed"; readonly message: string };

process.once("message", (config) => void start(config as ServerConfig));
// This also happens if the parent is killed.
process.once("disconnect", () => process.exit(0));

async function start(config: ServerConfig): Promise<void> {
  const sessions = createSessions({
    issuer,
    store: await openStore(config),
    secret: config.secrets,
    // Older versions know these names only.
    cookies: { prefix: "host" },
    public: [NotesService.method.signIn],
    methods: { "notes.v1.NotesService/AddNote": { proof: "required" } },
    lifetimes: { access: `${times.access}ms` },
    refresh: {
      overlap: `${times.overlap}ms`,
      settle: `${times.settle}ms`,
      clientTimeout: `${times.clientTimeout}ms`,
      ...(config.tokenFormat === undefined ? {} : { tokenFormat: config.tokenFormat }),
    },
    onEvent(event) {
      if (event.type === "theft" || event.type === "storeWentBack") {
        report({ type: event.type, session: event.sessionId, presented: event.presented });
      } else if (event.type === "failed") {
        report({ type: "failed", message: reasonOf(event.error) });
      }
    },
  });
  const http = createServer(
    connectNodeAdapter(sessions.protect({ routes: (router) => notes(router, sessions) })),
  );
  await opened(sessions);
  http.listen(config.port, "127.0.0.1", () => {
    report({ type: "listening", port: (http.address() as AddressInfo).port });
  });
  process.once("SIGTERM", () => {
    setTimeout(() => process.exit(0), 1_000).unref();
    http.close(() => void sessions.close().finally(() => process.exit(0)));
  });
}

/** Retries, as a server does that is started in the middle of an outage and restarted. */
async function opened(sessions: Sessions): Promise<void> {
  for (let attempt = 0; attempt < 50; attempt++) {
    try {
      return await sessions.ready();
    } catch (error) {
      report({ type: "failed", message: reasonOf(error) });
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }
  throw new Error("the store could not be opened");
}

async function openStore({ store, url }: ServerConfig) {
  switch (store) {
    case "sqlite":
      return sqliteStore(url);
    case "postgres":
      return postgresStore(url);
    case "redis": {
      const client = createClient({
        url,
        disableOfflineQueue: true,
        socket: { reconnectStrategy: () => 20 },
      });
      client.on("error", () => {});
      await client.connect();
      return redisStore(client);
    }
  }
}

function notes(router: ConnectRouter, sessions: Sessions): void {
  router.service(NotesService, {
    async signIn({ user }, context) {
      await sessions.create(context, { userId: user });
      return {};
    },
    // Ends the session in a handler, as a service does, instead of by the client's sign-out.
    async signOut(_request, context) {
      await sessions.require(context).revoke();
      return {};
    },
    addNote: () => ({}),
    listNotes: (_request, context) => ({ notes: [{ text: sessions.require(context).userId }] }),
  });
}

function report(message: ServerReport): void {
  process.send?.(message);
}

function reasonOf(error: unknown): string {
  const { cause, message } = error as Error;
  return cause instanceof Error ? `${message}: ${cause.message}` : message;
}
