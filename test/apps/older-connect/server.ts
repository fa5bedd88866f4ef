import { createServer } from "node:http";
import { Code, ConnectError, type ConnectRouter } from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { createSessions } from "rpc-session";
import { memoryStore } from "rpc-session/stores/memory";
import { NotesService } from "./gen/notes/v1/notes_pb.js";

const port = Number(process.env.PORT ?? 8080);
const notes = new Map<string, string[]>();

const sessions = createSessions({
  issuer: `http://localhost:${port}`,
  store: memoryStore(),
  public: [NotesService.method.signIn],
});

function routes(router: ConnectRouter) {
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
  });
}

await sessions.ready();
createServer(connectNodeAdapter(sessions.protect({ routes }))).listen(port, () => {
  console.log(`listening on ${port}`);
});
