// The service, as a program of its own.
import { createServer } from "node:http";
import { Code, ConnectError } from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { createSessions } from "rpc-session";
import { sqliteStore } from "rpc-session/stores/sqlite";
import { NotesService } from "./gen/notes/v1/notes_pb.js";

const port = Number(process.env.PORT ?? 8080);
const notes = new Map<string, string[]>();

const sessions = createSessions({
  // Browsers reach the service through the pages' origin; see next.config.ts.
  issuer: process.env.APP_ORIGIN ?? "http://localhost:3000",
  store: sqliteStore("sessions.db"),
  public: [NotesService.method.signIn],
});

const handler = connectNodeAdapter(
  sessions.protect({
    routes: (router) =>
      router.service(NotesService, {
        async signIn({ user, password }, ctx) {
          if (password !== "correct horse") {
            throw new ConnectError("wrong user or password", Code.PermissionDenied);
          }
          await sessions.create(ctx, { userId: user });
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
      }),
  }),
);

createServer(handler).listen(port, () => console.log(`listening on ${port}`));
