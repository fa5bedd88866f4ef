import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { App, skipApps } from "./app.ts";

/** What a consumer writes into its tsconfig.json. No declaration of ours is skipped. */
const strict = {
  target: "es2022",
  lib: ["es2023", "dom", "dom.iterable"],
  types: ["node"],
  strict: true,
  exactOptionalPropertyTypes: true,
  skipLibCheck: false,
};
const esm = { module: "nodenext", rootDir: "." };
const bundler = { module: "esnext", moduleResolution: "bundler", noEmit: true };
const node10 = { module: "commonjs", moduleResolution: "node10" };

describe.skipIf(skipApps)("the entry points of the package", () => {
  let app: App;
  let entries: string[];
  const all = (names: readonly string[]) => [
    ...names.map((name, index) => `import * as e${index} from "${name}";`),
    `const all = { ${names.map((name, index) => `"${name}": e${index}`).join(", ")} };`,
    "for (const [name, entry] of Object.entries(all)) {",
    "  console.log(name, Object.keys(entry).length > 0);",
    "}",
  ];

  beforeAll(async () => {
    app = await App.install("toolchains");
    entries = entriesOf(join(app.folder, "node_modules/rpc-session"));
    for (const file of [
      "nodenext/esm.mts",
      "nodenext/cjs.cts",
      "bundler/all.ts",
      "node10/all.ts",
    ]) {
      write(file, all(entries).join("\n"));
    }
    write("nodenext/package.json", '{ "type": "module" }');
  });

  function write(file: string, text: string): void {
    writeFileSync(join(app.folder, file), text);
  }

  it.each([
    ["5.9", "nodenext", esm],
    ["5.9", "node10", node10],
    ["6", "nodenext", esm],
    ["7", "nodenext", esm],
    ["7", "bundler", bundler],
  ])(
    "feat:K11 have types for TypeScript %s with the module resolution %s",
    async (version, folder, options) => {
      const major = version.split(".")[0];
      const project = `${folder}/tsconfig.${major}.json`;
      write(project, JSON.stringify({ compilerOptions: { ...strict, ...options, outDir: "out" } }));
      await app.run("node", [`node_modules/typescript-${major}/bin/tsc`, "--project", project]);
    },
  );

  it.each(["22", "24", "26"])(
    "feat:K11 can be imported and required by Node.js %s",
    async (major) => {
      const other = join(app.folder, `node_modules/node-${major}/bin/node`);
      const node = process.versions.node.startsWith(`${major}.`) ? process.execPath : other;
      expect(existsSync(node), `npm has no Node.js ${major} for this platform`).toBe(true);
      const expected = entries.map((name) => `${name} true\n`).join("");
      for (const file of ["nodenext/out/esm.mjs", "nodenext/out/cjs.cjs", "node10/out/all.js"]) {
        const { stdout } = await app.run(node, [file]);
        expect(stdout).toBe(expected);
      }
    },
  );
});

/** The entry points of the installed package, one of each pattern. */
function entriesOf(folder: string): string[] {
  const { exports } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8")) as {
    exports: Record<string, unknown>;
  };
  return Object.keys(exports)
    .filter((entry) => entry !== "./package.json")
    .map((entry) => join("rpc-session", entry.replace("*", "rpcsession/v1/hint_pb")));
}
