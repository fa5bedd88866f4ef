// A server that stops on SIGTERM as docs/deploying.md says. Arguments: a SQLite file and a port.
import { createServer } from "node:http";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { createSessions } from "rpc-session";
import { sqliteStore } from "rpc-session/stores/sqlite";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";

const [file = "", issuer = ""] = process.argv.slice(2);
const sessions = createSessions({
  issuer,
  store: sqliteStore(file),
  public: [NotesService.method.signIn],
});
let inside = 0;
let go = (): void => {};
const gone = new Promise<void>((resolve) => {
  go = resolve;
});

const server = createServer(
  connectNodeAdapter(
    sessions.protect({
      routes: (router) =>
        router.service(NotesService, {
          async signIn({ user }, ctx) {
            await sessions.create(ctx, { userId: user });
            return {};
          },
          /** Begins before SIGTERM, and writes after it. */
          async addNote({ note }, ctx) {
            inside += 1;
            process.send?.({ inside });
            await gone;
            await sessions.require(ctx).updateClaims({ [note?.text ?? ""]: true });
            return {};
          },
          listNotes: (_, ctx) => ({
            notes: Object.keys(sessions.require(ctx).claims).map((text) => ({ text })),
          }),
          async *watchNotes(_, { signal }) {
            yield { note: { text: String(process.pid) } };
            await new Promise((resolve) => signal.addEventListener("abort", resolve));
          },
        }),
    }),
  ),
);
await sessions.ready();
server.listen(0, "127.0.0.1", () => {
  const address = server.address();
  process.send?.({ port: typeof address === "object" ? address?.port : 0 });
});

async function stop(): Promise<void> {
  const answered = new Promise((resolve) => server.close(resolve));
  const closed = sessions.close({ within: "60s" });
  go();
  await closed;
  await answered;
  process.disconnect();
}

process.once("SIGTERM", () => void stop());
