// What every application that renders pages with sessions must do, seen by browsers without scripts.
import { chromium } from "playwright-core";
import { expect } from "vitest";
import type { InstalledChromium } from "../browser/engines/chromium.ts";
import { freePort } from "../servers/port.ts";
import type { App, AppServer } from "./app.ts";
import { PageBrowser } from "./page.ts";

const password = "correct horse";

/** A server of pages, and the service that it renders for. */
export interface RenderedApp {
  readonly origin: string;
  readonly pages: Pick<AppServer, "later" | "output">;
  readonly service: Pick<AppServer, "later">;
}

interface Commands {
  readonly build: readonly string[];
  readonly start: readonly string[];
  /** What the server of the pages prints when it is ready. */
  readonly ready: RegExp;
}

/** Builds an application, and starts its service and its pages. */
export async function startRendered(app: App, commands: Commands): Promise<RenderedApp> {
  const ports = { pages: await freePort(), service: await freePort() };
  const origin = `http://localhost:${ports.pages}`;
  const env = {
    APP_ORIGIN: origin,
    SERVICE_URL: `http://localhost:${ports.service}`,
    NEXT_TELEMETRY_DISABLED: "1",
  };
  const start = (command: readonly string[], port: number, ready: RegExp) =>
    app.serve(command[0] ?? "", command.slice(1), { env: { ...env, PORT: `${port}` }, ready });
  const [command = "", ...args] = commands.build;
  await app.run(command, args, { env, seconds: 560 });
  const service = await start(["node", "service.ts"], ports.service, /listening/);
  const pages = await start(commands.start, ports.pages, commands.ready);
  return { origin, pages, service };
}

async function signedIn({ origin }: RenderedApp, user: string): Promise<PageBrowser> {
  const browser = new PageBrowser(origin);
  await browser.open();
  await browser.submit("Sign in", { user, password });
  return browser;
}

/** Signs in, renders the name of the user, writes and reads, and signs out. */
export async function signsInAndOut(app: RenderedApp): Promise<void> {
  const browser = new PageBrowser(app.origin);
  expect(await browser.open()).toContain("Sign in");
  const wrong = await browser.submit("Sign in", { user: "ada", password: "wrong" });
  expect(wrong).not.toContain("Signed in as");
  expect(browser.cookies).toEqual([]);

  expect(await browser.submit("Sign in", { user: "ada", password })).toContain("Signed in as ada");
  expect(browser.cookies).toHaveLength(2);
  expect(await browser.submit("Add", { text: "milk" })).toContain("<li>milk</li>");
  expect(JSON.parse(await browser.open("/notes"))).toEqual(["milk"]);
  expect(await browser.call("rpcsession.v1.SessionService/GetSession")).toBe(200);

  await browser.open();
  expect(await browser.submit("Sign out")).not.toContain("Signed in as");
  expect(browser.cookies).toEqual([]);
  expect(await browser.call("rpcsession.v1.SessionService/GetSession")).toBe(401);
}

/** The access token has expired: the server refreshes and hands the cookies to the browser. */
export async function refreshes(app: RenderedApp): Promise<void> {
  const browser = await signedIn(app, "bea");
  // A first use after a minute confirms the session's first tokens.
  await passes(app);
  await browser.open();
  expect(browser.set).toHaveLength(1);
  await passes(app);
  expect(await browser.open()).toContain("Signed in as bea");
  expect(browser.generation).toBe(1);
  await passes(app);
  // An action of the page refreshes as well.
  await browser.submit("Add", { text: "tea" });
  expect(browser.set).not.toEqual([]);
  expect(await browser.open()).toContain("<li>tea</li>");
}

/** New cookies never arrive, for longer than an access token lives. */
export async function keepsSessionWithoutCookies(app: RenderedApp): Promise<void> {
  const browser = await signedIn(app, "cleo");
  await passes(app);
  await browser.open();
  const { generation } = browser;
  for (let round = 0; round < 3; round++) {
    await passes(app);
    expect(await browser.open("/", { keeps: false })).toContain("Signed in as cleo");
  }
  // The clock of the pages stands still, so they do not know that the token has expired.
  await app.service.later();
  expect(await browser.open("/", { keeps: false })).toContain("Signed in as cleo");
  expect(browser.generation).toBe(generation);
  expect(await browser.call("rpcsession.v1.SessionService/Refresh")).toBe(200);
  expect(await browser.open()).toContain("Signed in as cleo");
}

/** Many visitors at once, all with expired tokens. */
export async function neverMixes(app: RenderedApp): Promise<void> {
  const users = Array.from({ length: 6 }, (_, i) => `user-${i}`);
  const browsers = await Promise.all(users.map((user) => signedIn(app, user)));
  await passes(app);
  const pages = await Promise.all(browsers.flatMap((one) => [one.open(), one.open()]));
  const names = pages.map((html) => /Signed in as ([\w-]+)/.exec(html)?.[1]);
  expect(names).toEqual(users.flatMap((user) => [user, user]));
}

/** In a real browser, the client of the page has the session of the server, and refreshes it. */
export async function sharesSession(app: RenderedApp, installed: InstalledChromium): Promise<void> {
  const browser = await chromium.launch(installed);
  try {
    const page = await browser.newPage();
    await page.goto(app.origin);
    await page.getByLabel("User").fill("dora");
    await page.getByLabel("Password").fill(password);
    await page.getByRole("button", { name: "Sign in" }).click();
    await page.getByText("Signed in as dora").waitFor();
    await page.getByLabel("Note").fill("milk");
    await page.getByRole("button", { name: "Add" }).click();
    await page.getByText("milk").waitFor();
    await passes(app);
    await page.getByRole("button", { name: "Notes" }).click();
    await page.getByText("Notes: 1").waitFor();
    await passes(app);
    await page.reload();
    await page.getByText("Signed in as dora").waitFor();
    await page.getByRole("button", { name: "Sign out" }).click();
    await page.getByRole("button", { name: "Sign in" }).waitFor();
  } finally {
    await browser.close();
  }
}

async function passes({ pages, service }: RenderedApp): Promise<void> {
  await Promise.all([pages.later(), service.later()]);
}
