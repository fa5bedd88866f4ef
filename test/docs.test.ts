// The pages are tested as programs are. What a page may write on the line before a code block:
//
// <!-- setup: server -->        the block may use the exports of test/fixtures/docs/server.ts
// <!-- run -->                  the block is a program of node:test, which is run as well as compiled
// <!-- run with: examples/… --> the shell block is run while that program serves on port 8080
// <!-- not run here: reason --> the shell block is not run
//
// Every other TypeScript block is compiled as it is, and every other shell block is run.
import { execFile, spawnSync } from "node:child_process";
import { existsSync, globSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, normalize } from "node:path";
import { promisify } from "node:util";
import { describe, expect, it, onTestFinished } from "vitest";
import { renderedParts } from "../tools/readme.ts";
import { type Block, blocksIn, compileBlocks, runProgram } from "./helpers/doc-blocks.ts";
import { examplePrograms } from "./helpers/programs.ts";

const root = join(import.meta.dirname, "..");
const pages = [
  ...globSync("*.md", { cwd: root }),
  ...globSync("docs/**/*.md", { cwd: root, exclude: ["docs/api/**"] }),
].sort();
const textOf = (page: string): string => readFileSync(join(root, page), "utf8");
const blocks = pages.flatMap((page) => blocksIn(page, textOf(page)));

describe("TypeScript on the pages", () => {
  // Programs that are rendered from the examples are compiled there.
  const code = blocks.filter(
    ({ language, comment }) => /^tsx?$/.test(language) && !/^\w+:begin$/.test(comment),
  );

  it("compiles in every block", async () => {
    expect(code.length).toBeGreaterThan(30);
    expect(await compileBlocks(code)).toEqual([]);
  });

  it("is reported with its page and line if it does not compile", async () => {
    const page = [
      "# Page",
      "",
      "<!-- setup: server -->",
      "```ts",
      "const { userId } = sessions.require(ctx);",
      "sessions.revokeEverything(userId);",
      "```",
    ].join("\n");
    const [error, ...others] = await compileBlocks(blocksIn("docs/wrong.md", page));
    expect(error).toMatch(/^docs\/wrong\.md:6: error TS2339: .*'revokeEverything'/);
    expect(others).toEqual([]);
  });

  it("is reported if a block is not closed or names a missing setup", async () => {
    expect(() => blocksIn("docs/open.md", "```ts\nlet a;")).toThrow("docs/open.md:1");
    const unknown = blocksIn("docs/page.md", "<!-- setup: nothing -->\n```ts\nlet a;\n```");
    await expect(compileBlocks(unknown)).rejects.toThrow(
      'docs/page.md:3: there is no setup "nothing"',
    );
  });
});

describe("programs on the pages that are marked with <!-- run -->", () => {
  const programs = blocks.filter(({ language, comment }) => language === "ts" && comment === "run");

  it.each(programs.map((block) => [`${block.page}:${block.line}`, block] as const))(
    "%s passes",
    async (_place, block) => {
      const { code, output } = await runProgram(block);
      expect(code, output).toBe(0);
      expect(output).toMatch(/pass [1-9]/);
    },
    60_000,
  );
});

describe("shell commands on the pages", () => {
  const shell = blocks.filter(({ language }) => language === "sh");
  const notRun = /^not run here: .+/;
  const runnable = shell.filter(({ comment }) => !notRun.test(comment));

  it("are marked as sh, and state a reason if they are not run here", () => {
    const others = blocks.filter(({ language }) => /^(bash|shell|console)$/.test(language));
    expect(others.map(({ page, line }) => `${page}:${line}`)).toEqual([]);
    expect(runnable.length).toBeGreaterThan(0);
  });

  for (const block of runnable) {
    const lacks = ["bash", "curl", "openssl"].filter(
      (tool) => (tool === "bash" || block.code.includes(`${tool} `)) && !isInstalled(tool),
    );
    const because = lacks.length > 0 ? ` (skipped: install ${lacks.join(" and ")})` : "";
    it.skipIf(lacks.length > 0)(`${block.page}:${block.line} runs${because}`, async () => {
      expect(await runShell(block)).toBe(0);
    });
  }

  it.skipIf(!isInstalled("bash"))("a command that fails is noticed", async () => {
    const [block] = blocksIn("docs/page.md", "```sh\nfalse\ntrue\n```");
    expect(await runShell(block as Block)).toBe(1);
  });
});

