// The actions of a visitor in the page, and what the test can observe.
import { expect } from "vitest";
import { accessCookie, refreshCookie } from "../helpers/presented.ts";
import { type BrowserCookie, type Tab, type Visitor, waitFor } from "./engines.ts";

/** Opens the page in a new tab. */
export async function visit(visitor: Visitor, url: string): Promise<Tab> {
  const tab = await visitor.newTab();
  await tab.goto(url);
  await waitFor(tab, () => "app" in globalThis);
  return tab;
}

export async function signIn(page: Tab): Promise<void> {
  await page.evaluate(async () => void (await app.notes.signIn({ user: "alice" })));
}

export async function addNote(page: Tab, text: string): Promise<void> {
  await page.evaluate(
    async (note: string) => void (await app.notes.addNote({ note: { text: note } })),
    text,
  );
}

export async function listNotes(page: Tab): Promise<string[]> {
  return await page.evaluate(async () =>
    (await app.notes.listNotes({})).notes.map(({ text }) => text),
  );
}

export async function watchNotes(page: Tab): Promise<string[]> {
  return await page.evaluate(async () => {
    const texts: string[] = [];
    for await (const { note } of app.notes.watchNotes({})) {
      texts.push(note?.text ?? "");
    }
    return texts;
  });
}

/** Makes a call and returns the code of its error; undefined if it succeeds. */
export async function codeOf(page: Tab): Promise<number | undefined> {
  return await page.evaluate(async () => {
    try {
      await app.notes.listNotes({});
      return undefined;
    } catch (error) {
      return (error as { code: number }).code;
    }
  });
}

/** Returns the two session cookies of a host; fails if there are others. */
export async function sessionCookies(visitor: Visitor, url: string): Promise<BrowserCookie[]> {
  const all = await visitor.cookies(url);
  const cookies = all.toSorted((a, b) => a.name.localeCompare(b.name));
  // On localhost the names end with the port.
  const names = cookies.map(({ name }) => name.replace(/-\d+$/, ""));
  expect(names).toEqual([accessCookie, refreshCookie]);
  return cookies;
}

/** Collects everything that a script of the page can see: responses, storage, messages of tabs, `app`. */
export async function everythingVisible(page: Tab): Promise<string> {
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
