// HTTP/2 with TLS serves gRPC, Connect and gRPC-Web on one port. Clients without HTTP/2 get HTTP/1.1.
import { readFileSync } from "node:fs";
import { createSecureServer } from "node:http2";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { port, routes, sessions } from "../notes.ts";

const certificate = {
  cert: readFileSync(process.env.TLS_CERT ?? "localhost.crt"),
  key: readFileSync(process.env.TLS_KEY ?? "localhost.key"),
};

await sessions.ready();
createSecureServer(
  { ...certificate, allowHTTP1: true },
  connectNodeAdapter(sessions.protect({ routes, readMaxBytes: 2 ** 20 })),
).listen(port);
