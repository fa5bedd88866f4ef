// A page with React and Connect-Query: what it shows, frame by frame.
import { expect, test } from "vitest";
import { type Tab, waitFor } from "./engines.ts";
import { inEngines } from "./world.ts";

/** Waits until the page shows a text. */
async function showing(page: Tab, text: string): Promise<void> {
  try {
    await waitFor(
      page,
      (wanted: string) =>
        [...document.querySelectorAll("p")].map((p) => p.textContent).join("; ") === wanted,
      text,
    );
  } catch (cause) {
    const seen = (await frames(page)).join("\n");
    throw new Error(`the page did not show "${text}", but this:\n${seen}`, { cause });
  }
}

/** What the page has shown so far: who is signed in, and the notes. */
const frames = (page: Tab): Promise<string[]> => page.evaluate(() => globalThis.shownFrames);

const signIn = (page: Tab, user: string): Promise<void> =>
  page.evaluate(async (name: string) => void (await app.notes.signIn({ user: name })), user);

const addNote = (page: Tab, text: string): Promise<void> =>
  page.evaluate(async (t: string) => void (await app.notes.addNote({ note: { text: t } })), text);

/** Makes every request fail while the page is told to be offline. */
const offlinePrelude = `
  const connected = globalThis.fetch;
  globalThis.fetch = (...request) =>
    sessionStorage.getItem("offline") === "yes"
      ? Promise.reject(new TypeError("offline"))
      : connected(...request);
`;

declare global {
  /** How many answers the page has received, by method. */
  var answers: Record<string, number>;
}

/**
 * Counts the answers to ListNotes. Not the requests: StrictMode mounts a component twice, and the query
 * of the first time is aborted, before or after it has reached the server.
 */
const answersPrelude = `
  const asked = globalThis.fetch;
  globalThis.answers = {};
  globalThis.fetch = async (...request) => {
    const answer = await asked(...request);
    if (answer.url.endsWith("/ListNotes")) {
      globalThis.answers.ListNotes = (globalThis.answers.ListNotes ?? 0) + 1;
    }
    return answer;
  };
`;

inEngines(
  (_engine, open) => {
    test("feat:P17 shows nobody, then the user, and the same user after a reload without a wrong frame", async () => {
      const { api, visit } = await open({ prelude: answersPrelude });
      const page = await visit();
      await showing(page, "Please sign in; refused");
      // A refusal is not retried.
      expect(await page.evaluate(() => globalThis.answers)).toEqual({ ListNotes: 1 });

      // The queries resume by themselves.
      await signIn(page, "alice");
      await showing(page, "Signed in as alice; ");
      await addNote(page, "milk");

      await page.reload();
      await showing(page, "Signed in as alice; milk");
      const seen = await frames(page);
      expect(seen.filter((frame) => /signedOut|refused/.test(frame))).toEqual([]);
      expect(api.events.filter(({ type }) => type === "refreshed")).toEqual([]);
    });

    test("feat:P17 a sign-out in another tab removes the user and the data from this one", async () => {
      const { visit } = await open();
      const [page, other] = [await visit(), await visit()];
      await signIn(other, "alice");
      await addNote(other, "milk");
      await page.reload();
      await showing(page, "Signed in as alice; milk");
      await other.evaluate(() => app.session.signOut());
      await showing(page, "Please sign in; refused");
      expect((await frames(page)).filter((frame) => /^signedOut: milk/.test(frame))).toEqual([]);
    });

    test("feat:P17 after a switch of user in another tab no frame mixes two users", async () => {
      const { visit } = await open();
      const [page, other] = [await visit(), await visit()];
      await signIn(other, "bob");
      await addNote(other, "bread");
      await signIn(other, "alice");
      await addNote(other, "milk");
      await page.reload();
      await showing(page, "Signed in as alice; milk");
      await signIn(other, "bob");
      await showing(page, "Signed in as bob; bread");
      const mixed = /^alice.*bread|^bob.*milk/;
      for (const tab of [page, other]) {
        expect((await frames(tab)).filter((frame) => mixed.test(frame))).toEqual([]);
      }
    });

    test("feat:P17 sec:C23 after a sign-out, nobody sees again what the server rendered for the user", async () => {
      const { visit } = await open({ prelude: offlinePrelude });
      const page = await visit();
      await signIn(page, "alice");
      await page.evaluate(() =>
        sessionStorage.setItem(
          "initialState",
          JSON.stringify({ status: "signedIn", userId: "alice", claims: { role: "admin" } }),
        ),
      );
      await page.reload();
      await showing(page, "Signed in as alice; ");
      await page.evaluate(() => app.session.signOut());
      await showing(page, "Please sign in; refused");

      // The next person presses "Back". The client has to ask the service, and cannot reach it.
      await page.evaluate(() => {
        sessionStorage.setItem("offline", "yes");
        globalThis.shownFrames = [];
        dispatchEvent(new PageTransitionEvent("pageshow", { persisted: true }));
      });
      await waitFor(page, () => document.body.innerText.includes("One moment"));
      expect((await frames(page)).filter((frame) => /alice|admin/.test(frame))).toEqual([]);
    });

    test("feat:P17 an outage is shown as an error, and the page asks again when it is online", async () => {
      const { visit } = await open({ prelude: offlinePrelude });
      const page = await visit();
      await signIn(page, "alice");
      await page.evaluate(() => sessionStorage.setItem("offline", "yes"));
      await page.reload();
      await waitFor(page, () =>
        globalThis.shownFrames?.some((frame) => /with an error/.test(frame)),
      );
      expect(await page.evaluate(() => app.session.state.status)).toBe("unknown");
      expect((await frames(page)).filter((frame) => /signedOut|alice/.test(frame))).toEqual([]);
      await page.evaluate(() => sessionStorage.removeItem("offline"));
      await page.evaluate(() => void dispatchEvent(new Event("online")));
      await waitFor(page, () => document.body.innerText.includes("Signed in as alice"));
    });
  },
  {},
  "react-page.tsx",
);
