import { describe, it } from "vitest";
import { App, skipApps } from "./app.ts";
import { visit } from "./visit.ts";

describe.skipIf(skipApps)("an application on the newest Connect, 2.3", () => {
  it("gets sessions", async () => {
    const app = await App.install("plain");
    await app.run("tsc", []);
    const server = await app.serve("node", ["server.ts"], { ready: /listening/ });
    await visit(server);
  });
});
