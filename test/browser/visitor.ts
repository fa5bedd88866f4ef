// The actions of a visitor in the page, and what the test can observe.
import type { BrowserContext, Cookie, Page } from "playwright-core";
import { expect } from "vitest";
import { accessCookie, refreshCookie } from "../helpers/presented.ts";

/** Opens the page in a new tab. */
export async function visit(context: BrowserContext, url: string): Promise<Page> {
  const page = await context.newPage();
  await page.goto(url);
  await page.waitForFunction(() => "app" in globalThis);
  return page;
}

export async function signIn(page: Page): Promise<void> {
  await page.evaluate(async () => void (await app.notes.signIn({ user: "alice" })));
}

export async function addNote(page: Page, text: string): Promise<void> {
  await page.evaluate(
    async (note) => void (await app.notes.addNote({ note: { text: note } })),
    text,
  );
}

export async function listNotes(page: Page): Promise<string[]> {
  return await page.evaluate(async () =>
    (await app.notes.listNotes({})).notes.map(({ text }) => text),
  );
}

export async function watchNotes(page: Page): Promise<string[]> {
  return await page.evaluate(async () => {
    const texts: string[] = [];
    for await (const { note } of app.notes.watchNotes({})) {
      texts.push(note?.text ?? "");
    }
    return texts;
  });
}

/** Makes a call and returns the code of its error; undefined if it succeeds. */
export async function codeOf(page: Page): Promise<number | undefined> {
  return await page.evaluate(async () => {
    try {
      await app.notes.listNotes({});
      return undefined;
    } catch (error) {
      return (error as { code: number }).code;
    }
  });
}

/** Returns the two session cookies; fails if there are others. */
export async function sessionCookies(context: BrowserContext): Promise<Cookie[]> {
  const cookies = (await context.cookies()).toSorted((a, b) => a.name.localeCompare(b.name));
  expect(cookies.map(({ name }) => name)).toEqual([accessCookie, refreshCookie]);
  return cookies;
}

/** Collects everything that a script of the page can see: responses, storage, messages of tabs, `app`. */
export async function everythingVisible(page: Page): Promise<string> {
  return await page.evaluate(async () => {
    const databases = await indexedDB.databases();
    const caches = await globalThis.caches?.keys();
    const ours = [app.session.state, { ...app.session }, app.events, app.seen];
    return JSON.stringify([
      document.cookie,
      Object.entries(localStorage),
      Object.entries(sessionStorage),
      databases,
      caches,
      performance.getEntries(),
      ours,
    ]);
  });
}
