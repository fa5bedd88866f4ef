// npm run readme: renders the programs, the wire transcript and the help of commands into README.md and docs/. `--check` only compares.
import { globSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { commands, run } from "../src/cli/run.ts";
import { wireTranscript } from "./wire.ts";

const root = join(import.meta.dirname, "..");

/** Programs that pages show, by the name of their markers. */
const programs: Readonly<Record<string, string>> = {
  server: "examples/minimal/server.ts",
  client: "examples/minimal/client.ts",
  account: "examples/account/service.ts",
  watch: "examples/watch/client.ts",
  authzen: "examples/authzen/authorize.ts",
  express: "examples/express/server.ts",
  fastify: "examples/fastify/server.ts",
  hono: "examples/hono/server.ts",
  nextVisitor: "examples/nextjs/lib/visitor.ts",
  nextProxy: "examples/nextjs/proxy.ts",
  nextSession: "examples/nextjs/lib/session.ts",
  svelteHook: "examples/sveltekit/src/hooks.server.ts",
  jestEnvironment: "test/apps/jest/environment.js",
  jestTest: "test/apps/jest/notes.spec.js",
  nestSessions: "test/apps/nestjs/src/sessions.ts",
  nestRpc: "test/apps/nestjs/src/rpc.ts",
  nestGuard: "test/apps/nestjs/src/guard.ts",
  nestMain: "test/apps/nestjs/src/main.ts",
  nestStrategy: "test/apps/nestjs/src/strategy.ts",
  nestMicroservice: "test/apps/nestjs/src/microservice.ts",
};

/** The names of all parts that are rendered. */
export const renderedParts: readonly string[] = [
  ...[...Object.keys(programs), "wire"],
  ...commands.map(({ name }) => helpPart(name)),
];

/** The name of the part with the help of a command, such as "help_keys_list". */
function helpPart(command: string): string {
  return `help_${command.replace(" ", "_")}`;
}

/** A page, relative to the repository, as it is and as it should be. */
export interface RenderedPage {
  readonly page: string;
  readonly current: string;
  readonly rendered: string;
}

/** Renders every part between `<!-- name:begin -->` and `<!-- name:end -->`, on every page. */
export async function renderPages(): Promise<RenderedPage[]> {
  const parts = new Map(
    Object.entries(programs).map(([name, path]) => [
      name,
      fence("ts", readFileSync(join(root, path), "utf8").trim()),
    ]),
  );
  parts.set("wire", fence("http", await wireTranscript()));
  for (const { name } of commands) {
    const { stdout } = await run([...name.split(" "), "--help"], { env: {} });
    parts.set(helpPart(name), fence("text", stdout.trim()));
  }
  return ["README.md", ...globSync("docs/*.md", { cwd: root })].map((page) => {
    const current = readFileSync(join(root, page), "utf8");
    const rendered = current.replace(
      /<!-- (\w+):begin -->[\s\S]*?<!-- \1:end -->/g,
      (all, name: string) => {
        const part = parts.get(name);
        // `npm run bench` writes its part itself.
        return part === undefined ? all : `<!-- ${name}:begin -->\n${part}\n<!-- ${name}:end -->`;
      },
    );
    return { page, current, rendered };
  });
}

function fence(language: string, text: string): string {
  return `\`\`\`${language}\n${text}\n\`\`\``;
}

if (process.argv[1] === import.meta.filename) {
  for (const { page, current, rendered } of await renderPages()) {
    if (rendered === current) {
      continue;
    }
    if (process.argv.includes("--check")) {
      console.error(`${page} is out of date; run npm run readme`);
      process.exitCode = 1;
    } else {
      writeFileSync(join(root, page), rendered);
    }
  }
}
