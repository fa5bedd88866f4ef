import { createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { createSessionClient } from "rpc-session/client";
import { NotesService } from "../gen/notes/v1/notes_pb.ts";

const baseUrl = `https://localhost:${process.env.PORT ?? 8080}`;

const session = createSessionClient({
  transport: (parts) => createGrpcTransport({ baseUrl, ...parts }),
});
const notes = createClient(NotesService, session.transport);

await notes.signIn({ user: "ada", password: "correct horse" });
await notes.addNote({ note: { text: "hello" } });
for await (const { note } of notes.watchNotes({})) {
  console.log(note?.text);
}

await session.signOut();
await notes.listNotes({}).catch((error) => console.log(error.message));
