import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { page, readCases, renderCases } from "../tools/security-cases.ts";
import { testTitles } from "../tools/test-titles.ts";

const root = join(import.meta.dirname, "..");
const cases = readCases(root).flatMap((section) => Object.entries(section.cases));
const tested = new Set(testTitles(root).flatMap(({ ids }) => ids));

describe("docs/security-cases.md", () => {
  it(`is up to date; "npm run docs:security" writes it`, () => {
    expect(readFileSync(join(root, page), "utf8")).toBe(renderCases(root));
  });

  it("names a test for each case, or the reason why there is none", () => {
    const missing = cases.filter(
      ([id, { files, untested }]) => !tested.has(`sec:${id}`) && !files && !untested,
    );
    expect(missing.map(([id]) => id)).toEqual([]);
  });

  it("calls no case untested that a test names in its title", () => {
    const wrong = cases.filter(
      ([id, { files, untested }]) => untested && (files || tested.has(`sec:${id}`)),
    );
    expect(wrong.map(([id]) => id)).toEqual([]);
  });

  it("names only test files that exist", () => {
    const files = cases.flatMap(([, one]) => one.files ?? []);
    expect(files.filter((file) => !existsSync(join(root, file)))).toEqual([]);
  });
});
