// A server with a client at module scope, which signs in with the default token store.
import { createServer } from "node:http";
import process from "node:process";
import { visit } from "./visitor.mjs";

createServer().listen(0, async () => {
  await visit(process.argv[2]);
  process.exit(0);
});
