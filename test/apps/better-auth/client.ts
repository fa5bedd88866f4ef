import { ConnectError, createClient } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import { createQueryOptions } from "@connectrpc/connect-query-core";
import { QueryClient } from "@tanstack/query-core";
import { createSessionClient } from "rpc-session/client";
import { NotesService } from "./gen/notes/v1/notes_pb.js";

const baseUrl = `http://localhost:${process.env.PORT ?? 8080}`;
const session = createSessionClient({
  transport: (parts) => createConnectTransport({ baseUrl, httpVersion: "1.1", ...parts }),
});
const queries = new QueryClient();
const { transport } = session;
const list = createQueryOptions(NotesService.method.listNotes, {}, { transport });

const refused = await queries.fetchQuery(list).catch(ConnectError.from);
console.log(String(refused));
const notes = createClient(NotesService, transport);
await notes.signIn({ user: "grace@example.com", password: "correct horse" });
await notes.addNote({ note: { text: "bread" } });
console.log((await queries.fetchQuery(list)).notes.map(({ text }) => text));
