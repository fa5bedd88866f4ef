import { beforeAll, describe, it } from "vitest";
import { howToGetChromium, installedChromium } from "../browser/engines/chromium.ts";
import { App, skipApps } from "./app.ts";
import {
  keepsSessionWithoutCookies,
  neverMixes,
  type RenderedApp,
  refreshes,
  sharesSession,
  signsInAndOut,
  startRendered,
} from "./rendered.ts";

const chromium = await installedChromium();
const because = chromium ? "" : ` (skipped: ${howToGetChromium})`;

describe.skipIf(skipApps)("feat:P11 SvelteKit", () => {
  let app: RenderedApp;

  beforeAll(async () => {
    app = await startRendered(await App.install("sveltekit", "../../examples"), {
      build: ["vite", "build"],
      start: ["node", "build"],
      ready: /Listening on/,
    });
  });

  it("renders the user's name, and signs in and out by actions", () => signsInAndOut(app));

  it("refreshes in the hook, and hands the cookies to the browser", () => refreshes(app));

  it("sec:C22 keeps a session whose new cookies never arrive", () =>
    keepsSessionWithoutCookies(app));

  it("sec:C23 two visitors at once never mix", () => neverMixes(app));

  it.runIf(chromium)(`the client of a page in Chromium has the same session${because}`, () =>
    sharesSession(app, chromium ?? { executablePath: "", env: {} }),
  );
});
