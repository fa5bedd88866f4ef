import { Code, ConnectError, type HandlerContext, type ServiceImpl } from "@connectrpc/connect";
import { Injectable } from "@nestjs/common";
import type { AddNoteRequest, NotesService, SignInRequest } from "../gen/notes/v1/notes_pb.js";
import { Notes } from "./notes.js";
import { sessions } from "./sessions.js";

@Injectable()
export class NotesRpc implements Partial<ServiceImpl<typeof NotesService>> {
  constructor(private readonly notes: Notes) {}

  async signIn({ user, password }: SignInRequest, ctx: HandlerContext) {
    if (password !== "correct horse") {
      throw new ConnectError("wrong user or password", Code.PermissionDenied);
    }
    await sessions.create(ctx, { userId: user });
    return {};
  }

  addNote({ note }: AddNoteRequest, ctx: HandlerContext) {
    this.notes.add(sessions.require(ctx).userId, note?.text ?? "");
    return {};
  }

  listNotes(_request: object, ctx: HandlerContext) {
    return { notes: this.notes.of(sessions.require(ctx).userId).map((text) => ({ text })) };
  }
}
