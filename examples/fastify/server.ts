import { fastifyConnectPlugin } from "@connectrpc/connect-fastify";
import { fastify } from "fastify";
import { port, routes, sessions } from "../notes.ts";

await sessions.ready();
const server = fastify();
await server.register(fastifyConnectPlugin, sessions.protect({ routes, readMaxBytes: 2 ** 20 }));
server.addHook("onClose", () => sessions.close());
await server.listen({ port });
