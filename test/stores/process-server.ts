// Serves notes over HTTP and reports its port to the parent. Arguments: the store and its location.
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { createClient } from "redis";
import { createSessions, type SessionStore } from "rpc-session";
import { postgresStore } from "rpc-session/stores/postgres";
import { redisStore } from "rpc-session/stores/redis";
import { sqliteStore } from "rpc-session/stores/sqlite";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { notesApp } from "../helpers/notes.ts";

const [kind, place = ""] = process.argv.slice(2);

async function openStore(): Promise<SessionStore> {
  if (kind === "redis") {
    const client = createClient({ socket: { path: place, tls: false } });
    await client.connect();
    return redisStore(client);
  }
  return kind === "sqlite" ? sqliteStore(place) : postgresStore(place);
}

const sessions = createSessions({
  issuer: "https://api.example.com",
  secret: "a secret of at least 32 bytes, for tests",
  store: await openStore(),
  public: [NotesService.method.signIn],
});
await sessions.ready();
const { routes } = notesApp(sessions);
const server = createServer(connectNodeAdapter(sessions.protect({ routes })));
server.listen(0, "127.0.0.1", () => {
  process.send?.((server.address() as AddressInfo).port);
});
process.on("disconnect", () => process.exit());
