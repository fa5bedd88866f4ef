import { execFile } from "node:child_process";
import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { commands, run } from "../../src/cli/run.ts";

const main = join(import.meta.dirname, "../../src/cli/main.ts");
const names = commands.map(({ name }) => name);

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "rpcsession-cli-"));
});
afterEach(() => rm(folder, { recursive: true }));

async function ran(...args: readonly string[]) {
  return run(args, { env: {}, stdin: async () => "" });
}

describe("the help of rpc-session", () => {
  it("lists every command with a summary", async () => {
    const { code, stdout } = await ran("--help");
    expect(code).toBe(0);
    for (const { name, summary } of commands) {
      expect(stdout).toMatch(new RegExp(`\n  rpc-session ${name} +${summary.slice(0, 20)}`));
    }
  });

  it.each(names)("of %s has its usage, its options, examples and exit codes", async (name) => {
    const { code, stdout } = await ran(...name.split(" "), "--help");
    expect(code).toBe(0);
    expect(stdout).toMatch(new RegExp(`^Usage: rpc-session ${name} `));
    expect(stdout).toMatch(/\nExamples:\n {2}\w.*:\n {4}.*rpc-session /);
    expect(stdout).toContain("--json");
    expect(stdout).toContain("\nExit code:\n  0  success\n  1  failure");
    expect(
      stdout.split("\n").filter((line) => line.length > 100 && !line.startsWith("    ")),
    ).toEqual([]);
  });

  it.each(names)("of %s shows examples whose options exist", async (name) => {
    const { options = [], examples } = commands.find((one) => one.name === name) ?? {
      examples: [],
    };
    const known = ["--json", ...options.map(({ flags }) => flags.split(" ")[0])];
    for (const [does, line] of examples) {
      const own = /rpc-session [^|>]*/.exec(line)?.[0] ?? "";
      expect(own).toContain(`rpc-session ${name}`);
      expect(own.match(/(?<= )--[a-z-]+/g)?.filter((one) => !known.includes(one)) ?? []).toEqual(
        [],
      );
      expect(does).toMatch(/^[A-Z][^.]+$/);
    }
  });

  it("prints the version", async () => {
    const file = join(import.meta.dirname, "../../package.json");
    const { version } = JSON.parse(await readFile(file, "utf8")) as { version: string };
    const args = ["--conditions=@rpc-session/source", main, "--version"];
    const { stdout } = await promisify(execFile)(process.execPath, args);
    expect(stdout).toBe(`${version}\n`);
  });
});

describe("a mistyped command of rpc-session", () => {
  it.each([
    [["docter", "https://u:hidden@a.example"], 'did you mean "doctor"?'],
    [["keys", "lst"], 'did you mean "keys list"?'],
    [["key", "list", "hidden.db"], 'did you mean "keys list"?'],
    [["sesions", "revoke"], 'did you mean "sessions revoke"?'],
    [["secret", "retire"], 'did you mean "secrets retire"?'],
    [["sessions"], 'use "sessions list" or "sessions revoke"'],
    [["sessions", "hidden"], 'use "sessions list" or "sessions revoke"'],
    [["hidden"], 'use "doctor", "inspect", "policy"'],
    [
      ["keys", "list", "--rotatoin", "1d", "a.db"],
      "unknown option '--rotatoin'; did you mean \"--rotation\"?",
    ],
    [["keys", "list", "--token=hidden", "a.db"], "unknown option '--token'"],
    [["keys", "list", "-phidden", "a.db"], "unknown option"],
    [["keys", "rotate", "--wait"], "option '--wait <duration>' argument missing"],
  ])("%j gets the nearest name, and no argument is repeated", async (args, reason) => {
    const { code, stdout, stderr } = await ran(...args);
    expect([code, stdout]).toEqual([2, ""]);
    expect(stderr).toContain(reason);
    expect(stderr).not.toContain("hidden");
    expect(stderr).toMatch(/\nUsage: rpc-session .+\n(?:.+\n)*See "rpc-session .*--help"/);
  });
});

describe("--json of rpc-session", () => {
  it("prints JSON for migrate", async () => {
    const file = join(folder, "made.db");
    const made = await ran("migrate", "--json", file);
    expect(JSON.parse(made.stdout)).toEqual({ upToDate: true });
    const printed = await ran("migrate", "--print", "--json", "sqlite");
    expect(JSON.parse(printed.stdout)).toEqual({
      sql: expect.stringContaining("create table") as string,
    });
    expect(await readdir(folder)).toEqual(["made.db"]);
  });
});

describe("the start of rpc-session", () => {
  it("loads no driver, no cryptography and no Connect before a command needs them", async () => {
    const script = `
      import { registerHooks } from "node:module";
      const seen = [];
      registerHooks({ load: (url, context, next) => { seen.push(url); return next(url, context); } });
      const { run } = await import(${JSON.stringify(join(import.meta.dirname, "../../src/cli/run.ts"))});
      await run(["--help"], { env: {} });
      console.log(JSON.stringify(seen));`;
    const args = ["--conditions=@rpc-session/source", "--input-type=module", "-e", script];
    const { stdout } = await promisify(execFile)(process.execPath, args, {
      cwd: join(import.meta.dirname, "../.."),
    });
    const seen = JSON.parse(stdout) as string[];
    expect(seen.filter((url) => url.includes("src/cli/"))).not.toEqual([]);
    const heavy =
      /\/(?:jose|@connectrpc|@bufbuild|pg|redis)\/|src\/(?:stores|jwt|server)\/|node:sqlite/;
    expect(seen.filter((url) => heavy.test(url))).toEqual([]);
  });
});
