// npm run api: writes one report of the public API for each entry point of package.json to api/.
// `npm run api -- --check` writes nothing and fails if a report is out of date.
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join, relative } from "node:path";
import { entryPoints } from "./entry-points.ts";
import { type Extractor, reportsOf } from "./extract.ts";

const root = join(import.meta.dirname, "../..");
const reports = join(root, "api");
/** The declarations must lie inside the repository, so that their imports of packages resolve. */
const declarations = join(import.meta.dirname, "declarations");

process.once("exit", () => rmSync(declarations, { recursive: true, force: true }));

const check = process.argv.includes("--check");
installTool();
const extractor = (await import("@microsoft/api-extractor" as string)) as Extractor;
emitDeclarations();
const outdated: string[] = [];
const entries = entryPoints(root).map(({ name, types }) => ({
  name,
  file: join(declarations, relative("dist", types)),
}));
for (const [name, report] of reportsOf(extractor, root, entries)) {
  keepUpToDate(`${name}.api.md`, report);
}
const expected = new Set(entries.map(({ name }) => `${name}.api.md`));
for (const file of existsSync(reports) ? readdirSync(reports) : []) {
  if (file.endsWith(".api.md") && !expected.has(file)) {
    outdated.push(file);
    if (!check) {
      rmSync(join(reports, file));
    }
  }
}
if (check && outdated.length > 0) {
  console.error(
    `The public API differs from its reports: ${outdated.join(", ")}. Run "npm run api", review the changes in api/ and commit them.`,
  );
  process.exitCode = 1;
} else {
  const changed = outdated.length === 0 ? "no changes" : `updated ${outdated.join(", ")}`;
  console.log(`api: ${expected.size} entry points, ${changed}`);
}

/** Installs the extractor from this folder's own lock file, unless it is installed already. */
function installTool(): void {
  if (existsSync(join(import.meta.dirname, "node_modules"))) {
    return;
  }
  run("npm", ["ci", "--no-audit", "--no-fund"], import.meta.dirname);
}

/** Emits the same declarations that the package ships, without source maps. */
function emitDeclarations(): void {
  rmSync(declarations, { recursive: true, force: true });
  const tsc = join(root, "node_modules/.bin/tsc");
  const options = ["--emitDeclarationOnly", "--declarationMap", "false", "--sourceMap", "false"];
  run(tsc, ["-p", "tsconfig.build.json", "--outDir", declarations, ...options], root);
}

function run(command: string, args: readonly string[], cwd: string): void {
  const { status } = spawnSync(command, args, {
    cwd,
    stdio: ["ignore", "inherit", "inherit"],
    shell: process.platform === "win32",
  });
  if (status !== 0) {
    throw new Error(`"${command} ${args.join(" ")}" failed in ${cwd}`);
  }
}

function keepUpToDate(file: string, report: string): void {
  const path = join(reports, file);
  if (existsSync(path) && readFileSync(path, "utf8") === report) {
    return;
  }
  outdated.push(file);
  if (!check) {
    mkdirSync(reports, { recursive: true });
    writeFileSync(path, report);
  }
}
