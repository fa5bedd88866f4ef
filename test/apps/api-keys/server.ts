import { createHash } from "node:crypto";
import { createServer } from "node:http";
import {
  Code,
  ConnectError,
  type ConnectRouter,
  createContextKey,
  type HandlerContext,
} from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { createSessions } from "rpc-session";
import { memoryStore } from "rpc-session/stores/memory";
import { NotesService } from "./gen/notes/v1/notes_pb.js";

const port = Number(process.env.PORT ?? 8080);
const notes = new Map<string, string[]>();

// What the application had before: keys of programs, stored as hashes.
const digest = (key: string) => createHash("sha256").update(key).digest("hex");
const keys = new Map([[digest("key_of_a_robot"), "robot"]]);
const keyOwner = createContextKey<string | undefined>(undefined);

const sessions = createSessions({
  issuer: `http://localhost:${port}`,
  store: memoryStore(),
  public: [NotesService.method.signIn],
  methods: {
    "notes.v1.NotesService/AddNote": { auth: "optional", foreignBearer: "ignore" },
    "notes.v1.NotesService/ListNotes": { auth: "optional", foreignBearer: "ignore" },
  },
});

function callerOf(ctx: HandlerContext): string {
  return ctx.values.get(keyOwner) ?? sessions.require(ctx).userId;
}

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
      const user = callerOf(ctx);
      notes.set(user, [...(notes.get(user) ?? []), note?.text ?? ""]);
      return {};
    },
    listNotes(_request, ctx) {
      return { notes: (notes.get(callerOf(ctx)) ?? []).map((text) => ({ text })) };
    },
  });
}

const options = sessions.protect({
  routes,
  readMaxBytes: 2 ** 20,
  requestGate(ctx) {
    const [, key] = /^Bearer (key_\w+)$/.exec(ctx.requestHeader.get("authorization") ?? "") ?? [];
    if (key !== undefined && sessions.current(ctx) === undefined) {
      ctx.values.set(keyOwner, keys.get(digest(key)));
    }
  },
});

await sessions.ready();
createServer(connectNodeAdapter(options)).listen(port, () => {
  console.log(`listening on ${port}`);
});
