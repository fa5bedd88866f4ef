import { Code, ConnectError, type ConnectRouter } from "@connectrpc/connect";
import { fastifyConnectPlugin } from "@connectrpc/connect-fastify";
import { betterAuth } from "better-auth";
import { memoryAdapter } from "better-auth/adapters/memory";
import { fastify } from "fastify";
import { createSessions } from "rpc-session";
import { memoryStore } from "rpc-session/stores/memory";
import { NotesService } from "./gen/notes/v1/notes_pb.js";

const port = Number(process.env.PORT ?? 8080);
const notes = new Map<string, string[]>();

// What the application had before: better-auth knows the users and their passwords.
const auth = betterAuth({
  baseURL: `http://localhost:${port}`,
  secret: "a secret of better-auth, for the test alone",
  database: memoryAdapter({ user: [], session: [], account: [], verification: [] }),
  emailAndPassword: { enabled: true },
});

const sessions = createSessions({
  issuer: `http://localhost:${port}`,
  store: memoryStore(),
  public: [NotesService.method.signIn],
});

function routes(router: ConnectRouter) {
  router.service(NotesService, {
    async signIn({ user: email, password }, ctx) {
      const found = await auth.api
        .signInEmail({ body: { email, password } })
        .catch(() => undefined);
      if (found === undefined) {
        throw new ConnectError("wrong user or password", Code.PermissionDenied);
      }
      await sessions.create(ctx, { userId: found.user.id });
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
const server = fastify();
await server.register(fastifyConnectPlugin, sessions.protect({ routes, readMaxBytes: 2 ** 20 }));
server.addHook("onClose", () => sessions.close());
for (const name of ["ada.by.header", "ada.by.cookie", "grace"]) {
  await auth.api.signUpEmail({
    body: { name, email: `${name}@example.com`, password: "correct horse" },
  });
}
await server.listen({ port });
console.log(`listening on ${port}`);
