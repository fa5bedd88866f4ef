// Hono, as an example of frameworks whose handlers take a Request and return a Response. They serve
// Connect and gRPC-Web but not gRPC, which needs HTTP trailers.
import { cors as connectCors, createConnectRouter } from "@connectrpc/connect";
import { createFetchHandler } from "@connectrpc/connect/protocol";
import { serve } from "@hono/node-server";
import { Hono } from "hono";
import { cors } from "hono/cors";
import { sessionCors } from "rpc-session";
import { port, routes, sessions } from "../notes.ts";

const app = new Hono();

// Pages of other origins must also be listed in the option `origins` of the sessions.
const allowed = sessionCors({ ...connectCors, allowedOrigins: ["http://localhost:5173"] });
app.use(
  cors({
    origin: allowed.allowedOrigins,
    allowMethods: allowed.allowedMethods,
    allowHeaders: allowed.allowedHeaders,
    exposeHeaders: allowed.exposedHeaders,
    credentials: allowed.allowCredentials,
    maxAge: allowed.maxAge,
  }),
);

const { routes: protectedRoutes, ...options } = sessions.protect({ routes, readMaxBytes: 2 ** 20 });
const router = createConnectRouter(options);
protectedRoutes(router);
for (const handler of router.handlers) {
  const handle = createFetchHandler(handler);
  app.all(handler.requestPath, (context) => handle(context.req.raw));
}

await sessions.ready();
serve({ fetch: app.fetch, port });
