import { describe, expect, it } from "vitest";
import { renderPages } from "../tools/readme.ts";
import { examplePrograms } from "./helpers/programs.ts";

describe("README.md and docs/", () => {
  it("show the current programs and requests; if this fails, run npm run readme", async () => {
    const outdated = (await renderPages()).filter(({ current, rendered }) => current !== rendered);
    expect(outdated.map(({ page }) => page)).toEqual([]);
  });

  it("the programs of the README print the output shown there", async () => {
    const programs = await examplePrograms();
    await programs.serve("minimal/server.ts");
    expect(await programs.run("minimal/client.ts")).toBe(
      "[ 'hello' ]\n[unauthenticated] the call needs a session; sign in first\n",
    );
  });
});
