// The service on SQLite, and a second one that only verifies, in Node.js, Bun and Deno.
import { createServer } from "node:http";
import process from "node:process";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { jwksFallback } from "rpc-session/http";
import { sqliteStore } from "rpc-session/stores/sqlite";
import { verifySessions } from "rpc-session/verify";
import { createService, routes } from "./service.mjs";

const port = Number(process.env.PORT);
const issuer = `http://localhost:${port}`;
const { sessions, options } = createService({ issuer, store: sqliteStore(process.env.DATABASE) });
await sessions.ready();
const handle = connectNodeAdapter({ ...options, fallback: jwksFallback(sessions) });
await new Promise((resolve) => createServer(handle).listen(port, resolve));

const verifier = verifySessions({ issuer, jwks: `${issuer}/.well-known/jwks.json` });
const verifying = createServer(connectNodeAdapter(verifier.protect({ routes: routes(verifier) })));
await new Promise((resolve) => verifying.listen(0, resolve));
console.log(`verifying on ${verifying.address().port}, listening`);
