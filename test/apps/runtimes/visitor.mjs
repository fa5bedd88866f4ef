// The client, in every runtime: it calls a service at another address.
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-web";
import { createSessionClient } from "rpc-session/client";
import { NotesService } from "./gen/notes/v1/notes_pb.js";

/** Signs in, calls, refreshes, reads a stream and signs out. Returns what it saw. */
export async function visit(baseUrl) {
  const seen = [];
  const session = createSessionClient({
    transport: (parts) => createConnectTransport({ baseUrl, ...parts }),
    onEvent: ({ type }) => seen.push(type),
  });
  const notes = createClient(NotesService, session.transport);
  await notes.signIn({ user: "ada", password: "correct horse" });
  seen.push((await notes.listNotes({})).notes[0].text);
  await session.refresh();
  for await (const { note } of notes.watchNotes({})) {
    seen.push(note.text);
    break;
  }
  await session.signOut();
  const refused = await notes.listNotes({}).catch(ConnectError.from);
  seen.push(Code[refused.code]);
  return seen;
}
