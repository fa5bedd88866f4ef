import { existsSync, readFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { parseSync } from "vite";

/** The imports of a tree of TypeScript files. Paths are relative to its root. */
export class ImportGraph {
  readonly #root: string;
  readonly #ownName: string;
  readonly #entryPoints: ReadonlyMap<string, string>;
  readonly #imports = new Map<string, readonly string[]>();

  constructor(root: string) {
    this.#root = root;
    const manifest = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as {
      name: string;
      exports?: Record<string, string | Record<string, string>>;
    };
    this.#ownName = manifest.name;
    this.#entryPoints = new Map(
      Object.entries(manifest.exports ?? {}).map(([path, target]) => [
        path,
        typeof target === "string" ? target : (target[`@${manifest.name}/source`] ?? ""),
      ]),
    );
  }

  /** Returns the distance of every file that `file` imports, directly or through others. */
  distancesFrom(file: string): Map<string, number> {
    const distances = new Map([[file, 0]]);
    for (const [at, distance] of distances) {
      for (const imported of this.#importsOf(at)) {
        if (!distances.has(imported)) {
          distances.set(imported, distance + 1);
        }
      }
    }
    return distances;
  }

  #importsOf(file: string): readonly string[] {
    const known = this.#imports.get(file);
    if (known !== undefined) {
      return known;
    }
    const source = readFileSync(join(this.#root, file), "utf8");
    const { staticImports, staticExports, dynamicImports } = parseSync(file, source).module;
    const specifiers = [
      ...staticImports
        .filter(({ entries }) => entries.length === 0 || entries.some(({ isType }) => !isType))
        .map(({ moduleRequest }) => moduleRequest.value),
      ...staticExports
        .flatMap(({ entries }) => entries)
        .filter(({ isType }) => !isType)
        .map(({ moduleRequest }) => moduleRequest?.value),
      ...dynamicImports.map(({ moduleRequest: { start, end } }) =>
        source.slice(start + 1, end - 1),
      ),
    ];
    const imports = specifiers
      .map((specifier) => this.#resolve(file, specifier ?? ""))
      .filter((path) => path !== undefined);
    this.#imports.set(file, imports);
    return imports;
  }

  #resolve(from: string, specifier: string): string | undefined {
    const own = specifier === this.#ownName || specifier.startsWith(`${this.#ownName}/`);
    const target = own ? this.#entryPoints.get(`.${specifier.slice(this.#ownName.length)}`) : "";
    const path = specifier.startsWith(".") ? join(dirname(from), specifier) : target;
    if (path === undefined || !path.endsWith(".ts") || !existsSync(join(this.#root, path))) {
      return undefined;
    }
    return relative(this.#root, join(this.#root, path));
  }
}

/** A file with tests, as the test runner reports it. */
export interface TestFile {
  readonly file: string;
  /** Whether it needs a database, a browser or programs of its own, or much time. */
  readonly slow: boolean;
}

/** Only slow tests start databases and programs. */
const roomsWithSlowTests = new Set(["stores", "cli"]);

/**
 * Returns the test files that import `file`, the nearest first. Tests in the folder of its room and
 * tests of whole requests come before others at the same distance. Slow tests count only for stores
 * and for the command line, in their own room.
 */
export function nearestTests(
  file: string,
  tests: readonly TestFile[],
  distancesFrom: (test: string) => Map<string, number>,
): string[] {
  const [, room = ""] = file.split("/");
  return tests
    .map(({ file: test, slow }) => {
      const [, folder = ""] = test.split("/");
      const distance = distancesFrom(test).get(file);
      const tooSlow = slow && !(folder === room && roomsWithSlowTests.has(room));
      if (distance === undefined || tooSlow) {
        return { test, rank: Number.POSITIVE_INFINITY };
      }
      const bonus = folder === room ? 3 : folder === "flow" || folder === "engine" ? 1 : 0;
      return { test, rank: distance - bonus };
    })
    .filter(({ rank }) => Number.isFinite(rank))
    .sort((a, b) => a.rank - b.rank || (a.test < b.test ? -1 : 1))
    .map(({ test }) => test);
}
