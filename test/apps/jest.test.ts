import { describe, expect, it } from "vitest";
import { App, skipApps } from "./app.ts";

describe.skipIf(skipApps)("an application that is tested with Jest and jsdom", () => {
  it("feat:K11 runs the client and the sessions in memory, with the environment of the page", async () => {
    const app = await App.install("jest");
    const { output } = await app.run("node", [
      "--experimental-vm-modules",
      "node_modules/jest/bin/jest.js",
    ]);
    expect(output).toMatch(/Tests: +1 passed, 1 total/);
  });
});
