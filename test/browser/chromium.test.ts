// Tests in a real browser: connect-web in a page of another origin, and hostile pages.
import type { Browser, BrowserContext, Page } from "playwright-core";
import type { CookieOptions } from "rpc-session";
import { memoryStore } from "rpc-session/stores/memory";
import { createFakeClock } from "rpc-session/testing";
import { afterAll, beforeAll, describe, expect, onTestFinished, test, vi } from "vitest";
import { accessCookie, refreshCookie } from "../helpers/presented.ts";
import type { TestSessionsOptions } from "../helpers/server.ts";
import { attacks } from "./attacks.ts";
import { type Chromium, findChromium, launchChromium, launchProfile } from "./chromium.ts";
import { type Api, bundlePage, type Site, startApi, startPages } from "./servers.ts";
import {
  addNote,
  codeOf,
  everythingVisible,
  listNotes,
  sessionCookies,
  signIn,
  visit,
  watchNotes,
} from "./visitor.ts";

const found = await findChromium();
const missing = "missing" in found ? `skipped because Chromium is missing: ${found.missing}` : "";
if (missing !== "") {
  console.warn(`The tests in a browser are ${missing}.`);
}

const chromium = found as Chromium;

// Browsers are slow while other tests run.
vi.setConfig({ testTimeout: 60_000, hookTimeout: 60_000 });