describe("links on the pages", () => {
  const links = pages.flatMap((page) =>
    [...withoutCode(textOf(page)).matchAll(/\]\((?!https?:|mailto:)([^)\s]+)\)/g)].map(
      ([, target = ""]) => ({ page, target }),
    ),
  );

  it("lead to files and headings that exist", () => {
    const dead = links.filter(({ page, target }) => {
      const [path = "", anchor] = target.split("#");
      const file = path === "" ? page : normalize(join(dirname(page), path));
      const there = existsSync(join(root, file));
      return !there || (anchor !== undefined && !anchorsIn(textOf(file)).has(anchor));
    });
    expect(dead).toEqual([]);
  });

  it("do not lead into the source, outside of the pages for contributors", () => {
    const forUsers = links.filter(
      ({ page }) =>
        !/^(ARCHITECTURE|CONTRIBUTING)\.md$|^docs\/(internals\/|security-cases)/.test(page),
    );
    expect(forUsers.filter(({ target }) => /(?:^|\/)src\//.test(target))).toEqual([]);
  });

  it("lead from the index to every page for users", () => {
    const fromIndex = new Set(
      links
        .filter(({ page }) => page === "docs/README.md")
        .map(({ target }) => normalize(join("docs", target.split("#")[0] ?? ""))),
    );
    const others = ["docs/README.md", "docs/security-cases.md"]; // the index, and a list for contributors
    const guides = globSync("docs/*.md", { cwd: root }).filter((page) => !others.includes(page));
    expect(guides.filter((page) => !fromIndex.has(page))).toEqual([]);
  });
});

it("the README has at most 150 lines", () => {
  expect(textOf("README.md").trimEnd().split("\n").length).toBeLessThanOrEqual(150);
});

it("every rendered part appears on a page", () => {
  const text = pages.map(textOf).join("\n");
  expect(renderedParts.filter((name) => !text.includes(`<!-- ${name}:begin -->`))).toEqual([]);
});

function isInstalled(tool: string): boolean {
  return spawnSync(tool, ["--version"], { stdio: "ignore" }).error === undefined;
}

/**
 * Runs a block in an empty folder, where `npx rpc-session` is this repository's command line. After
 * `<!-- run with: examples/<program> -->` the program serves on the port that replaces 8080.
 *
 * @returns the exit code
 */
async function runShell({ code, comment }: Block): Promise<number> {
  const folder = mkdtempSync(join(tmpdir(), "rpc-session-docs-"));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  const npx = [
    "#!/bin/sh",
    'test "$1" = rpc-session || exit 127',
    "shift",
    `exec "${process.execPath}" --conditions=@rpc-session/source "${root}/src/cli/main.ts" "$@"`,
  ];
  writeFileSync(join(folder, "npx"), npx.join("\n"), { mode: 0o755 });
  const [, program] = /^run with: examples\/(\S+)$/.exec(comment) ?? [];
  let script = code;
  if (program !== undefined) {
    const programs = await examplePrograms();
    await programs.serve(program);
    script = code.replaceAll("localhost:8080", `localhost:${programs.port}`);
  }
  const env = { ...process.env, NODE_OPTIONS: "", PATH: `${folder}:${process.env.PATH}` };
  try {
    await promisify(execFile)("bash", ["-euo", "pipefail", "-c", script], { cwd: folder, env });
    return 0;
  } catch (error) {
    const { code: exit } = error as { readonly code: unknown };
    return typeof exit === "number" ? exit : 1;
  }
}

function withoutCode(markdown: string): string {
  return markdown.replace(/^(`{3,})[\s\S]*?^\1$/gm, "").replace(/`[^`\n]*`/g, "");
}

/** The anchors of headings, as GitHub makes them. */
function anchorsIn(markdown: string): Set<string> {
  return new Set(
    [...withoutCodeBlocks(markdown).matchAll(/^#+ (.+)$/gm)].map(([, heading = ""]) =>
      heading
        .toLowerCase()
        .replace(/[^\p{L}\p{N} _-]/gu, "")
        .replaceAll(" ", "-"),
    ),
  );
}

function withoutCodeBlocks(markdown: string): string {
  return markdown.replace(/^(`{3,})[\s\S]*?^\1$/gm, "");
}
