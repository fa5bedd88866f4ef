import { createClient } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node"; // connect-web in a browser
import { createSessionClient } from "rpc-session/client";
import { NotesService } from "../gen/notes/v1/notes_pb.ts";

const baseUrl = `http://localhost:${process.env.PORT ?? 8080}`;

const session = createSessionClient({
  transport: (parts) => createConnectTransport({ baseUrl, httpVersion: "1.1", ...parts }),
});
const notes = createClient(NotesService, session.transport);

await notes.signIn({ user: "ada", password: "correct horse" });
await notes.addNote({ note: { text: "hello" } });

// If the access token has expired, it is refreshed once and the call is sent again.
const list = await notes.listNotes({});
console.log(list.notes.map((note) => note.text));

await session.signOut();
await notes.listNotes({}).catch((error) => console.log(error.message));
