// npm run readme: brings the README's programs and transcript up to date. `--check` only compares.
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { wireTranscript } from "./wire.ts";

const root = join(import.meta.dirname, "..");
const file = join(root, "README.md");

/** The README with every marked part made anew. */
export async function renderReadme(): Promise<string> {
  const source = (path: string): string => readFileSync(join(root, path), "utf8").trim();
  const parts: Readonly<Record<string, string>> = {
    server: fence("ts", source("examples/minimal/server.ts")),
    client: fence("ts", source("examples/minimal/client.ts")),
    account: fence("ts", source("examples/account/service.ts")),
    watch: fence("ts", source("examples/watch/client.ts")),
    wire: fence("http", await wireTranscript()),
  };
  return readFileSync(file, "utf8").replace(
    /<!-- (\w+):begin -->[\s\S]*?<!-- \1:end -->/g,
    (all, name: string) =>
      // What is measured stays: `npm run bench` writes it.
      name in parts ? `<!-- ${name}:begin -->\n${parts[name]}\n<!-- ${name}:end -->` : all,
  );
}

function fence(language: string, text: string): string {
  return `\`\`\`${language}\n${text}\n\`\`\``;
}

if (process.argv[1] === import.meta.filename) {
  const rendered = await renderReadme();
  if (process.argv.includes("--check")) {
    process.exitCode = rendered === readFileSync(file, "utf8") ? 0 : 1;
  } else {
    writeFileSync(file, rendered);
  }
}
