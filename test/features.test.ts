import { globSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";

const root = join(import.meta.dirname, "..");
const groups = {
  ...{ A: 11, B: 14, C: 7, D: 15, E: 6, F: 4, G: 8, H: 10, I: 8, J: 4, K: 6, L: 7, M: 3, N: 8 },
  ...{ O: 7, P: 11, Q: 7 },
};
const ids = Object.entries(groups).flatMap(([group, last]) =>
  Array.from({ length: last }, (_, i) => `${group}${i + 1}`),
);
const rows = featureRows(readFileSync(join(root, "docs/features.md"), "utf8"));
const titles = globSync("test/**/*.ts", { cwd: root })
  // This file has titles of no tests below.
  .filter((file) => join(root, file) !== import.meta.filename)
  .flatMap((file) =>
    titlesIn(readFileSync(join(root, file), "utf8")).map((title) => ({ file, title })),
  );

describe("docs/features.md", () => {
  it("has every feature once, in order, in the table of its group", () => {
    expect(rows.map(({ id }) => id)).toEqual(ids);
    expect(rows.filter(({ id, group }) => !id.startsWith(group))).toEqual([]);
  });

  it("says of each whether it is there, and else in some words when it comes or why not", () => {
    const words = (text: string): number => text.split(" ").length;
    const unclear = rows.filter(({ status, text }) =>
      status === "planned" || status === "not ours" ? words(text) < 5 : status !== "yes",
    );
    expect(unclear).toEqual([]);
  });

  it("points to files that are there", () => {
    const links = rows.flatMap(({ text }) => [...text.matchAll(/\]\(([^)]+)\)/g)]);
    const targets = new Set(links.map(([, target = ""]) => target));
    expect(
      [...targets].filter((target) => globSync(target, { cwd: join(root, "docs") }).length !== 1),
    ).toEqual([]);
  });

  it("claims nothing that no test is named after", () => {
    const tested = new Set(titles.flatMap(({ title }) => idsOf(title)));
    const claimed = rows.filter(({ status }) => status === "yes").map(({ id }) => id);
    expect(claimed.filter((id) => !tested.has(id))).toEqual([]);
  });

  it("has every feature that a test is named after", () => {
    const known = (id: string): boolean => ids.includes(id) || isSecurityCase(id);
    expect(titles.filter(({ title }) => !idsOf(title).every(known))).toEqual([]);
  });
});

describe("how this is found out", () => {
  it("reads titles of plain tests and of tables, on one line or more", () => {
    const source = `
      describe("A1 one", () => {
        it.each(rows)("A2, A3: two", () => {});
        test.each([
          ["A4 none of its own"],
        ])(
          \`A5 four\`,
          () => {},
        );
        it.skipIf(!redis)("A6 B7 three", () => {});
        describePostgres("A8 five", (server) => {});
        it.todo("A9 not there");
        describe.skip("A10 not run", () => {});
      });`;
    expect(titlesIn(source)).toEqual([
      "A1 one",
      "A2, A3: two",
      "A5 four",
      "A6 B7 three",
      "A8 five",
    ]);
  });

  it.each([
    ["A1 one", ["A1"]],
    ["A1, B22: two", ["A1", "B22"]],
    ["J13 J14 two", ["J13", "J14"]],
    ["A1", []],
    ["P1s are no ids", []],
    ["row G4: keys", []],
    ["E2E tests", []],
  ])("ids that begin %j: %j", (title, expected) => {
    expect(idsOf(title)).toEqual(expected);
  });
});

interface FeatureRow {
  /** The letter of the heading above. */
  readonly group: string;
  readonly id: string;
  readonly feature: string;
  readonly status: string;
  readonly text: string;
}

function featureRows(markdown: string): FeatureRow[] {
  return markdown.split(/^## /m).flatMap((section) =>
    [...section.matchAll(/^\| ([A-Z]\d+) \| (.+?) \| (.+?) \| (.+) \|$/gm)].map(
      ([, id = "", feature = "", status = "", text = ""]) => ({
        group: section.slice(0, 1),
        ...{ id, feature, status, text },
      }),
    ),
  );
}

/** What stands right after the bracket of `it(`, `describe(` and their like, or of a table's `)(`. */
function titlesIn(source: string): string[] {
  const call =
    /(?:\b(?:it|test|describe\w*)(?<how>(?:\.\w+)*)|\))\(\s*(?<quote>["`])(?<title>(?:\\.|(?!\k<quote>).)*)\k<quote>/g;
  return [...source.matchAll(call)]
    .filter(({ groups }) => !/\.(skip|todo)\b/.test(groups?.how ?? ""))
    .map(({ groups }) => groups?.title ?? "");
}

function idsOf(title: string): string[] {
  const [ids = ""] = /^[A-Z]\d+(?:,? [A-Z]\d+)*(?=:? )/.exec(title) ?? [];
  return ids.split(/,? /).filter((id) => id !== "");
}

/** Tests of attacks are named after a list of their own, in which every number has two digits. */
function isSecurityCase(id: string): boolean {
  const [, letter = "", number = ""] = /^([A-Z])(\d\d)$/.exec(id) ?? [];
  const last: Readonly<Record<string, number>> = { C: 21, J: 19, P: 3, R: 16, T: 12, V: 10 };
  return Number(number) >= 1 && Number(number) <= (last[letter] ?? 0);
}
