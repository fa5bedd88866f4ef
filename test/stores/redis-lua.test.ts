import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { generateLua } from "../../tools/generate-lua.ts";

it("the generated module is up to date with the Lua files", () => {
  const path = join(import.meta.dirname, "../../src/stores/redis/gen/scripts.ts");
  expect(generateLua()).toBe(readFileSync(path, "utf8"));
});
