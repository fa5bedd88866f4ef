import process from "node:process";
import { visit } from "./visitor.mjs";

console.log(JSON.stringify(await visit(process.argv[2])));
process.exit(0);
