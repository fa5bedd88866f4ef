"use server";

import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { redirect } from "next/navigation";
import { NotesService } from "../gen/notes/v1/notes_pb.js";
import { currentVisitor, setCookies } from "../lib/session.ts";

export async function signIn(form: FormData): Promise<void> {
  const visitor = await currentVisitor();
  const notes = createClient(NotesService, visitor.transport);
  try {
    await notes.signIn({ user: String(form.get("user")), password: String(form.get("password")) });
  } catch (error) {
    if (ConnectError.from(error).code === Code.PermissionDenied) {
      redirect("/?wrong");
    }
    throw error;
  }
  await setCookies(visitor);
  redirect("/");
}

export async function addNote(form: FormData): Promise<void> {
  const visitor = await currentVisitor();
  const notes = createClient(NotesService, visitor.transport);
  await notes.addNote({ note: { text: String(form.get("text")) } });
  await setCookies(visitor);
  redirect("/");
}

export async function signOut(): Promise<void> {
  const visitor = await currentVisitor();
  await visitor.signOut();
  await setCookies(visitor);
  redirect("/");
}
