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

describe.skipIf(skipApps)("feat:P11 Next.js with the app router", () => {
  let app: RenderedApp;

  beforeAll(async () => {
    app = await startRendered(await App.install("nextjs", "../../examples"), {
      build: ["next", "build"],
      start: ["next", "start"],
      ready: /Ready in/,
    });
  });

  it("renders the user's name, and signs in and out by actions", () => signsInAndOut(app));

  it("refreshes in the proxy, and hands the cookies to the browser", () => refreshes(app));

  it("sec:C22 server components keep a session whose new cookies never arrive", () =>
    keepsSessionWithoutCookies(app));

  it("sec:C23 two visitors at once never mix", () => neverMixes(app));

  it.runIf(chromium)(`the client of a page in Chromium has the same session${because}`, () =>
    sharesSession(app, chromium ?? { executablePath: "", env: {} }),
  );
});
