// The script of the page: it calls an RPC with the session cookies, which it cannot read.
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-web";
import { createSessionClient } from "rpc-session/client";
import { NotesService } from "../gen/notes/v1/notes_pb.ts";

const session = createSessionClient({
  transport: (parts) => createConnectTransport({ baseUrl: location.origin, ...parts }),
});
const notes = createClient(NotesService, session.transport);
const line = document.querySelector("#notes");

async function text(): Promise<string> {
  try {
    const { notes: list } = await notes.listNotes({});
    return list.map((note) => note.text).join("\n");
  } catch (error) {
    const { code, message } = ConnectError.from(error);
    return code === Code.Unauthenticated ? "You are signed out." : message;
  }
}
if (line !== null) {
  line.textContent = await text();
}
