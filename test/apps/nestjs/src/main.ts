import "reflect-metadata";
import type { ConnectRouter } from "@connectrpc/connect";
import { expressConnectMiddleware } from "@connectrpc/connect-express";
import { Controller, Get, Module, UseGuards } from "@nestjs/common";
import { NestFactory } from "@nestjs/core";
import type { VerifiedSession } from "rpc-session";
import { NotesService } from "../gen/notes/v1/notes_pb.js";
import { Session, SessionErrorFilter, SessionGuard } from "./guard.js";
import { Notes } from "./notes.js";
import { NotesRpc } from "./rpc.js";
import { port, sessions } from "./sessions.js";

@Controller("export")
@UseGuards(SessionGuard)
class ExportController {
  constructor(private readonly notes: Notes) {}

  @Get()
  download(@Session() { userId }: VerifiedSession) {
    return this.notes.of(userId);
  }
}

@Module({ controllers: [ExportController], providers: [Notes, NotesRpc] })
class AppModule {}

await sessions.ready();
const app = await NestFactory.create(AppModule);
const rpc = app.get(NotesRpc);
app.use(
  expressConnectMiddleware(
    sessions.protect({
      routes: (router: ConnectRouter) => router.service(NotesService, rpc),
      readMaxBytes: 2 ** 20,
    }),
  ),
);
app.useGlobalFilters(new SessionErrorFilter());
app.enableShutdownHooks();
await app.listen(port);
