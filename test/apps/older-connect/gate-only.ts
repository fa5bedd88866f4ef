// Only the gate, and handlers that do not look at the session.
import { createServer } from "node:http";
import type { ConnectRouter } from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { createSessions } from "rpc-session";
import { memoryStore } from "rpc-session/stores/memory";
import { NotesService } from "./gen/notes/v1/notes_pb.js";

const port = Number(process.env.PORT ?? 8080);
const { requestGate } = createSessions({
  issuer: `http://localhost:${port}`,
  store: memoryStore(),
  public: [NotesService.method.signIn],
});

function routes(router: ConnectRouter) {
  router.service(NotesService, { listNotes: () => ({ notes: [{ text: "a secret" }] }) });
}

const options = { routes, requestGate };
createServer(connectNodeAdapter(options)).listen(port, () => {
  console.log(`listening on ${port}`);
});
