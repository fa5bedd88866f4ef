import { describe, expect, it } from "vitest";
import { idsOf, titlesIn } from "../../tools/test-titles.ts";

describe("the ids in titles of tests", () => {
  it("are found in plain tests, in tables and in rows of tables", () => {
    const source = `
      describe("feat:A1 one", () => {
        it.each(rows)("feat:A2, sec:C03: two", () => {});
        test.each([
          ["sec:J04 a row"],
          { row: "gs:N2 sec:C03 another row" },
        ])(
          \`feat:A5 five\`,
          () => {},
        );
        it.skipIf(!redis)("feat:A6 feat:B7 six", () => {});
        describePostgres("feat:A8 eight", (server) => {});
        it.todo("feat:A9 to be written");
        describe.skip("feat:A10 not run", () => {});
        it("a title without an id", () => {});
      });`;
    expect(titlesIn(source)).toEqual([
      "feat:A1 one",
      "feat:A2, sec:C03: two",
      "sec:J04 a row",
      "gs:N2 sec:C03 another row",
      "feat:A5 five",
      "feat:A6 feat:B7 six",
      "feat:A8 eight",
    ]);
  });

  it.each([
    ["feat:A1 one", ["feat:A1"]],
    ["feat:A1, sec:J02: two", ["feat:A1", "sec:J02"]],
    ["gs:G14 sec:C03 two", ["gs:G14", "sec:C03"]],
    ["feat:A1", []],
    ["feat:A1s one", []],
    ["the row gs:G4", []],
    ["A1 a bare id", []],
  ])("of %j are %j", (title, expected) => {
    expect(idsOf(title)).toEqual(expected);
  });
});
