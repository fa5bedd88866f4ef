import { globSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { testTitles } from "../tools/test-titles.ts";

const root = join(import.meta.dirname, "..");
const groups = {
  ...{ A: 15, B: 16, C: 7, D: 18, E: 6, F: 4, G: 10, H: 13, I: 9, J: 4, K: 11, L: 9, M: 3, N: 13 },
  ...{ O: 11, P: 20, Q: 8, R: 4, S: 13 },
};
const ids = idsUpTo(groups);
const rows = featureRows(readFileSync(join(root, "docs/features.md"), "utf8"));
const titles = testTitles(root);

describe("docs/features.md", () => {
  it("lists every feature once, in order, in the table of its group", () => {
    expect(rows.map(({ id }) => id)).toEqual(ids);
    expect(rows.filter(({ id, group }) => !id.startsWith(group))).toEqual([]);
  });

  it("gives each a status, and a reason if the feature or a part of it is missing", () => {
    const words = (text: string): number => text.split(" ").length;
    const unclear = rows.filter(({ status, text }) =>
      ["partial", "planned", "not ours"].includes(status) ? words(text) < 5 : status !== "yes",
    );
    expect(unclear).toEqual([]);
  });

  it("links only to files that exist", () => {
    const links = rows.flatMap(({ text }) => [...text.matchAll(/\]\((?!https:)([^)#]+)/g)]);
    const targets = new Set(links.map(([, target = ""]) => target));
    expect(
      [...targets].filter((target) => globSync(target, { cwd: join(root, "docs") }).length !== 1),
    ).toEqual([]);
  });

  it("claims only features that a test names in its title", () => {
    const tested = new Set(titles.flatMap((title) => title.ids));
    const claimed = rows
      .filter(({ status }) => status === "yes" || status === "partial")
      .map(({ id }) => id);
    expect(claimed.filter((id) => !tested.has(`feat:${id}`))).toEqual([]);
  });
});

describe("ids in titles of tests", () => {
  it.each([
    ["feat", "a row of docs/features.md", new Set(rows.map(({ id }) => id))],
    ["sec", "a row of docs/security-cases.md", idsOfTable("docs/security-cases.md")],
    ["gs", "a row of docs/internals/get-session.md", idsOfTable("docs/internals/get-session.md")],
  ] as const)("%s: each is %s", (list, _, known) => {
    const unknown = titles.flatMap(({ file, ids }) =>
      ids
        .filter((id) => id.startsWith(`${list}:`) && !known.has(id.slice(list.length + 1)))
        .map((id) => `${file}: ${id}`),
    );
    expect(unknown).toEqual([]);
  });

  it("always carry the name of their list", () => {
    const bare = /["`](?:[A-Z]\d{1,2}[ :,]|row [A-Z]\d)[^"`\n]*["`]/g;
    const found = globSync("test/**/*.ts", { cwd: root })
      .filter((file) => !file.endsWith("test-titles.test.ts"))
      .flatMap((file) => readFileSync(join(root, file), "utf8").match(bare) ?? []);
    expect(found).toEqual([]);
  });
});

interface FeatureRow {
  /** The letter of the heading above the row. */
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

/** Returns the ids in the first column of the page's tables. */
function idsOfTable(page: string): ReadonlySet<string> {
  const text = readFileSync(join(root, page), "utf8");
  return new Set([...text.matchAll(/^\| (?:[a-z]+:)?([A-Z]\d+) \|/gm)].map(([, id = ""]) => id));
}

/** Returns `A1` up to `A11` for `{ A: 11 }`. */
function idsUpTo(lastByGroup: Readonly<Record<string, number>>): string[] {
  return Object.entries(lastByGroup).flatMap(([group, last]) =>
    Array.from({ length: last }, (_, i) => `${group}${i + 1}`),
  );
}
