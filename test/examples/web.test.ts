// The page of examples/web in Chromium: a visitor presses every button and reads the timeline.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Browser, chromium, type Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, onTestFinished, test, vi } from "vitest";
import { buildPage, type PageFiles } from "../../examples/web/build.ts";
import { startPlayground } from "../../examples/web/server.ts";
import { howToGetChromium, installedChromium } from "../browser/engines/chromium.ts";

const installed = await installedChromium();
const missing = installed ? "" : `skipped because Chromium is missing: ${howToGetChromium}`;

// Browsers are slow while other tests run.
vi.setConfig({ testTimeout: 120_000, hookTimeout: 120_000 });

describe.skipIf(missing !== "")(`the playground in Chromium ${missing}`, () => {
  let browser: Browser;
  let files: PageFiles;
  beforeAll(async () => {
    [browser, files] = await Promise.all([chromium.launch(installed), buildPage()]);
  });
  afterAll(() => browser?.close());

  async function open(): Promise<Visit> {
    const folder = mkdtempSync(join(tmpdir(), "rpc-session-web-"));
    const database = join(folder, "sessions.db");
    const playground = await startPlayground({ port: 0, database, page: files });
    const context = await browser.newContext();
    onTestFinished(async () => {
      await context.close();
      await playground.close();
      rmSync(folder, { recursive: true, force: true });
    });
    const page = await context.newPage();
    page.setDefaultTimeout(60_000);
    const errors: Error[] = [];
    page.on("pageerror", (error) => errors.push(error));
    await page.goto(playground.url);
    return { page, errors, secondTab: () => context.newPage(), url: playground.url };
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
