// Finds the ids that titles of tests begin with: `feat:A7`, `sec:J13`, `gs:G14`.
import { globSync, readFileSync } from "node:fs";
import { join } from "node:path";

/** A title that begins with at least one id, or the name of a table row that becomes a title. */
export interface TestTitle {
  /** Relative to the root of the repository. */
  readonly file: string;
  /** The text behind the ids. */
  readonly text: string;
  /** The list and the id, such as `sec:J13`. */
  readonly ids: readonly string[];
}

const id = /(?:feat|sec|gs):[A-Z]\d+/.source;
const literal = new RegExp(
  `(?<before>\\S*)\\s*(?<quote>["\`])(?<title>${id}(?:\\\\.|(?!\\k<quote>).)*)\\k<quote>`,
  "g",
);
const idsAtStart = new RegExp(`^${id}(?:,? ${id})*(?=:? )`);

/** The files that hold titles only as examples of titles. */
const examples = new Set(["test/tools/test-titles.test.ts"]);

/** Returns every title with an id in `test/`, sorted by file. */
export function testTitles(root: string): TestTitle[] {
  return globSync("test/**/*.ts", { cwd: root })
    .map((file) => file.replaceAll("\\", "/"))
    .filter((file) => !examples.has(file))
    .sort()
    .flatMap((file) =>
      titlesIn(readFileSync(join(root, file), "utf8")).map((title) => {
        const ids = idsOf(title);
        return { file, ids, text: title.slice(lengthOfIds(title)).trim() };
      }),
    );
}

/** Returns the string literals in `source` that begin with an id, without skipped and todo tests. */
export function titlesIn(source: string): string[] {
  return [...source.matchAll(literal)]
    .filter(({ groups }) => !/\.(?:skip|todo)\($/.test(groups?.before ?? ""))
    .map(({ groups }) => groups?.title ?? "")
    .filter((title) => idsOf(title).length > 0);
}

/** Returns the ids that `title` begins with; every id carries the name of its list. */
export function idsOf(title: string): string[] {
  const [ids = ""] = idsAtStart.exec(title) ?? [];
  return ids.split(/,? /).filter((part) => part !== "");
}

function lengthOfIds(title: string): number {
  const [ids = ""] = idsAtStart.exec(title) ?? [];
  return ids.length + (title[ids.length] === ":" ? 1 : 0);
}
