import { createClient } from "@connectrpc/connect";
import { json } from "@sveltejs/kit";
import { NotesService } from "../../../gen/notes/v1/notes_pb.js";
import type { RequestHandler } from "./$types";

/** The notes as JSON. */
export const GET: RequestHandler = async ({ locals: { visitor } }) => {
  const { notes } = await createClient(NotesService, visitor.transport).listNotes({});
  return json(notes.map(({ text }) => text));
};
