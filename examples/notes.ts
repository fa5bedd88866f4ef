// The notes service that the servers in express, fastify, h2 and hono share.
import { Code, ConnectError, type ConnectRouter } from "@connectrpc/connect";
import { createSessions } from "rpc-session";
import { sqliteStore } from "rpc-session/stores/sqlite";
import { NotesService } from "./gen/notes/v1/notes_pb.ts";

export const port = Number(process.env.PORT ?? 8080);
const notes = new Map<string, string[]>();

export const sessions = createSessions({
  issuer: process.env.ISSUER ?? `http://localhost:${port}`,
  store: sqliteStore("sessions.db"),
  public: [NotesService.method.signIn], // everything else needs a session
  origins: (process.env.ORIGINS ?? `http://localhost:${port}`).split(" "),
});

export function routes(router: ConnectRouter): void {
  router.service(NotesService, {
    async signIn({ user, password }, ctx) {
      if (password !== "correct horse") {
        throw new ConnectError("wrong user or password", Code.PermissionDenied);
      }
      await sessions.create(ctx, { userId: user });
      return {};
    },
    async signOut(_request, ctx) {
      await sessions.require(ctx).revoke();
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
    async *watchNotes(_request, ctx) {
      const { userId } = sessions.require(ctx);
      for (const text of notes.get(userId) ?? []) {
        yield { note: { text } };
      }
    },
  });
}
