import { existsSync, readFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { parseSync } from "vite";

/** What a tree of TypeScript files imports or starts as a program. Paths are relative to its root. */
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

  /** Returns the distance of every file that `file` imports or starts, directly or through others. */
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
    // A text that is the path of a file stands for a program that the file starts.
    const programs = [...source.matchAll(/(?<!from |import )"([\w./-]+\.ts)"/g)].map(
      ([, path]) => `./${path}`,
    );
    const imports = [...specifiers, ...programs]
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

/** So many places later comes a slow test. */
const behind = 12;
/** The folders with slow tests of each room. Elsewhere, one would take longer than all others together. */
const slowTests: Readonly<Record<string, readonly string[]>> = {
  client: ["client"],
  cli: ["cli"],
  stores: ["stores", "feed"],
};

/** Finds the tests that are most likely to notice a change. */
export class NearestTests {
  readonly #root: string;
  readonly #tests: readonly {
    readonly test: TestFile;
    readonly room: string;
    readonly distances: ReadonlyMap<string, number>;
    readonly words: ReadonlySet<string>;
  }[];

  constructor(root: string, tests: readonly TestFile[], graph: ImportGraph) {
    this.#root = root;
    this.#tests = tests.map((test) => ({
      test,
      room: roomOf(test.file),
      distances: graph.distancesFrom(test.file),
      words: wordsIn(readFileSync(join(root, test.file), "utf8")),
    }));
  }

  /**
   * Returns the tests that import or start the file of a mutant. Two orders alternate:
   * - The nearest first. Tests in the folder of the file's room, and tests of whole requests, come
   *   before others at the same distance.
   * - Those first that share rare words with the changed lines. A rule of one room may have its test
   *   in another.
   * Slow tests come later.
   */
  of({ file, line }: { readonly file: string; readonly line: number }): TestFile[] {
    const room = roomOf(file);
    const reaching = this.#tests.filter(
      ({ test, room: its, distances }) =>
        distances.has(file) && (!test.slow || slowTests[room]?.includes(its)),
    );
    const nearest = sortedBy(reaching, ({ room: its, distances }) => {
      const bonus = its === room ? 3 : its === "flow" || its === "engine" ? 1 : 0;
      return (distances.get(file) ?? 0) - bonus;
    });
    const lines = readFileSync(join(this.#root, file), "utf8").split("\n");
    const near = wordsIn(lines.slice(Math.max(0, line - 3), line + 2).join("\n"));
    const rarity = new Map(
      [...near].map((word) => {
        const among = reaching.filter(({ words }) => words.has(word)).length;
        return [word, among === 0 ? 0 : Math.log(reaching.length / among)];
      }),
    );
    const related = sortedBy(reaching, ({ words }) => {
      const shared = [...near].filter((word) => words.has(word));
      return -shared.reduce((sum, word) => sum + (rarity.get(word) ?? 0), 0);
    });
    const alternating = nearest.flatMap((each, i) => [each, related[i] ?? each]);
    const tests = [...new Set(alternating)].map(({ test }) => test);
    return tests
      .map((test, i) => ({ test, at: test.slow ? i + behind : i }))
      .sort((a, b) => a.at - b.at)
      .map(({ test }) => test);
  }
}

function roomOf(file: string): string {
  return file.split("/")[1] ?? "";
}

function wordsIn(text: string): Set<string> {
  return new Set(text.match(/[A-Za-z]{4,}/g));
}

/** Returns the list with the smallest rank first. Equal ranks keep their order. */
function sortedBy<T>(list: readonly T[], rank: (value: T) => number): T[] {
  return list
    .map((value) => ({ value, rank: rank(value) }))
    .sort((a, b) => a.rank - b.rank)
    .map(({ value }) => value);
}
