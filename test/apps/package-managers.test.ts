import { existsSync, globSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { App, skipApps, tarball } from "./app.ts";
import { refusesProtected, visit } from "./visit.ts";

const page = readFileSync(join(import.meta.dirname, "../../docs/installing.md"), "utf8");
/** The versions that the page pins. */
const pinned = page.match(/@connectrpc\/connect(?:-node)?@\d+\.\d+\.\d+/g)?.slice(0, 2) ?? [];

interface Manager {
  readonly name: string;
  /** Installs what the application had before. */
  readonly install: readonly string[];
  readonly add: readonly string[];
  /** Adds packages and writes exact versions. */
  readonly pin: readonly string[];
  /** The file that the page's overrides belong into. */
  readonly overrides: "package.json" | "pnpm-workspace.yaml";
}

// pnpm 12 is not published for every platform in time; version 11 is a program for Node.js.
const managers: readonly Manager[] = [
  {
    name: "npm",
    install: ["install", "--no-audit", "--no-fund"],
    add: ["install", "--no-audit", "--no-fund"],
    pin: ["install", "--no-audit", "--no-fund", "--save-exact"],
    overrides: "package.json",
  },
  {
    name: "pnpm",
    install: ["install", "--no-frozen-lockfile"],
    add: ["add"],
    pin: ["add", "--save-exact"],
    overrides: "pnpm-workspace.yaml",
  },
  {
    name: "yarn",
    install: ["install"],
    add: ["add"],
    pin: ["add", "--exact"],
    overrides: "package.json",
  },
  {
    name: "bun",
    install: ["install"],
    add: ["add"],
    pin: ["add", "--exact"],
    overrides: "package.json",
  },
];

describe.skipIf(skipApps)("an application on Connect 2.1", () => {
  let tools: App;
  beforeAll(async () => {
    tools = App.copy("managers");
    await tools.run("npm", ["ci", "--no-audit", "--no-fund"], { repeatOnce: true });
  });

  /** A copy of the application, and a function that runs the package manager in it. */
  function copyFor({ name }: Manager) {
    const app = App.copy("older-connect");
    const manage = (args: readonly string[]) =>
      app.outcome(name === "npm" ? name : join(tools.folder, "node_modules/.bin", name), args);
    /** A registry may not answer at first, so it is repeated once. */
    const run = async (args: readonly string[]) => {
      const first = await manage(args);
      const last = first.code === 0 ? first : await manage(args);
      expect(last.code, last.output).toBe(0);
    };
    return { app, manage, run };
  }

  it.each(managers)(
    "feat:K7 is told what to install with $name, and is never served unchecked",
    async (manager) => {
      const { app, manage, run } = copyFor(manager);
      await run(manager.install);
      const { code, output } = await manage([...manager.add, tarball]);
      if (manager.name === "npm") {
        expect(code).not.toBe(0);
        expect(output).toMatch(
          /ERESOLVE[\s\S]*peer @connectrpc\/connect@"\^2\.2\.0" from rpc-session/,
        );
      } else {
        expect(code, output).toBe(0);
        expect(versionsOf(app)).toEqual(["2.1.2"]);
        for (const program of ["server.ts", "gate-only.ts"]) {
          const started = await app.outcome("node", [program], { env: { PORT: "0" }, seconds: 60 });
          expect(started.code).toBe(1);
          expect(started.output).toContain(
            "TypeError: the installed @connectrpc/connect is older than 2.2",
          );
          expect(started.output).toContain(`npm install --save-exact ${pinned.join(" ")}`);
        }
      }

      await run([...manager.pin, ...pinned]);
      await run([...manager.add, tarball]);
      await app.run("tsc", []);
      await visit(await app.serve("node", ["server.ts"], { ready: /listening/ }));
      const gateOnly = await app.serve("node", ["gate-only.ts"], { ready: /listening/ });
      await refusesProtected(gateOnly.url);
    },
  );

  it.each(managers)(
    "feat:K7 keeps a package that asks for 2.1, by the overrides of the page, with $name",
    async (manager) => {
      const { app, run } = copyFor(manager);
      const project = JSON.parse(readFileSync(join(app.folder, "package.json"), "utf8")) as {
        dependencies: Record<string, string>;
      };
      for (const version of pinned) {
        const at = version.lastIndexOf("@");
        project.dependencies[version.slice(0, at)] = version.slice(at + 1);
      }
      // It stands for the package of the page, which needs Next.js, and asks for 2.1 as exactly.
      project.dependencies["@connectrpc/connect-web"] = "2.1.2";
      project.dependencies["rpc-session"] = `file:${tarball}`;
      const block = overridesFor(manager).replaceAll("connect-next", "connect-web");
      const isJson = manager.overrides === "package.json";
      writeFileSync(
        join(app.folder, "package.json"),
        JSON.stringify({ ...project, ...(isJson && (JSON.parse(block) as object)) }),
      );
      if (!isJson) {
        writeFileSync(join(app.folder, manager.overrides), block);
      }
      await run(manager.install);
      expect(versionsOf(app)).toEqual([pinned[0]?.split("@").at(-1)]);
      await visit(await app.serve("node", ["server.ts"], { ready: /listening/ }));
    },
  );
});

/** The versions of Connect that are installed, each once. */
function versionsOf({ folder }: App): string[] {
  // pnpm's links are not followed, so its own folder is searched too.
  const found = ["node_modules", "node_modules/.pnpm"].flatMap((below) =>
    globSync(`${below}/**/@connectrpc/connect/package.json`, { cwd: folder }),
  );
  const versions = found
    .map((file) => join(folder, file))
    .filter((file) => existsSync(file))
    .map((file) => (JSON.parse(readFileSync(file, "utf8")) as { version: string }).version);
  return [...new Set(versions)].sort();
}

/** The code block of the page after the line that names the package manager. */
function overridesFor({ name }: Manager): string {
  const section = page.slice(page.indexOf("\n## Overrides"));
  const [, block = ""] =
    new RegExp(`\\n${name}, in [^\`]*\`[\\s\\S]*?\`\`\`\\w+\\n([\\s\\S]*?)\`\`\``).exec(section) ??
    [];
  expect(block).not.toBe("");
  return block;
}
