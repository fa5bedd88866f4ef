import { createServer } from "node:http";
import { Code, ConnectError, type ConnectRouter } from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { createSessions } from "rpc-session";
import { sqliteStore } from "rpc-session/stores/sqlite";
import { NotesService } from "../gen/notes/v1/notes_pb.ts";

const port = Number(process.env.PORT ?? 8080);
const notes = new Map<string, string[]>();

const sessions = createSessions({
  issuer: `http://localhost:${port}`,
  store: sqliteStore("sessions.db"),
  public: [NotesService.method.signIn], // everything else needs a session
});

function routes(router: ConnectRouter) {
  router.service(NotesService, {
    async signIn({ user, password }, ctx) {
      if (password !== "correct horse") {
        throw new ConnectError("wrong user or password", Code.PermissionDenied);
      }
      await sessions.create(ctx, { userId: user, claims: { role: "editor" } });
      return {};
    },
    addNote({ note }, ctx) {
      const { userId } = sessions.require(ctx);
      notes.set(userId, [...(notes.get(userId) ?? []), note?.text ?? ""]);
      return {};
    },
    listNotes(_request, ctx) {
      const { userId } = sessions.require(ctx);
      return { notes: (notes.get(userId) ?? []).map((text) => ({ text })) };
    },
  });
}

await sessions.ready(); // opens the store now, and throws if it cannot
createServer(connectNodeAdapter(sessions.protect({ routes, readMaxBytes: 2 ** 20 }))).listen(port);
