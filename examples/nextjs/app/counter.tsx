"use client";

import { createClient } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-web";
import { useState } from "react";
import { createSessionClient } from "rpc-session/client";
import { NotesService } from "../gen/notes/v1/notes_pb.js";

// In the browser a client at module scope is right: it belongs to one user.
const session = createSessionClient({
  transport: (parts) => createConnectTransport({ baseUrl: "/", ...parts }),
});
const service = createClient(NotesService, session.transport);

export function Counter() {
  const [count, setCount] = useState("?");
  const load = async () => setCount(String((await service.listNotes({})).notes.length));
  return (
    <button type="button" onClick={load}>
      Notes: <output>{count}</output>
    </button>
  );
}
