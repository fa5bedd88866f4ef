// Measures the first call of a service from the start of its process. Arguments: the folder of the
// built library, and "sessions" or "bare".
import { pathToFileURL } from "node:url";
import { createClient, createRouterTransport } from "@connectrpc/connect";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import type { createSessions } from "../../src/create-sessions.ts";
import type { memoryStore } from "../../src/stores/memory/index.ts";
import { tell } from "./talk.ts";

/** Milliseconds since the process began. */
export interface FirstCall {
  readonly answered: number;
}

const [dist = "", kind = "bare"] = process.argv.slice(2);
const load = async <T>(path: string): Promise<T> =>
  (await import(pathToFileURL(`${dist}/${path}`).href)) as T;

if (kind === "sessions") {
  const library = await load<{ createSessions: typeof createSessions }>("src/index.js");
  const stores = await load<{ memoryStore: typeof memoryStore }>("src/stores/memory/index.js");
  const sessions = library.createSessions({
    issuer: "https://api.example.com",
    store: stores.memoryStore(),
  });
  const { tokens } = await sessions.issue({ userId: "alice" });
  const { routes, ...router } = sessions.protect({
    routes: (r) => r.rpc(NotesService.method.listNotes, () => ({})),
  });
  const transport = createRouterTransport(routes, { router });
  await createClient(NotesService, transport).listNotes(
    {},
    { headers: { authorization: `Bearer ${tokens.accessToken}` } },
  );
} else {
  const transport = createRouterTransport((r) => r.rpc(NotesService.method.listNotes, () => ({})));
  await createClient(NotesService, transport).listNotes({});
}
tell({ answered: performance.now() } satisfies FirstCall);
