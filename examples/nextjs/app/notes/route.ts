import { createClient } from "@connectrpc/connect";
import { NotesService } from "../../gen/notes/v1/notes_pb.js";
import { visitorOf } from "../../lib/visitor.ts";

/** The notes as JSON. A route handler can set cookies itself. */
export async function GET(request: Request): Promise<Response> {
  const visitor = visitorOf(request);
  const { notes } = await createClient(NotesService, visitor.transport).listNotes({});
  const response = Response.json(notes.map(({ text }) => text));
  visitor.writeTo(response.headers);
  return response;
}
