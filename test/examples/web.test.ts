// The page of examples/web in Chromium: a visitor presses every button and reads the timeline. The
// static page, whose server runs in the browser, behaves like the one with a server.
import { execFile } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { extname, join } from "node:path";
import { promisify } from "node:util";
import { type Browser, chromium, type Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, onTestFinished, test, vi } from "vitest";
import { buildPage, type PageFiles } from "../../examples/web/build.ts";
import { startPlayground } from "../../examples/web/server.ts";
import { howToGetChromium, installedChromium } from "../browser/engines/chromium.ts";

const installed = await installedChromium();
const missing = installed ? "" : `skipped because Chromium is missing: ${howToGetChromium}`;

// Browsers are slow while other tests run.
vi.setConfig({ testTimeout: 120_000, hookTimeout: 120_000 });

/** A page under test: one with a server, or the static one below a folder of a file server. */
interface Site {
  readonly url: string;
  close(): Promise<void>;
}

describe.skipIf(missing !== "").each([
  { kind: "with a server", isStatic: false },
  { kind: "without a server", isStatic: true },
])(`the playground $kind in Chromium ${missing}`, ({ isStatic }) => {
  let browser: Browser;
  let folder: string;
  let files: PageFiles;
  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), "rpc-session-web-"));
    [browser] = await Promise.all([chromium.launch(installed), build()]);
  });
  afterAll(async () => {
    await browser?.close();
    rmSync(folder, { recursive: true, force: true });
  });

  async function build(): Promise<void> {
    if (isStatic) {
      await promisify(execFile)("npm", ["run", "example:static", "--", join(folder, "play")]);
    } else {
      files = await buildPage();
    }
  }

  let databases = 0;

  async function start(): Promise<Site> {
    if (isStatic) {
      return serveFiles(folder, "/play/");
    }
    databases += 1;
    const database = join(folder, `sessions-${databases}.db`);
    return startPlayground({ port: 0, database, page: files });
  }

  async function open(): Promise<Visit> {
    const site = await start();
    const context = await browser.newContext();
    onTestFinished(async () => {
      await context.close();
      await site.close();
    });
    const page = await context.newPage();
    page.setDefaultTimeout(60_000);
    const errors: Error[] = [];
    page.on("pageerror", (error) => errors.push(error));
    await page.goto(site.url);
    return { page, errors, secondTab: () => context.newPage(), url: site.url };
  }

  test("an expired token renews itself, and a lost response does not sign anybody out", async () => {
    const { page, errors } = await open();
    await signIn(page, "Ada");
    await press(page, "Call");
    await page.getByText("Hello, Ada!").waitFor();

    await press(page, "Let the token expire");
    await press(page, "Call");
    await page.getByText("a new access token").first().waitFor();

    await press(page, "Lose the response to a refresh");
    await page.getByText("got lost on its way").waitFor();
    await page.getByText("Refreshed at the second attempt.").waitFor();
    expect(await page.getByRole("heading", { name: "Ada" }).isVisible()).toBe(true);
    expect(errors).toEqual([]);
  });

  test("a thief is found when the stolen refresh token is used again, and both are signed out", async () => {
    const { page, errors } = await open();
    await signIn(page, "Grace");
    await press(page, "Steal");
    await press(page, "Thief calls");
    await page.getByText("It says: “Hello, Grace!”").waitFor();

    // The owner refreshes, and uses the new tokens for longer than the overlap.
    for (const generation of [1, 2]) {
      await press(page, "Let the token expire");
      await press(page, "Call");
      await page.getByText(`refresh token number ${generation}.`).first().waitFor();
    }
    await press(page, "Thief refreshes");
    await page.getByText("Theft: refresh token number 0").waitFor();
    await page.getByRole("heading", { name: "Sign in as" }).waitFor();
    await page.getByText("I tried to refresh the session: Unauthenticated").waitFor();
    expect(errors).toEqual([]);
  });

  test("a stolen session: the thief's refresh is refused, the theft is an event, and its stream ends", async () => {
    const { page, errors } = await open();
    await signIn(page, "Ada");
    await press(page, "Steal this session");
    await page.getByText("it stays open.").waitFor();
    await page.getByText("Theft: refresh token number 0").waitFor();
    await page.getByText("I tried to refresh the session: Unauthenticated").waitFor();
    await page.getByText("My stream was ended: Unauthenticated").waitFor();
    await page.getByRole("heading", { name: "Sign in as" }).waitFor();
    expect(errors).toEqual([]);
  });

  test("a stolen session that is bound to a key: the thief gets nothing, and the phone goes on", async () => {
    const { page, errors } = await open();
    await signIn(page, "Grace");
    await press(page, "Add a phone");
    await page.getByText("my session is bound to my key").waitFor();
    await press(page, "Steal the phone's session");
    await page.getByText("I could not copy its key.").waitFor();
    await page.getByText("it stays open.").waitFor();
    await page.getByText("the session is bound to another key").waitFor();
    await page
      .getByText("The refresh is refused, and the session goes on for its owner.")
      .waitFor();
    await page.getByText("My stream was ended: Unauthenticated: the access token").waitFor();
    // The phone refreshes with its key: it can still sign out this device.
    await press(page, "Phone signs you out");
    await page.getByText("I signed out 1 other device.").waitFor();
    await page.getByRole("heading", { name: "Sign in as" }).waitFor();
    expect(errors).toEqual([]);
  });

  test("a device that is signed out in the list loses its stream at once, and so does this one", async () => {
    const { page, errors } = await open();
    await signIn(page, "Edsger");
    await press(page, "Add a phone");
    await press(page, "Sign it out");
    await page.getByText("My stream ended at once: Unauthenticated").waitFor();

    await press(page, "Add a phone");
    await press(page, "Phone signs you out");
    await page.getByRole("heading", { name: "Sign in as" }).waitFor();
    expect(errors).toEqual([]);
  });

  test("a sign-out reaches the second tab", async () => {
    const { page, secondTab, url } = await open();
    await signIn(page, "Ada");
    const second = await secondTab();
    await second.goto(url);
    await second.getByRole("heading", { name: "Ada" }).waitFor();
    await press(page, "Sign out");
    await second.getByRole("heading", { name: "Sign in as" }).waitFor();
    expect(await second.getByRole("heading", { name: "Ada" }).count()).toBe(0);
  });

  test("every button can be reached and pressed with the keyboard", async () => {
    const { page } = await open();
    await page.getByRole("button", { name: "Ada" }).focus();
    await page.keyboard.press("Enter");
    await page.getByRole("heading", { name: "Ada" }).waitFor();
    const buttons = await page.getByRole("button").count();
    const reached = new Set<string>();
    for (let presses = 0; presses < buttons + 5; presses += 1) {
      await page.keyboard.press("Tab");
      reached.add(await page.evaluate(() => document.activeElement?.textContent ?? ""));
    }
    expect([...reached]).toEqual(
      expect.arrayContaining(["Refresh now", "Sign out", "Call", "Steal", "Add a phone"]),
    );
  });

  test.each([360, 1280])("nothing moves by itself, %d pixels wide", async (width) => {
    const { page, url } = await open();
    await page.setViewportSize({ width, height: 800 });
    await page.addInitScript(() => {
      const shifts: string[] = [];
      Object.assign(globalThis, { shifts });
      new PerformanceObserver((list) => {
        for (const { value, sources } of list.getEntries() as unknown as LayoutShift[]) {
          const moved = sources.map(({ node }) => node?.parentElement?.className ?? "");
          shifts.push(`${value.toFixed(4)} ${moved.join(", ")}`);
        }
      }).observe({ type: "layout-shift", buffered: true });
    });
    const shifts = () =>
      page.evaluate(async () => {
        // The life of the token is drawn again every second.
        for (let frames = 0; frames < 100; frames += 1) {
          await new Promise((resolve) => requestAnimationFrame(resolve));
        }
        return (globalThis as unknown as Shifted).shifts.splice(0);
      });
    await page.goto(url);
    await page.getByRole("heading", { name: "Sign in as" }).waitFor();
    expect(await shifts()).toEqual([]);
    // Another page takes the place of this one, and may look different.
    await signIn(page, "Ada");
    await page.getByText("this one").waitFor();
    await page.getByText(/[1-9]\d* messages over/).waitFor();
    await shifts();
    await press(page, "Let the token expire");
    await press(page, "Call");
    await page.getByText("Hello, Ada!").waitFor();
    await page.getByText("a new access token").first().waitFor();
    await page.getByText(/messages over [2-9] connections/).waitFor();
    expect(await shifts()).toEqual([]);
  });

  test.each(["light", "dark"] as const)(
    "fits a phone and a desktop in %s colours",
    async (colors) => {
      const { page } = await open();
      await page.emulateMedia({ colorScheme: colors });
      await signIn(page, "Ada");
      for (const width of [360, 1280]) {
        await page.setViewportSize({ width, height: 800 });
        const overflow = await page.evaluate(
          () => document.documentElement.scrollWidth - document.documentElement.clientWidth,
        );
        expect(overflow).toBe(0);
      }
    },
  );
});

