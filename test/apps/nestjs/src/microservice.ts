import "reflect-metadata";
import { Code, ConnectError, type HandlerContext } from "@connectrpc/connect";
import { Controller, Module } from "@nestjs/common";
import { NestFactory } from "@nestjs/core";
import { Ctx, MessagePattern, Payload } from "@nestjs/microservices";
import { type AddNoteRequest, NotesService, type SignInRequest } from "../gen/notes/v1/notes_pb.js";
import { Notes } from "./notes.js";
import { sessions } from "./sessions.js";
import { ConnectErrorFilter, ConnectStrategy } from "./strategy.js";

@Controller()
class NotesController {
  constructor(private readonly notes: Notes) {}

  @MessagePattern("notes.v1.NotesService/SignIn")
  async signIn(@Payload() { user, password }: SignInRequest, @Ctx() ctx: HandlerContext) {
    if (password !== "correct horse") {
      throw new ConnectError("wrong user or password", Code.PermissionDenied);
    }
    await sessions.create(ctx, { userId: user });
    return {};
  }

  @MessagePattern("notes.v1.NotesService/AddNote")
  addNote(@Payload() { note }: AddNoteRequest, @Ctx() ctx: HandlerContext) {
    this.notes.add(sessions.require(ctx).userId, note?.text ?? "");
    return {};
  }

  @MessagePattern("notes.v1.NotesService/ListNotes")
  listNotes(@Ctx() ctx: HandlerContext) {
    return { notes: this.notes.of(sessions.require(ctx).userId).map((text) => ({ text })) };
  }
}

@Module({ controllers: [NotesController], providers: [Notes] })
class AppModule {}

await sessions.ready();
const app = await NestFactory.createMicroservice(AppModule, {
  strategy: new ConnectStrategy(NotesService),
});
app.useGlobalFilters(new ConnectErrorFilter());
app.enableShutdownHooks();
await app.listen();
