import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { redirect } from "@sveltejs/kit";
import { SessionService } from "rpc-session/gen/rpcsession/v1/service_pb.js";
import type { Visitor } from "rpc-session/ssr";
import { NotesService } from "../../gen/notes/v1/notes_pb.js";
import type { Actions, PageServerLoad } from "./$types";

export const load: PageServerLoad = async ({ locals: { visitor } }) => {
  const user = await userOf(visitor);
  if (user === undefined) {
    return { user, notes: [] };
  }
  const { notes } = await createClient(NotesService, visitor.transport).listNotes({});
  return { user, notes: notes.map(({ text }) => text) };
};

export const actions: Actions = {
  async signIn({ request, locals: { visitor } }) {
    const form = await request.formData();
    const notes = createClient(NotesService, visitor.transport);
    try {
      await notes.signIn({
        user: String(form.get("user")),
        password: String(form.get("password")),
      });
    } catch (error) {
      if (ConnectError.from(error).code === Code.PermissionDenied) {
        redirect(303, "/?wrong");
      }
      throw error;
    }
    redirect(303, "/");
  },
  async addNote({ request, locals: { visitor } }) {
    const form = await request.formData();
    const notes = createClient(NotesService, visitor.transport);
    await notes.addNote({ note: { text: String(form.get("text")) } });
    redirect(303, "/");
  },
  async signOut({ locals: { visitor } }) {
    await visitor.signOut();
    redirect(303, "/");
  },
};

async function userOf(visitor: Visitor): Promise<string | undefined> {
  if (!visitor.hasSession) {
    return undefined;
  }
  try {
    const { session } = await createClient(SessionService, visitor.transport).getSession({});
    return session?.userId;
  } catch (error) {
    if (ConnectError.from(error).code === Code.Unauthenticated) {
      return undefined;
    }
    throw error;
  }
}
