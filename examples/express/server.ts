import { expressConnectMiddleware } from "@connectrpc/connect-express";
import express from "express";
import { jwksFallback } from "rpc-session/http";
import { port, routes, sessions } from "../notes.ts";

await sessions.ready();
const app = express();
app.use(jwksFallback(sessions)); // for services that only verify
app.use(expressConnectMiddleware(sessions.protect({ routes, readMaxBytes: 2 ** 20 })));
app.listen(port);
