// The service, in every runtime: what a user would write, on the store of the runtime.
import { Code, ConnectError } from "@connectrpc/connect";
import { createSessions } from "rpc-session";
import { NotesService } from "./gen/notes/v1/notes_pb.js";

/** Creates the sessions of the service, and its routes. */
export function createService({ issuer, store, secret }) {
  const sessions = createSessions({
    issuer,
    store,
    ...(secret && { secret }),
    public: [NotesService.method.signIn],
  });
  return {
    sessions,
    options: sessions.protect({ routes: routes(sessions), readMaxBytes: 2 ** 20 }),
  };
}

/** @param sessions those of the service, or of one that only verifies */
export function routes(sessions) {
  return (router) =>
    router.service(NotesService, {
      async signIn({ user, password }, ctx) {
        if (password !== "correct horse") {
          throw new ConnectError("wrong user or password", Code.PermissionDenied);
        }
        await sessions.create(ctx, { userId: user });
        return {};
      },
      listNotes: (_request, ctx) => ({ notes: [{ text: sessions.require(ctx).userId }] }),
      async *watchNotes(_request, ctx) {
        yield { note: { text: sessions.require(ctx).userId } };
        // Until the client leaves or the session ends.
        await new Promise((resolve) => ctx.signal.addEventListener("abort", resolve));
      },
    });
}
