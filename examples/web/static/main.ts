// npm run example:static: the page of examples/web as a folder of files, for any static web server.
import { mkdirSync, writeFileSync } from "node:fs";
import { dirname, join, relative, resolve } from "node:path";
import { buildPage } from "../build.ts";

const folder = resolve(process.argv[2] ?? join(import.meta.dirname, "../../../site"));
const files = await buildPage({ isStatic: true });
for (const [path, { body }] of files) {
  const file = join(folder, path);
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(file, body);
}
const shown = relative(".", folder) || ".";
console.log(`Wrote ${files.size} files to ${shown}. Copy them to any static web server, or look at them:

  npx vite preview --outDir ${shown}`);