describe.skipIf(missing !== "")(`in Chromium ${missing}`, () => {
  let browser: Browser;
  let script: string;
  beforeAll(async () => {
    [browser, script] = await Promise.all([launchChromium(chromium), bundlePage()]);
  });
  afterAll(() => browser?.close());

  /** Starts the API, a page that may call it, and a fresh browser. */
  async function open(scene: Scene = {}): Promise<World> {
    const { host = "localhost", apiHost = "localhost", options = {} } = scene;
    const { thirdPartyCookies = false, keepsTokens = false } = scene;
    let source = "";
    const site = await startPages(() => source, { host });
    const api = await startApi([site.at()], options, { host: apiHost });
    const given = { appApi: api.at(), appKeepsTokens: keepsTokens };
    source = `Object.assign(globalThis, ${JSON.stringify(given)});\n${script}`;
    const context = await (thirdPartyCookies
      ? launchProfile(chromium)
      : browser.newContext({ ignoreHTTPSErrors: true }));
    onTestFinished(async () => {
      await context.close();
      await Promise.all([site.close(), api.close()]);
    });
    return { api, site, context, visit: () => visit(context, site.at()) };
  }

  test("feat:J3 feat:I1 a page of another origin signs in, makes calls, refreshes unnoticed, streams and signs out", async () => {
    const { api, site, context, visit } = await open();
    const page = await visit();
    await signIn(page);
    expect(api.asked[0]).toMatchObject({ verb: "OPTIONS", method: "SignIn", cookies: false });
    expect(api.asked[0]?.headers).toContain("connect-protocol-version");
    expect(api.asked[0]?.headers).toContain("rpcsession-transport");
    const first = await sessionCookies(context);
    for (const cookie of first) {
      expect(cookie).toMatchObject({ httpOnly: true, secure: true, sameSite: "Lax", path: "/" });
    }

    await addNote(page, "milk");
    expect(await listNotes(page)).toEqual(["milk"]);

    api.sessions.clock.advance("16m");
    expect(await listNotes(page)).toEqual(["milk"]);
    expect([api.count("ListNotes", "GET"), api.count("Refresh")]).toEqual([3, 1]);

    api.sessions.clock.advance("16m");
    expect(await watchNotes(page)).toEqual(["milk"]);
    expect([api.count("WatchNotes"), api.count("Refresh")]).toEqual([2, 2]);
    expect(await page.evaluate(() => app.events)).toEqual(["signedIn", "refreshed", "refreshed"]);

    const tokens = [...first, ...(await sessionCookies(context))].map(({ value }) => value);
    expect(new Set(tokens).size).toBe(4);
    const visible = [await everythingVisible(page)];
    await page.evaluate(() => app.session.signOut());
    expect(await context.cookies()).toEqual([]);
    expect(await page.evaluate(() => app.session.state.status)).toBe("signedOut");
    expect(await codeOf(page)).toBe(16);
    visible.push(await everythingVisible(page));
    expect(visible.join()).toContain("rpcsession-session");
    for (const token of tokens) {
      expect(visible.join()).not.toContain(token);
      expect(visible.join()).not.toContain(token.slice(-40));
    }
    expect(new Set(api.asked.map(({ origin, site: from }) => `${origin} ${from}`))).toEqual(
      new Set([`${site.at()} same-site`]),
    );
  });

  test("feat:I1 document.cookie can neither read nor overwrite the session cookies", async () => {
    const { api, context, visit } = await open();
    const page = await visit();
    await signIn(page);
    const before = await sessionCookies(context);
    const shown = await page.evaluate(async () => {
      for (const name of ["__Host-rpcsession-access", "__Host-rpcsession-refresh"]) {
        for (const rest of ["Secure; Path=/", "Path=/", "Secure; Path=/notes.v1.NotesService"]) {
          for (const value of ["planted", "; Max-Age=0"]) {
            // biome-ignore lint/suspicious/noDocumentCookie: as a hostile script would
            document.cookie = `${name}=${value}; ${rest}`;
          }
        }
      }
      const store = "cookieStore" in globalThis ? await cookieStore.getAll() : [];
      return [document.cookie, JSON.stringify(store)];
    });
    expect(shown).toEqual(["", "[]"]);
    expect(await sessionCookies(context)).toEqual(before);
    await addNote(page, "milk");
    expect(api.calls.handled).toBe(2);
  });

  test.each(["with Web Locks", "without Web Locks"])(
    "feat:P2 feat:P6 tabs that refresh at the same time all stay signed in, and a sign-out reaches all of them, %s",
    async (locks) => {
      const { api, context, visit } = await open();
      if (locks === "without Web Locks") {
        await context.addInitScript(() => {
          Object.defineProperty(navigator, "locks", { value: undefined });
        });
      }
      const tabs = [await visit(), await visit(), await visit()] as const;
      await signIn(tabs[0]);
      for (let round = 0; round < 4; round++) {
        api.sessions.clock.advance("16m");
        const calls = tabs.flatMap((tab) => [addNote(tab, "a"), addNote(tab, "b")]);
        await Promise.all(calls);
      }
      expect(api.calls.handled).toBe(1 + 4 * tabs.length * 2);
      expect(api.events.map(({ type }) => type)).not.toContain("theft");
      const record = api.events.filter(({ type }) => type === "refreshed").length;
      expect(record).toBeGreaterThanOrEqual(4);

      await tabs[1].evaluate(() => app.session.signOut());
      for (const tab of tabs) {
        await tab.waitForFunction(() => app.session.state.status === "signedOut");
        expect(await codeOf(tab)).toBe(16);
      }
      expect(await context.cookies()).toEqual([]);
    },
  );

  test("feat:C1 feat:J3 a page of another origin receives the anti-CSRF token, and again after a reload", async () => {
    const { api, visit } = await open({ options: { antiCsrf: "token" } });
    const page = await visit();
    await signIn(page);
    await addNote(page, "milk");
    expect([api.calls.handled, api.count("Refresh")]).toEqual([2, 0]);
    await page.reload();
    await page.waitForFunction(() => "app" in globalThis);
    // The page still has the cookies, but has lost the anti-CSRF token.
    await addNote(page, "bread");
    expect([api.calls.handled, api.count("Refresh")]).toEqual([3, 1]);
    await addNote(page, "eggs");
    expect(await listNotes(page)).toEqual(["milk", "bread", "eggs"]);
    expect(api.count("Refresh")).toBe(1);
  });

  test("feat:J1 feat:J3 a page of another site that may use header tokens keeps them in memory and receives no cookie", async () => {
    const options = { origins: [], browserHeaderTransport: true };
    const { api, context, visit } = await open({
      host: "partner.test",
      keepsTokens: true,
      options,
    });
    const page = await visit();
    await signIn(page);
    await addNote(page, "milk");
    api.sessions.clock.advance("16m");
    expect(await listNotes(page)).toEqual(["milk"]);
    api.sessions.clock.advance("16m");
    expect(await watchNotes(page)).toEqual(["milk"]);
    expect(await page.evaluate(() => app.events)).toEqual(["signedIn", "refreshed", "refreshed"]);
    expect(api.count("Refresh")).toBe(2);
    await page.evaluate(() => app.session.signOut());
    expect(await codeOf(page)).toBe(16);
    expect(await context.cookies()).toEqual([]);
    expect(api.asked.filter(({ cookies }) => cookies)).toEqual([]);
  });

  test("feat:I6 feat:C7 an allowed embedding site has a partitioned session of its own", async () => {
    const options = { cookies: { sameSite: "none", partitioned: true } } as const;
    const { api, context, visit } = await open({ host: "partner.test", options });
    const page = await visit();
    await signIn(page);
    await addNote(page, "milk");
    api.sessions.clock.advance("16m");
    expect(await listNotes(page)).toEqual(["milk"]);
    expect(api.asked.at(-1)).toMatchObject({ site: "cross-site", cookies: true });
    for (const cookie of await sessionCookies(context)) {
      expect(cookie).toMatchObject({ sameSite: "None", partitionKey: expect.anything() });
    }
    await page.evaluate(() => app.session.signOut());
    expect(await context.cookies()).toEqual([]);
  });

  describe("hosts that share a domain, over HTTPS", () => {
    const names = { access: "__Secure-rpcsession-access", refresh: "__Secure-rpcsession-refresh" };
    const hosts = { host: "app.shop.test", apiHost: "api.shop.test" };

    /** Makes a sibling host plant the cookies of its own session, from its server and from a script. */
    async function plant(world: World, of: { readonly access: string; readonly refresh: string }) {
      const { tokens } = await world.api.sessions.issue({ userId: "mallory", transport: "cookie" });
      const cookies = [
        `${of.access}=${tokens.accessToken}; Domain=shop.test; Path=/; Secure`,
        `${of.refresh}=${tokens.refreshToken}; Domain=shop.test; Path=/; Secure`,
      ];
      const evil = await startPages(() => "", { host: "evil.shop.test", cookies });
      onTestFinished(() => evil.close());
      const page = await world.context.newPage();
      await page.goto(evil.at());
      await page.evaluate((planted) => {
        for (const cookie of planted) {
          // biome-ignore lint/suspicious/noDocumentCookie: as a hostile script would
          document.cookie = cookie;
        }
      }, cookies);
      await page.close();
    }

    test("sec:C01 feat:I5 a sibling host cannot plant a cookie with the prefix __Host-", async () => {
      const world = await open(hosts);
      const page = await world.visit();
      await signIn(page);
      await addNote(page, "milk");
      const before = await sessionCookies(world.context);
      await plant(world, { access: accessCookie, refresh: refreshCookie });
      expect(await sessionCookies(world.context)).toEqual(before);
      world.api.sessions.clock.advance("16m");
      expect(await listNotes(page)).toEqual(["milk"]);
    });

    test("sec:C01 feat:I5 without the prefix, planted cookies of a sibling host are refused and expired", async () => {
      const world = await open({ ...hosts, options: { cookies: { names } } });
      const page = await world.visit();
      await signIn(page);
      await addNote(page, "milk");
      await plant(world, names);
      expect(await world.context.cookies(world.api.at())).toHaveLength(4);
      expect(await codeOf(page)).toBe(16);
      expect(await world.context.cookies()).toEqual([]);
      await signIn(page);
      expect(await listNotes(page)).toEqual(["milk"]);
    });

    const changes: readonly (readonly [string, CookieOptions, CookieOptions, string])[] = [
      [
        "from the host to a domain",
        { names },
        { domain: "shop.test", olderDomain: null },
        ".shop.test",
      ],
      [
        "from a domain to the host",
        { domain: "shop.test" },
        { names, olderDomain: "shop.test" },
        "api.shop.test",
      ],
    ];
    test.each(changes)(
      "feat:I4 feat:I2 the domain of the cookies changes %s without signing anybody out",
      async (_, before, after, domain) => {
        const shared = { store: memoryStore(), clock: createFakeClock() };
        const { api, site, context, visit } = await open({
          ...hosts,
          options: { ...shared, cookies: before },
        });
        const page = await visit();
        await signIn(page);
        await api.stop();
        const options = { ...shared, cookies: after };
        const next = await startApi([site.at()], options, { host: hosts.apiHost, port: api.port });
        onTestFinished(() => next.close());
        await addNote(page, "milk");
        for (let round = 0; round < 2; round++) {
          shared.clock.advance("16m");
          expect(await listNotes(page)).toEqual(["milk"]);
        }
        const cookies = await context.cookies();
        expect(cookies.map((cookie) => `${cookie.name} of ${cookie.domain}`).sort()).toEqual([
          `${names.access} of ${domain}`,
          `${names.refresh} of ${domain}`,
        ]);
      },
    );
  });

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
      const { api, context, visit } = await open({ options, thirdPartyCookies: true });
      const page = await visit();
      await signIn(page);
      await addNote(page, "secret milk");
      const before = { cookies: await sessionCookies(context), handled: api.calls.handled };
      const events = api.events.length;
      const evil = await openEvil(context, host);
      api.asked.length = 0;

      const learned: string[] = [];
      for (const age of ["0s", "16m"] as const) {
        // First with a valid access token, then with an expired one that could be refreshed.
        api.sessions.clock.advance(age);
        for (const attack of Object.values(attacks)) {
          learned.push(await evil.evaluate(attack, api.at()));
        }
        learned.push(...(await navigations(evil, api.at())));
        await evil.goBack();
      }
      expect(api.asked.length).toBeGreaterThan(80);
      const withCookies = api.asked.filter(({ cookies }) => cookies);
      // Navigations carry Lax cookies from any site. Other requests do so as the row specifies.
      expect(withCookies.length > 20).toBe(cookiesReach);
      expect(withCookies.length).toBeGreaterThan(0);
      expect(api.calls.handled).toBe(before.handled);
      const types = api.events.slice(events).map(({ type }) => type);
      expect(new Set(types)).toEqual(new Set(["csrfRefused"]));
      expect(await sessionCookies(context)).toEqual(before.cookies);
      const secrets = ["milk", "alice", ...before.cookies.map(({ value }) => value)];
      for (const secret of secrets) {
        expect(learned.join("\n")).not.toContain(secret);
      }
      expect(await listNotes(page)).toEqual(["secret milk"]);
    });
  });

  /** Makes the hostile page navigate to the API, and reads the responses as the visitor would see them. */
  async function navigations(evil: Page, api: string): Promise<string[]> {
    const get = `${api}/notes.v1.NotesService/ListNotes?connect=v1&encoding=json&message=%7B%7D`;
    const [popup] = await Promise.all([
      evil.waitForEvent("popup"),
      evil.evaluate((url) => void window.open(url, "prize"), get),
    ]);
    await popup.waitForLoadState();
    const shown = await popup.evaluate(() => document.body.textContent);
    const read = await evil.evaluate(() => {
      try {
        return String(window.open("", "prize")?.document.body.textContent);
      } catch (error) {
        return String(error);
      }
    });
    expect(read).toContain("SecurityError");
    await popup.close();
    const link = evil.waitForURL(get);
    await evil.evaluate((url) => {
      document.body.innerHTML = `<a href="${url}">win a prize</a>`;
      document.querySelector("a")?.click();
    }, get);
    await link;
    return [shown ?? "", read, await evil.evaluate(() => document.body.textContent ?? "")];
  }

  async function openEvil(context: BrowserContext, host: string): Promise<Page> {
    const site = await startPages(() => "", { host });
    onTestFinished(() => site.close());
    const page = await context.newPage();
    await page.goto(site.at());
    return page;
  }
});

interface Scene {
  /** The host of the page. Default: localhost, on its own port. */
  readonly host?: string;
  /** Default: localhost. */
  readonly apiHost?: string;
  readonly options?: TestSessionsOptions;
  /** Whether the browser sends SameSite=None cookies with requests of other sites. */
  readonly thirdPartyCookies?: boolean;
  /** Whether the page keeps its tokens in memory instead of cookies. */
  readonly keepsTokens?: boolean;
}

interface World {
  readonly api: Api;
  readonly site: Site;
  readonly context: BrowserContext;
  /** Opens the page in a new tab. */
  readonly visit: () => Promise<Page>;
}

interface Hostile {
  readonly host: string;
  /** Whether browsers send the cookies with requests of its page. */
  readonly cookiesReach: boolean;
  readonly options?: TestSessionsOptions;
}
