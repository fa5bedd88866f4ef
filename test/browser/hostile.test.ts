// Hostile pages in real browsers.
import { describe, expect, onTestFinished, test } from "vitest";
import type { TestSessionsOptions } from "../helpers/server.ts";
import { attacks } from "./attacks.ts";
import { type Tab, type Visitor, waitFor } from "./engines.ts";
import { startPages } from "./servers.ts";
import { addNote, listNotes, sessionCookies, signIn } from "./visitor.ts";
import { inEngines } from "./world.ts";

inEngines((engine, open) => {
  const hostile: readonly (readonly [string, Hostile])[] = [
    ["a page of another site", { host: "evil.test", cookiesReach: false }],
    ["a page on another port", { host: "localhost", cookiesReach: true }],
    [
      "a page of another site, with SameSite=None",
      { host: "evil.test", cookiesReach: true, options: { cookies: { sameSite: "none" } } },
    ],
  ];
  describe.each(hostile)("%s", (_, { host, cookiesReach, options = {} }) => {
    test("feat:C7 feat:C4 can neither change nor read anything", async () => {
      const settings = { cookies: "all" } as const;
      const { api, visitor, visit } = await open({
        options,
        ...(engine.traits.settings && { settings }),
      });
      const page = await visit();
      await signIn(page);
      await addNote(page, "secret milk");
      const before = {
        cookies: await sessionCookies(visitor, api.at()),
        handled: api.calls.handled,
      };
      const events = api.events.length;
      const evil = await openEvil(visitor, host);
      api.asked.length = 0;

      const learned: string[] = [];
      for (const age of ["0s", "16m"] as const) {
        // First with a valid access token, then with an expired one that could be refreshed.
        api.sessions.clock.advance(age);
        for (const attack of Object.values(attacks)) {
          learned.push(await evil.evaluate(attack, api.at()));
        }
        learned.push(...(await navigations(visitor, evil, api.at())));
        await evil.back();
        await waitFor(evil, () => document.title === "page");
      }
      expect(api.asked.length).toBeGreaterThan(80);
      const withCookies = api.asked.filter(({ cookies }) => cookies);
      // Navigations carry Lax cookies from any site. Other requests do so as the row specifies.
      expect(withCookies.length > 20).toBe(cookiesReach);
      expect(withCookies.length).toBeGreaterThan(0);
      expect(api.calls.handled).toBe(before.handled);
      const types = api.events.slice(events).map(({ type }) => type);
      expect(new Set(types)).toEqual(new Set(["csrfRefused", "refused"]));
      expect(await sessionCookies(visitor, api.at())).toEqual(before.cookies);
      const secrets = ["milk", "alice", ...before.cookies.map(({ value }) => value)];
      for (const secret of secrets) {
        expect(learned.join("\n")).not.toContain(secret);
      }
      expect(await listNotes(page)).toEqual(["secret milk"]);
    });
  });

  /** Makes the hostile page navigate to the API, and reads the responses as the visitor would see them. */
  async function navigations(visitor: Visitor, evil: Tab, api: string): Promise<string[]> {
    const get = `${api}/notes.v1.NotesService/ListNotes?connect=v1&encoding=json&message=%7B%7D`;
    const learned: string[] = [];
    if (engine.traits.popups) {
      const popup = await visitor.popup(evil, get);
      learned.push(await popup.evaluate(() => document.body.textContent ?? ""));
      const read = await evil.evaluate(() => {
        try {
          return String(window.open("", "popup")?.document.body.textContent);
        } catch (error) {
          return String(error);
        }
      });
      expect(read).toContain("SecurityError");
      await popup.close();
    }
    await evil.evaluate((url: string) => {
      document.body.innerHTML = `<a href="${url}">win a prize</a>`;
      document.querySelector("a")?.click();
    }, get);
    await waitFor(evil, (url: string) => location.href === url && !!document.body, get);
    return [...learned, await evil.evaluate(() => document.body.textContent ?? "")];
  }

  async function openEvil(visitor: Visitor, host: string): Promise<Tab> {
    const site = await startPages(() => "", { host, tls: !engine.traits.secureOnLocalhost });
    onTestFinished(() => site.close());
    const page = await visitor.newTab();
    await page.goto(site.at());
    return page;
  }
});

interface Hostile {
  readonly host: string;
  /** Whether browsers send the cookies with requests of its page. */
  readonly cookiesReach: boolean;
  readonly options?: TestSessionsOptions;
}
