// Serves notes whose policy looks at a claim with a source, and reports its port to the parent.
// Arguments: the store, its location, and the address of the provider that knows the roles.
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import type { ConnectRouter } from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { createClient } from "redis";
import { createSessions, type SessionStore } from "rpc-session";
import { postgresStore } from "rpc-session/stores/postgres";
import { redisStore } from "rpc-session/stores/redis";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";

const [kind, place = "", provider = ""] = process.argv.slice(2);

async function openStore(): Promise<SessionStore> {
  if (kind === "redis") {
    const client = createClient({ socket: { path: place, tls: false } });
    await client.connect();
    return redisStore(client);
  }
  return postgresStore(place);
}

const sessions = createSessions({
  issuer: "https://api.example.com",
  secret: "a secret of at least 32 bytes, for tests",
  store: await openStore(),
  public: [NotesService.method.signIn],
  clientClaims: ({ role }) => ({ role: role ?? null }),
  claimSources: {
    role: {
      maxAge: "2s",
      within: "30s",
      async fetch({ id, userId }, { signal }) {
        const answer = await fetch(`${provider}/${userId}/${id}`, { signal });
        if (!answer.ok) {
          throw new Error(`the provider answered ${answer.status}`);
        }
        return answer.json();
      },
    },
  },
  methods: { "notes.v1.NotesService/AddNote": { claims: { role: ["admin"] } } },
});
await sessions.ready();

const routes = (router: ConnectRouter): void => {
  router.service(NotesService, {
    async signIn({ user }, ctx) {
      await sessions.create(ctx, { userId: user, claims: { role: "admin" } });
      return {};
    },
    addNote: () => ({}),
    listNotes: () => ({}),
  });
};
const server = createServer(connectNodeAdapter(sessions.protect({ routes, readMaxBytes: 1024 })));
server.listen(0, "127.0.0.1", () => {
  process.send?.((server.address() as AddressInfo).port);
});
process.on("disconnect", () => process.exit());