/** Serves the files of a folder as they are, as any static host does. */
async function serveFiles(folder: string, path: string): Promise<Site> {
  const types: Readonly<Record<string, string>> = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
  };
  const server: Server = createServer((request, response) => {
    const asked = new URL(request.url ?? "", "http://localhost").pathname;
    const name = asked.endsWith("/") ? `${asked}index.html` : asked;
    readFile(join(folder, name)).then(
      (body) => response.setHeader("content-type", types[extname(name)] ?? "").end(body),
      () => response.writeHead(request.method === "GET" ? 404 : 405).end(),
    );
  });
  await new Promise<void>((resolve) => server.listen(0, "localhost", resolve));
  return {
    url: `http://localhost:${(server.address() as AddressInfo).port}${path}`,
    async close() {
      const closed = new Promise((resolve) => server.close(resolve));
      server.closeAllConnections();
      await closed;
    },
  };
}

describe.skipIf(missing !== "")(`the static playground ${missing}`, () => {
  let browser: Browser;
  let files: PageFiles;
  beforeAll(async () => {
    [browser, files] = await Promise.all([
      chromium.launch(installed),
      buildPage({ isStatic: true }),
    ]);
  });
  afterAll(() => browser?.close());

  /** Opens the page at an address, with the files of the build instead of a server. */
  async function open(address: string): Promise<{ page: Page; requests: string[] }> {
    const context = await browser.newContext();
    onTestFinished(() => context.close());
    const requests: string[] = [];
    await context.route("**/*", (route) => {
      const { pathname } = new URL(route.request().url());
      const file = files.get(pathname === "/" ? "/index.html" : pathname);
      requests.push(`${route.request().method()} ${pathname}`);
      return file === undefined
        ? route.abort()
        : route.fulfill({ contentType: file.type, body: Buffer.from(file.body) });
    });
    const page = await context.newPage();
    page.setDefaultTimeout(60_000);
    await page.goto(address);
    return { page, requests };
  }

  test("says what is different, and asks its host for files alone", async () => {
    const { page, requests } = await open("https://docs.example/");
    await page.getByText("This page is its own server.").click();
    await page.getByText("Nothing you do here leaves your computer.").waitFor();
    await signIn(page, "Ada");
    await press(page, "Call");
    await page.getByText("Hello, Ada!").waitFor();
    expect(requests.filter((each) => !files.has(each.slice(4)) && each !== "GET /")).toEqual([]);
    // The jar of the worker holds the cookies, not the page.
    expect(await page.context().cookies()).toEqual([]);
  });

  test("works in a browser without shared workers, one tab by itself", async () => {
    const { page } = await open("about:blank");
    await page.addInitScript(() => Reflect.deleteProperty(globalThis, "SharedWorker"));
    await page.goto("https://docs.example/");
    await signIn(page, "Grace");
    expect(await page.getByRole("link", { name: "Open a second tab" }).count()).toBe(0);
    await page.getByText("This page is its own server.").click();
    await page.getByText("each tab has a server of its own").waitFor();
  });

  test("says that it needs https where browsers offer no cryptography", async () => {
    const { page } = await open("http://docs.example/");
    const alert = page.getByRole("alert");
    await alert.waitFor();
    expect(await alert.textContent()).toContain("Open this page over https or on localhost.");
  });
});

/** An entry of the Layout Instability API, which TypeScript does not know. */
interface LayoutShift {
  readonly value: number;
  readonly sources: readonly { readonly node?: Node }[];
}

interface Shifted {
  readonly shifts: string[];
}

interface Visit {
  readonly page: Page;
  /** Errors that scripts of the page did not catch. */
  readonly errors: readonly Error[];
  readonly secondTab: () => Promise<Page>;
  readonly url: string;
}

async function signIn(page: Page, name: string): Promise<void> {
  await press(page, name);
  await page.getByRole("heading", { name }).waitFor();
}

async function press(page: Page, name: string): Promise<void> {
  await page.getByRole("button", { name, exact: name.length < 9 && !isPerson(name) }).click();
}

function isPerson(name: string): boolean {
  return ["Ada", "Grace", "Edsger"].includes(name);
}
