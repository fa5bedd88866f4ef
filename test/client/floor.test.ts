import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { bundlePage } from "../browser/servers.ts";

/** The oldest browsers that the README names. test/browser/faults.test.ts removes what they lack. */
const floor = ["chrome98", "firefox93", "safari16.4"];

it("the client uses no syntax that the oldest supported browsers lack", async () => {
  const [any, old, older] = await Promise.all([
    bundlePage(),
    bundlePage(floor),
    bundlePage("chrome60"),
  ]);
  // A bundler rewrites what its targets do not understand.
  expect(old === any).toBe(true);
  expect(older === any).toBe(false);
});

it.each(["README.md", "docs/browser.md"])("%s names these browsers", (page) => {
  const text = readFileSync(join(import.meta.dirname, "../..", page), "utf8");
  expect(text).toContain("Chrome 98, Firefox 93 and Safari 16.4");
});
