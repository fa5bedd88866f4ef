import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { renderReadme } from "../tools/readme.ts";
import { examplePrograms } from "./helpers/programs.ts";

const root = join(import.meta.dirname, "..");

describe("the README", () => {
  it("shows the programs and the wire as they are (else: npm run readme)", async () => {
    expect(readFileSync(join(root, "README.md"), "utf8")).toBe(await renderReadme());
  });

  it("its programs print what it says", async () => {
    const programs = await examplePrograms();
    await programs.serve("minimal/server.ts");
    expect(await programs.run("minimal/client.ts")).toBe(
      "[ 'hello' ]\n[unauthenticated] the call needs a session\n",
    );
  });
});
