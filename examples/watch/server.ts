import { createServer } from "node:http";
import { setInterval } from "node:timers";
import { Code, ConnectError, type ConnectRouter } from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { createSessions } from "rpc-session";
import { memoryStore } from "rpc-session/stores/memory";
import { InboxService } from "../gen/inbox/v1/inbox_pb.ts";
import { Inbox } from "./inbox.ts";

const port = Number(process.env.PORT ?? 8080);
const inbox = new Inbox();

const sessions = createSessions({
  issuer: `http://localhost:${port}`,
  store: memoryStore(),
  public: [InboxService.method.signIn],
  // Much shorter than the default of 15 minutes, so that streams end and resume within seconds.
  lifetimes: { access: "3s" },
  refresh: { overlap: "1s", clientTimeout: "500ms" },
});

function routes(router: ConnectRouter) {
  router.service(InboxService, {
    async signIn({ user, password }, ctx) {
      if (password !== "correct horse") {
        throw new ConnectError("wrong user or password", Code.PermissionDenied);
      }
      await sessions.create(ctx, { userId: user });
      return {};
    },
    async *watch({ after }, { signal }) {
      try {
        yield* inbox.after(after, signal);
      } finally {
        // Either the session ended the stream or the client closed it.
        console.log(signal.reason.message);
      }
    },
  });
}

createServer(connectNodeAdapter(sessions.protect({ routes, readMaxBytes: 2 ** 20 }))).listen(port);
setInterval(() => inbox.add("ping"), 100);
