import { execFile } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join, relative } from "node:path";
import { promisify } from "node:util";

const root = join(import.meta.dirname, "../..");
const fixtures = join(root, "test/fixtures/docs");

/** A fenced code block of a Markdown page. */
export interface Block {
  /** The page, relative to the repository. */
  readonly page: string;
  /** The line of the page on which the code begins, from 1. */
  readonly line: number;
  readonly language: string;
  readonly code: string;
  /** The text of the HTML comment on the line before the block; empty without one. */
  readonly comment: string;
}

/** Reads every fenced code block of a page. */
export function blocksIn(page: string, markdown: string): Block[] {
  const lines = markdown.split("\n");
  const blocks: Block[] = [];
  for (let at = 0; at < lines.length; at += 1) {
    const [, fence = "", language = ""] = /^(`{3,})(\S*)/.exec(lines[at] ?? "") ?? [];
    if (fence === "") {
      continue;
    }
    const end = lines.indexOf(fence, at + 1);
    if (end === -1) {
      throw new Error(`${page}:${at + 1}: the code block is not closed; add a line with ${fence}`);
    }
    const [, comment = ""] = /^<!-- (.*) -->$/.exec(lines[at - 1] ?? "") ?? [];
    const code = lines.slice(at + 1, end).join("\n");
    blocks.push({ page, line: at + 2, language, code, comment });
    at = end;
  }
  return blocks;
}

/** Runs a TypeScript block as a program of `node:test`. Returns the exit code and what it printed. */
export async function runProgram(block: Block): Promise<{ code: number; output: string }> {
  const folder = newFolder();
  try {
    const file = join(folder, "program.test.ts");
    writeFileSync(file, moduleOf(block));
    const args = ["--conditions=@rpc-session/source", "--test", file];
    // Inside a test runner, node:test would report to that one.
    const { NODE_TEST_CONTEXT: _context, ...env } = process.env;
    const run = promisify(execFile)(process.execPath, args, { env: { ...env, NODE_OPTIONS: "" } });
    return await run.then(
      ({ stdout }) => ({ code: 0, output: stdout }),
      ({ code, stdout }: { code: number; stdout: string }) => ({ code, output: stdout }),
    );
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** A folder that Git ignores. Not in node_modules, where a package cannot import itself by name. */
function newFolder(): string {
  mkdirSync(join(root, ".vitest"), { recursive: true });
  return mkdtempSync(join(root, ".vitest/docs-"));
}

/**
 * Compiles TypeScript blocks together, each as a module of its own, with the compiler options of the
 * repository.
 *
 * A block may use the exports of `test/fixtures/docs/<name>.ts` after `<!-- setup: <name> -->`.
 * Imports from `./gen/` and `../gen/` find the services of the examples and of the recipes.
 *
 * @returns one line for each error, such as `docs/streams.md:12: error TS2304: …`
 */
export async function compileBlocks(blocks: readonly Block[]): Promise<string[]> {
  const folder = newFolder();
  try {
    const files = blocks.map((block, index) => {
      const name = `block-${index}.${block.language}`;
      writeFileSync(join(folder, name), moduleOf(block));
      return name;
    });
    const config = {
      extends: relative(folder, join(root, "tsconfig.json")),
      compilerOptions: { jsx: "preserve" },
      files,
      include: [],
    };
    writeFileSync(join(folder, "tsconfig.json"), JSON.stringify(config));
    const output = await tsc(folder);
    return output
      .split("\n")
      .filter((line) => line.includes("error TS"))
      .map((line) =>
        line.replace(/^\S*block-(\d+)\.tsx?\((\d+),\d+\)/, (all, index, row) => {
          const block = blocks[Number(index)];
          return block === undefined ? all : `${block.page}:${block.line + Number(row) - 1}`;
        }),
      );
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

async function tsc(folder: string): Promise<string> {
  const compiler = join(root, "node_modules/typescript/bin/tsc");
  const args = [compiler, "--project", folder, "--pretty", "false"];
  try {
    return (await promisify(execFile)(process.execPath, args, { cwd: folder })).stdout;
  } catch (error) {
    // It exits with 1 or 2 for errors in the code, which it prints.
    const { stdout, stderr } = error as { readonly stdout: string; readonly stderr: string };
    if (!stdout.includes("error TS")) {
      throw new Error(`the TypeScript compiler failed: ${stdout}${stderr}`, { cause: error });
    }
    return stdout;
  }
}

/** The block as a module. Its first line stays its first line, so that errors name the right one. */
function moduleOf({ code, comment, page, line }: Block): string {
  const [, setup] = /^setup: ([\w-]+)$/.exec(comment) ?? [];
  const imports = setup === undefined ? "export {};" : setupImport(setup, { code, page, line });
  return `${imports} ${code}\n`.replace(
    /(["'])\.{1,2}\/gen\/(\w+)\/(v1\/\w+_pb)\.[jt]s\1/g,
    (_all, quote, service, file) =>
      `${quote}../../${service === "auth" ? "test" : "examples"}/gen/${service}/${file}.ts${quote}`,
  );
}

function setupImport(setup: string, { code, page, line }: Omit<Block, "language" | "comment">) {
  const file = join(fixtures, `${setup}.ts`);
  let source: string;
  try {
    source = readFileSync(file, "utf8");
  } catch (cause) {
    throw new Error(`${page}:${line}: there is no setup "${setup}" in test/fixtures/docs`, {
      cause,
    });
  }
  const names = [...source.matchAll(/^export (?:declare )?(?:const|function) (\w+)/gm)]
    .map(([, name = ""]) => name)
    .filter((name) => !declares(code, name));
  return `import { ${names.join(", ")} } from "../../test/fixtures/docs/${setup}.ts";`;
}

/** Whether the code imports or declares a name itself at its top level. */
function declares(code: string, name: string): boolean {
  const imports = [...code.matchAll(/^import [\s\S]*?from/gm)].join(" ");
  const declaration = "^(?:export )?(?:async )?(?:const|let|function\\*?|class)";
  // In a pattern such as { sessions: page } only what follows the colon is declared.
  return [
    new RegExp(`\\b${name}\\b`).test(imports),
    new RegExp(`${declaration} ${name}\\b`, "m").test(code),
    new RegExp(`${declaration} \\{[^}]*\\b${name}\\b(?!\\s*:)`, "m").test(code),
  ].some(Boolean);
}
