import { describe, expect, it } from "vitest";
import { App, skipApps, tarball } from "./app.ts";

describe.skipIf(skipApps)("an application on Connect 2.1", () => {
  it("is told by npm which version it needs", async () => {
    const app = App.copy("connect-2.1");
    await app.run("npm", ["ci", "--no-audit", "--no-fund"], { repeatOnce: true });
    const { code, output } = await app.outcome("npm", ["install", "--no-audit", tarball]);
    expect(output).toContain("ERESOLVE");
    expect(code).not.toBe(0);
    console.log(output);
  });
});
