import { createSessions } from "rpc-session";
import { sqliteStore } from "rpc-session/stores/sqlite";
import { NotesService } from "../gen/notes/v1/notes_pb.js";

export const port = Number(process.env.PORT ?? 3000);

export const sessions = createSessions({
  issuer: `http://localhost:${port}`,
  store: sqliteStore("sessions.db"),
  public: [NotesService.method.signIn],
});
