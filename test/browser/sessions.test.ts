// Sessions in real browsers: connect-web in a page of another origin.
import type { CookieOptions } from "rpc-session";
import { memoryStore } from "rpc-session/stores/memory";
import { createFakeClock } from "rpc-session/testing";
import { describe, expect, onTestFinished, test } from "vitest";
import { accessCookie, refreshCookie } from "../helpers/presented.ts";
import { type Tab, waitFor } from "./engines.ts";
import { startApi, startPages } from "./servers.ts";
import {
  addNote,
  codeOf,
  everythingVisible,
  listNotes,
  sessionCookies,
  signIn,
  watchNotes,
} from "./visitor.ts";
import { inEngines, type World } from "./world.ts";

inEngines((engine, open) => {
  test("feat:J3 feat:I1 a page of another origin signs in, makes calls, refreshes unnoticed, streams and signs out", async () => {
    const { api, site, visitor, visit } = await open();
    const page = await visit();
    await signIn(page);
    expect(api.asked[0]).toMatchObject({ verb: "OPTIONS", method: "SignIn", cookies: false });
    expect(api.asked[0]?.headers).toContain("connect-protocol-version");
    expect(api.asked[0]?.headers).toContain("rpcsession-transport");
    const first = await sessionCookies(visitor, api.at());
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

    const tokens = [...first, ...(await sessionCookies(visitor, api.at()))].map(
      ({ value }) => value,
    );
    expect(new Set(tokens).size).toBe(4);
    const visible = [await everythingVisible(page)];
    await page.evaluate(() => app.session.signOut());
    expect(await visitor.cookies(api.at())).toEqual([]);
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
    const { api, visitor, visit } = await open();
    const page = await visit();
    await signIn(page);
    const before = await sessionCookies(visitor, api.at());
    const shown = await page.evaluate(
      async (names: string[]) => {
        for (const name of names) {
          for (const rest of ["Secure; Path=/", "Path=/", "Secure; Path=/notes.v1.NotesService"]) {
            for (const value of ["planted", "; Max-Age=0"]) {
              // biome-ignore lint/suspicious/noDocumentCookie: as a hostile script would
              document.cookie = `${name}=${value}; ${rest}`;
            }
          }
        }
        const store = "cookieStore" in globalThis ? await cookieStore.getAll() : [];
        return [document.cookie, JSON.stringify(store)];
      },
      before.map(({ name }) => name),
    );
    expect(shown).toEqual(["", "[]"]);
    expect(await sessionCookies(visitor, api.at())).toEqual(before);
    await addNote(page, "milk");
    expect(api.calls.handled).toBe(2);
  });

  test.each(["with Web Locks", "without Web Locks"])(
    "feat:P2 feat:P6 tabs that refresh at the same time all stay signed in, and a sign-out reaches all of them, %s",
    async (locks) => {
      const prelude = "Object.defineProperty(navigator, 'locks', { value: undefined });";
      const { api, visitor, visit } = await open(locks === "without Web Locks" ? { prelude } : {});
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
        await waitFor(tab, () => app.session.state.status === "signedOut");
        expect(await codeOf(tab)).toBe(16);
      }
      expect(await visitor.cookies(api.at())).toEqual([]);
    },
  );

  /** A tab whose page makes calls; the client has not seen its session yet. */
  const reload = async (tab: Tab): Promise<void> => {
    await tab.reload();
    await waitFor(tab, () => "app" in globalThis);
  };

  test("feat:P12 feat:P13 after a reload, one load or the first call tells who is signed in, and that nobody is", async () => {
    const { api, visit, visitor } = await open();
    const page = await visit();
    expect(await page.evaluate(async () => (await app.session.load()).status)).toBe("signedOut");
    await signIn(page);
    await reload(page);
    expect(await page.evaluate(() => app.session.state.status)).toBe("unknown");
    const loaded = await page.evaluate(async () => await app.session.load());
    expect(loaded).toMatchObject({ status: "signedIn", userId: "alice" });
    expect(api.count("Refresh")).toBe(2);
    await reload(page);
    await addNote(page, "milk");
    expect(await page.evaluate(() => app.session.state)).toEqual(loaded);
    const cookies = await visitor.cookies(api.at());
    expect(cookies).toHaveLength(2);
    await page.evaluate(() => app.session.signOut());
    await reload(page);
    expect(await codeOf(page)).toBe(16);
    expect(await page.evaluate(() => app.session.state.status)).toBe("signedOut");
  });

  test("feat:P2 three tabs with 100 calls on an expired token rotate it once, in each of 20 rounds, known or just loaded", async () => {
    const { api, visit } = await open();
    const tabs = [await visit(), await visit(), await visit()] as const;
    await signIn(tabs[0]);
    for (let round = 0; round < 20; round++) {
      // Some rounds begin right after a reload, so that the tabs do not know their session.
      if (round % 3 === 1) {
        await Promise.all(tabs.map(reload));
      }
      api.sessions.clock.advance("16m");
      const before = api.events.filter(({ type }) => type === "refreshed").length;
      await Promise.all(
        tabs.map((tab, index) =>
          tab.evaluate(
            async (count: number) => {
              const calls = Array.from({ length: count }, () => app.notes.addNote({}));
              await Promise.all(calls);
            },
            index === 0 ? 34 : 33,
          ),
        ),
      );
      const after = api.events.filter(({ type }) => type === "refreshed").length;
      expect(after - before, `refreshes in round ${round}`).toBe(1);
    }
    expect(api.calls.handled).toBe(1 + 20 * 100);
    expect(api.events.map(({ type }) => type)).not.toContain("theft");
  }, 600_000);

  test("feat:P6 signing in, switching the user and signing out reach tabs that were just loaded and know nothing", async () => {
    const { visit } = await open();
    const tabs = [await visit(), await visit(), await visit()] as const;
    const all = async (userId: string | undefined): Promise<void> => {
      for (const tab of tabs) {
        await waitFor(
          tab,
          (id: string | null) =>
            app.session.state.userId === (id ?? undefined) &&
            app.session.state.status === (id === null ? "signedOut" : "signedIn"),
          userId ?? null,
        );
      }
    };
    await signIn(tabs[0]);
    await all("alice");
    await Promise.all(tabs.map(reload));
    await tabs[1].evaluate(async () => void (await app.notes.signIn({ user: "bob" })));
    await all("bob");
    await Promise.all(tabs.map(reload));
    await tabs[2].evaluate(() => app.session.signOut());
    await all(undefined);
    expect(await codeOf(tabs[0])).toBe(16);
  });

  test("feat:C1 feat:J3 a page of another origin receives the anti-CSRF token, and again after a reload", async () => {
    const { api, visit } = await open({ options: { antiCsrf: "token" } });
    const page = await visit();
    await signIn(page);
    await addNote(page, "milk");
    expect([api.calls.handled, api.count("Refresh")]).toEqual([2, 0]);
    await page.reload();
    await waitFor(page, () => "app" in globalThis);
    // The page still has the cookies, but has lost the anti-CSRF token.
    await addNote(page, "bread");
    expect([api.calls.handled, api.count("Refresh")]).toEqual([3, 1]);
    await addNote(page, "eggs");
    expect(await listNotes(page)).toEqual(["milk", "bread", "eggs"]);
    expect(api.count("Refresh")).toBe(1);
  });

  test("feat:J1 feat:J3 a page of another site that may use header tokens keeps them in memory and receives no cookie", async () => {
    const options = { origins: [], browserHeaderTransport: true };
    const { api, visitor, visit } = await open({
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
    expect(await visitor.cookies(api.at())).toEqual([]);
    expect(api.asked.filter(({ cookies }) => cookies)).toEqual([]);
  });

  describe("hosts that share a domain, over HTTPS", () => {
    const names = { access: "__Secure-rpcsession-access", refresh: "__Secure-rpcsession-refresh" };
    const hosts = { host: "app.example.com", apiHost: "api.example.com" };

    /** Makes a sibling host plant the cookies of its own session, from its server and from a script. */
    async function plant(world: World, of: { readonly access: string; readonly refresh: string }) {
      const { tokens } = await world.api.sessions.issue({ userId: "mallory", transport: "cookie" });
      const cookies = [
        `${of.access}=${tokens.accessToken}; Domain=example.com; Path=/; Secure`,
        `${of.refresh}=${tokens.refreshToken}; Domain=example.com; Path=/; Secure`,
      ];
      const evil = await startPages(() => "", { host: "evil.example.com", cookies });
      onTestFinished(() => evil.close());
      const page = await world.visitor.newTab();
      await page.goto(evil.at());
      await page.evaluate((planted: string[]) => {
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
      const before = await sessionCookies(world.visitor, world.api.at());
      await plant(world, { access: accessCookie, refresh: refreshCookie });
      if (engine.traits.prefixes) {
        expect(await sessionCookies(world.visitor, world.api.at())).toEqual(before);
        world.api.sessions.clock.advance("16m");
        expect(await listNotes(page)).toEqual(["milk"]);
      } else {
        // The browser keeps four cookies. The service refuses them; nobody acts as the other user.
        expect(await codeOf(page)).toBe(16);
      }
    });

    test("sec:C28 feat:I9 no script sets a cookie with the prefix __Host-Http-, in browsers that know it", async () => {
      const { visitor } = await open(hosts);
      const site = await startPages(() => "", { host: "evil.example.com" });
      onTestFinished(() => site.close());
      const page = await visitor.newTab();
      await page.goto(site.at());
      const agent = await page.evaluate(() => {
        for (const name of ["__Host-Http-a", "__Host-b"]) {
          // biome-ignore lint/suspicious/noDocumentCookie: as a hostile script would
          document.cookie = `${name}=planted; Secure; Path=/`;
        }
        return navigator.userAgent;
      });
      const [, chrome, firefox] = /(?:Chrome\/(\d+)|Firefox\/(\d+))/.exec(agent) ?? [];
      const knows = Number(chrome ?? 0) >= 140 || Number(firefox ?? 0) >= 142;
      const kept = (await visitor.cookies(site.at())).map(({ name }) => name);
      expect(kept).toContain("__Host-b");
      // A future WebKit may know it as well.
      expect(engine.name !== "WebKit" && kept.includes("__Host-Http-a")).toBe(
        engine.name !== "WebKit" && !knows,
      );
    });

    test("feat:I9 the prefix of the names changes without signing anybody out", async () => {
      const shared = { store: memoryStore(), clock: createFakeClock() };
      const { api, site, visitor, visit } = await open({
        ...hosts,
        options: { ...shared, cookies: { prefix: "host", otherPrefix: "ignore" } },
      });
      const page = await visit();
      await signIn(page);
      const namesNow = async () => (await visitor.cookies(api.at())).map(({ name }) => name).sort();
      expect(await namesNow()).toEqual(["__Host-rpcsession-access", "__Host-rpcsession-refresh"]);
      await api.stop();
      const next = await startApi([site.at()], shared, { host: hosts.apiHost, port: api.port });
      onTestFinished(() => next.close());
      await addNote(page, "milk");
      for (let round = 0; round < 2; round++) {
        shared.clock.advance("16m");
        expect(await listNotes(page)).toEqual(["milk"]);
      }
      expect(await namesNow()).toEqual([accessCookie, refreshCookie]);
      await page.evaluate(() => app.session.signOut());
      expect(await visitor.cookies(api.at())).toEqual([]);
    });

    test("sec:C01 feat:I5 without the prefix, planted cookies of a sibling host are refused and expired", async () => {
      const world = await open({ ...hosts, options: { cookies: { names } } });
      const page = await world.visit();
      await signIn(page);
      await addNote(page, "milk");
      await plant(world, names);
      expect(await world.visitor.cookies(world.api.at())).toHaveLength(4);
      expect(await codeOf(page)).toBe(16);
      expect(await world.visitor.cookies(world.api.at())).toEqual([]);
      await signIn(page);
      expect(await listNotes(page)).toEqual(["milk"]);
    });

    const changes: readonly (readonly [string, CookieOptions, CookieOptions, string])[] = [
      [
        "from the host to a domain",
        { names },
        { domain: "example.com", olderDomain: null },
        ".example.com",
      ],
      [
        "from a domain to the host",
        { domain: "example.com" },
        { names, olderDomain: "example.com" },
        "api.example.com",
      ],
    ];
    test.each(changes)(
      "feat:I4 feat:I2 the domain of the cookies changes %s without signing anybody out",
      async (_, before, after, domain) => {
        const shared = { store: memoryStore(), clock: createFakeClock() };
        const { api, site, visitor, visit } = await open({
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
        const cookies = await visitor.cookies(api.at());
        expect(cookies.map((cookie) => `${cookie.name} of ${cookie.domain}`).sort()).toEqual([
          `${names.access} of ${domain}`,
          `${names.refresh} of ${domain}`,
        ]);
      },
    );
  });
});

inEngines(
  (_engine, open) => {
    test("feat:I6 feat:C7 an allowed embedding site has a partitioned session of its own", async () => {
      const options = { cookies: { sameSite: "none", partitioned: true } } as const;
      const { api, visitor, visit } = await open({ host: "partner.test", options });
      const page = await visit();
      await signIn(page);
      await addNote(page, "milk");
      api.sessions.clock.advance("16m");
      expect(await listNotes(page)).toEqual(["milk"]);
      expect(api.asked.at(-1)).toMatchObject({ site: "cross-site", cookies: true });
      for (const cookie of await sessionCookies(visitor, api.at())) {
        expect(cookie).toMatchObject({ sameSite: "None" });
      }
      // A page of the API's own site has a jar of its own.
      const own = await visitor.newTab();
      await own.goto(api.at());
      const method = "/notes.v1.NotesService/ListNotes?connect=v1&encoding=json&message=%7B%7D";
      await own.evaluate(async (get: string) => void (await fetch(get)), method);
      expect(api.asked.at(-1)).toMatchObject({ site: "same-origin", cookies: false });
      await page.evaluate(() => app.session.signOut());
      expect(await visitor.cookies(api.at())).toEqual([]);
    });
  },
  { partitioned: true },
);
