import { Code, createClient } from "@connectrpc/connect";
import { createConnectTransport as createWebTransport } from "@connectrpc/connect-web";
import type { VisitorOptions } from "rpc-session/ssr";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { realm, refreshCookie, sameOrigin } from "../helpers/presented.ts";
import { Browser, counts, navigation, render, type Site, startSite, userOf } from "./browser.ts";

let site: Site;

beforeEach(async () => {
  site = await startSite({ clientIp: (ctx) => ctx.requestHeader.get("x-visitor-ip") ?? undefined });
});

afterEach(async () => {
  vi.unstubAllGlobals();
  await site.server.close();
});

describe("a visitor", () => {
  it("feat:P11 acts with the session of the browser, and changes no cookie while its token is valid", async () => {
    const browser = await Browser.signedIn(site);
    const page = browser.open();
    expect(page.visitor.hasSession).toBe(true);
    await page.visitor.refreshIfDue();
    expect(await userOf(page)).toBe("alice");
    expect(page.visitor.setCookies).toEqual([]);
    const headers = new Headers({ "cache-control": "public, max-age=60" });
    page.visitor.writeTo(headers);
    expect([...headers]).toEqual([["cache-control", "public, max-age=60"]]);
  });

  it("refreshes once for all its calls, and hands the cookies back for no cache to keep", async () => {
    const browser = await Browser.signedIn(site);
    site.clock.advance("15m");
    const page = browser.open();
    await page.visitor.refreshIfDue();
    const users = await Promise.all([userOf(page), userOf(page), userOf(page)]);
    expect(users).toEqual(["alice", "alice", "alice"]);
    expect(counts(site).refreshed).toBe(1);
    const headers = new Headers({ "cache-control": "public" });
    page.visitor.writeTo(headers);
    expect(headers.getSetCookie()).toEqual(page.visitor.setCookies);
    expect(headers.get("cache-control")).toBe("no-store");
    browser.keep(page);
    expect(await userOf(browser.open())).toBe("alice");
  });

  it.each([
    ["a minute before the token is due", "11m", 0],
    ["once it is due", "13m", 1],
  ] as const)("refreshIfDue, %s", async (_when, age, refreshes) => {
    const browser = await Browser.signedIn(site);
    site.clock.advance(age);
    const { visitor } = browser.open();
    await Promise.all([visitor.refreshIfDue(), visitor.refreshIfDue()]);
    expect(counts(site).refreshed ?? 0).toBe(refreshes);
    await visitor.refreshIfDue();
    expect(counts(site).refreshed ?? 0).toBe(refreshes);
  });

  it("whose access cookie is lost or junk refreshes", async () => {
    const { cookies } = await Browser.signedIn(site);
    const [refresh = ""] = new RegExp(`${refreshCookie}=[^;]+`).exec(cookies) ?? [];
    for (const access of [
      "",
      "; __Host-Http-rpcsession-access=junk",
      "; __Host-Http-rpcsession-access=a.e30.c",
    ]) {
      const page = new Browser(site).open({ ...navigation, cookie: refresh + access });
      await page.visitor.refreshIfDue();
      expect(page.visitor.setCookies, access).not.toEqual([]);
      expect(await userOf(page)).toBe("alice");
    }
  });

  it("feat:I9 moves the cookies of an earlier release to the present names, and can refresh again in the same request", async () => {
    const { cookies } = await Browser.signedIn(site);
    const cookie = cookies.replaceAll("__Host-Http-", "__Host-");
    site.clock.advance("15m");
    const page = new Browser(site).open({ ...navigation, cookie });
    expect(page.visitor.hasSession).toBe(true);
    await page.visitor.refreshIfDue();
    expect(await userOf(page)).toBe("alice");
    const names = page.visitor.cookies.map(({ name, value }) => `${name} ${value !== ""}`).sort();
    expect(names).toEqual([
      "__Host-Http-rpcsession-access true",
      "__Host-Http-rpcsession-refresh true",
      "__Host-rpcsession-access false",
      "__Host-rpcsession-refresh false",
    ]);
    // The browser has not confirmed its new refresh cookie, so the former one stands for it.
    const held = page.visitor.cookieHeader.split("; ").map((pair) => pair.split("=")[0]);
    expect(held).toHaveLength(2);
    expect(new Set(held)).toEqual(
      new Set(["__Host-Http-rpcsession-access", "__Host-rpcsession-refresh"]),
    );
    const rendered = new Browser(site).open({ ...navigation, cookie: page.visitor.cookieHeader });
    expect(await userOf(rendered)).toBe("alice");
    site.clock.advance("5s");
    await page.own.refresh({});
    expect(await userOf(page)).toBe("alice");
  });

  it("feat:P11 tells who it is, for the first render, in one call and without a refresh that is not due", async () => {
    const browser = await Browser.signedIn(site);
    const page = browser.open();
    expect(await page.visitor.load()).toMatchObject({ status: "signedIn", userId: "alice", realm });
    await page.visitor.load();
    expect(page.visitor.setCookies).toEqual([]);
    expect(counts(site).refreshed ?? 0).toBe(0);
    site.clock.advance("20m");
    const later = browser.open();
    expect(await later.visitor.load()).toMatchObject({ status: "signedIn", userId: "alice" });
    expect(counts(site).refreshed).toBe(1);
    browser.keep(later);
    await site.server.sessions.revokeAll({ userId: "alice" });
    const ended = browser.open();
    expect(await ended.visitor.load()).toEqual({ status: "signedOut" });
    browser.keep(ended);
    expect(browser.cookies).toBe("");
  });

  it("feat:P11 without cookies is signed out, without a call", async () => {
    const down: VisitorOptions["transport"] = (parts) =>
      createWebTransport({ baseUrl: "http://127.0.0.1:9", ...parts });
    const { visitor } = new Browser(site).open(navigation, { transport: down });
    expect(await visitor.load()).toEqual({ status: "signedOut" });
    const kept = (await Browser.signedIn(site)).open(navigation, { transport: down });
    await expect(kept.visitor.load()).rejects.toMatchObject({ code: Code.Unavailable });
  });

  it("without cookies is refused where a session is needed, without a refresh", async () => {
    const page = new Browser(site).open();
    expect(page.visitor.hasSession).toBe(false);
    await page.visitor.refreshIfDue();
    await expect(page.notes.addNote({})).rejects.toMatchObject({ code: Code.Unauthenticated });
    expect(page.visitor.setCookies).toEqual([]);
    expect(counts(site).refreshed ?? 0).toBe(0);
  });

  it("whose session has ended hands back lines that remove its cookies", async () => {
    const browser = await Browser.signedIn(site);
    await site.server.sessions.revokeAll({ userId: "alice" });
    site.clock.advance("15m");
    const page = browser.open();
    await page.visitor.refreshIfDue();
    await expect(page.notes.addNote({})).rejects.toMatchObject({ code: Code.Unauthenticated });
    browser.keep(page);
    expect(browser.cookies).toBe("");
    expect(page.visitor.hasSession).toBe(false);
  });

  it("keeps its session in an outage, and its page can say so", async () => {
    const browser = await Browser.signedIn(site);
    site.clock.advance("15m");
    const down: VisitorOptions["transport"] = (parts) =>
      createWebTransport({ baseUrl: "http://127.0.0.1:9", ...parts });
    const page = browser.open(navigation, { transport: down });
    await page.visitor.refreshIfDue();
    await expect(page.notes.addNote({})).rejects.toThrow();
    expect(page.visitor.setCookies).toEqual([]);
    expect(await userOf(browser.open())).toBe("alice");
  });

  it("works over fetch, whose answers no cache keeps and whose redirects lead nowhere", async () => {
    const sent: RequestInit[] = [];
    const { fetch } = globalThis;
    vi.stubGlobal("fetch", (input: string, init: RequestInit) => {
      sent.push(init);
      return fetch(input, init);
    });
    const baseUrl = `http://127.0.0.1:${site.server.port.h1}`;
    const browser = await Browser.signedIn(site);
    site.clock.advance("15m");
    const page = browser.open(navigation, {
      transport: (parts) => createWebTransport({ baseUrl, ...parts }),
    });
    expect(await userOf(page)).toBe("alice");
    expect(page.visitor.setCookies).toHaveLength(1);
    expect(sent.map(({ cache, redirect }) => `${cache} ${redirect}`)).toEqual(
      Array(3).fill("no-store manual"),
    );
  });
});

describe("signing in and out in a request", () => {
  it("replaces the former session, and hands back cookies of the new one", async () => {
    const browser = await Browser.signedIn(site);
    const page = browser.open({ ...sameOrigin, origin: realm }, { method: "POST" });
    await page.notes.signIn({ user: "bob" });
    expect(await userOf(page)).toBe("bob");
    browser.keep(page);
    expect(await userOf(browser.open())).toBe("bob");
  });

  it("a call that is refused right after a sign-in does not sign the user out again", async () => {
    const browser = new Browser(site);
    const page = browser.open({ ...sameOrigin, origin: realm }, { method: "POST" });
    await page.notes.signIn({ user: "bob" });
    const lines = page.visitor.setCookies;
    site.clock.advance("9s");
    await expect(page.own.refresh({})).rejects.toMatchObject({ code: Code.Unavailable });
    expect(page.visitor.setCookies).toEqual(lines);
  });

  it("a sign-out ends the session, and leaves one line of each cookie to functions that set them", async () => {
    const browser = await Browser.signedIn(site);
    const page = browser.open({ ...sameOrigin, origin: realm }, { method: "POST" });
    await page.visitor.signOut();
    expect(page.visitor.cookies).toEqual(
      ["__Host-Http-rpcsession-access", refreshCookie].map((name) => ({
        name,
        value: "",
        options: { path: "/", maxAge: 0, httpOnly: true, secure: true, sameSite: "lax" },
      })),
    );
    const before = browser.open();
    await expect(userOf(before)).rejects.toMatchObject({ code: Code.Unauthenticated });
    browser.keep(page);
    expect(browser.cookies).toBe("");
  });

  it("gives functions that set cookies what the lines say", async () => {
    const browser = new Browser(site);
    const page = browser.open({ ...sameOrigin, origin: realm }, { method: "POST" });
    await page.notes.signIn({ user: "bob" });
    const { cookies, setCookies } = page.visitor;
    expect(cookies.map(({ name, value }) => `${name}=${value}`)).toEqual(
      setCookies.map((line) => line.split(";")[0]),
    );
    expect(cookies[0]?.options).toEqual({
      ...{ path: "/", maxAge: expect.any(Number), httpOnly: true, secure: true, sameSite: "lax" },
    });
  });
});

describe("what the service sees", () => {
  it("is the device of the visitor", async () => {
    const browser = new Browser(site);
    const headers = { ...sameOrigin, origin: realm, "user-agent": "Ada's browser" };
    const page = browser.open(headers, {
      method: "POST",
      headers: { "x-visitor-ip": "192.0.2.7" },
    });
    await page.notes.signIn({ user: "bob" });
    const [found] = (await page.own.listSessions({})).sessions;
    expect(found?.device).toMatchObject({ userAgent: "Ada's browser", ip: "192.0.2.7" });
  });

  it("is the session cookies alone, and only they are handed back", async () => {
    const browser = await Browser.signedIn(site);
    const sent: (string | null)[] = [];
    const page = browser.open(
      { ...navigation, cookie: `theme=dark; ${browser.cookies}; other=ey.ey.ey` },
      {
        transport: (parts) =>
          site.options.transport({
            ...parts,
            interceptors: [
              ...parts.interceptors,
              (next) => async (request) => {
                sent.push(request.header.get("cookie"));
                const response = await next(request);
                response.header.append("set-cookie", "gateway=1; Path=/");
                return response;
              },
            ],
          }),
      },
    );
    await userOf(page);
    expect(sent).toEqual([browser.cookies]);
    expect(page.visitor.setCookies).toEqual([]);
    expect(page.visitor.cookieHeader).toBe(`theme=dark; ${browser.cookies}; other=ey.ey.ey`);
  });

  it("includes the anti-CSRF token, if the service asks for it", async () => {
    const strict = await startSite({ antiCsrf: "token" });
    const browser = await Browser.signedIn(strict);
    const page = browser.open({ ...sameOrigin, origin: realm }, { method: "POST" });
    await page.notes.addNote({ note: { text: "milk" } });
    await page.notes.addNote({ note: { text: "tea" } });
    expect((await page.notes.listNotes({})).notes).toHaveLength(2);
    await strict.server.close();
  });

  it("follows the names of the service's cookies", async () => {
    const names = { access: "__Host-app-a", refresh: "__Host-app-r" };
    const named = await startSite({ cookies: { names } });
    const { tokens } = await named.server.sessions.issue({ userId: "ada", transport: "cookie" });
    const cookie = `__Host-app-a=${tokens.accessToken}; __Host-app-r=${tokens.refreshToken}`;
    const headers = new Headers({ ...navigation, cookie });
    named.clock.advance("15m");
    const page = render({ headers }, { ...named.options, cookieNames: names });
    expect(await userOf(page)).toBe("ada");
    expect(page.visitor.cookies.map(({ name }) => name)).toEqual([names.access]);
    await named.server.close();
  });
});

describe("a request that another site caused", () => {
  const evil = "https://evil.example";
  const link = { ...navigation, "sec-fetch-site": "cross-site" };

  it.each([
    ["the address bar", { method: "GET", headers: navigation }],
    ["a link on another site", { method: "GET", headers: link }],
    ["a link, where the framework hides the method", { headers: link }],
    ["a fetch of its own page", { method: "GET", headers: sameOrigin }],
    ["a form of its own page", { method: "POST", headers: { ...sameOrigin, origin: realm } }],
    ["an action of its own page, without Fetch Metadata", { headers: { origin: realm } }],
    ["a browser without Fetch Metadata", { method: "GET", headers: {} }],
  ])("is told from %s", async (_from, { headers, ...request }) => {
    const { cookies: cookie } = await Browser.signedIn(site);
    const sent = new Headers({ ...(headers as Record<string, string>), cookie });
    expect(await userOf(render({ ...request, headers: sent }, site.options))).toBe("alice");
  });

  it.each([
    ["a form", { method: "POST", headers: { ...link, origin: evil } }],
    ["a form, where the framework hides the method", { headers: { ...link, origin: evil } }],
    ["a form without Fetch Metadata", { method: "POST", headers: { origin: evil } }],
    ["a form of a private page", { headers: { ...link, origin: "null" } }],
    ["a frame", { method: "GET", headers: { ...link, "sec-fetch-dest": "iframe" } }],
    ["an image", { method: "GET", headers: { ...link, "sec-fetch-mode": "no-cors" } }],
    ["a fetch of a sibling", { method: "GET", headers: { "sec-fetch-site": "same-site" } }],
    ["a program that sends neither header", { method: "POST", headers: {} }],
    ["a page that lies about its origin", { headers: { ...sameOrigin, origin: evil } }],
  ])("sec:C24 has no session: %s", async (_by, { headers, ...request }) => {
    const { cookies: cookie } = await Browser.signedIn(site);
    const sent = new Headers({ ...(headers as Record<string, string>), cookie });
    const page = render({ ...request, headers: sent }, site.options);
    await expect(userOf(page)).rejects.toMatchObject({ code: Code.PermissionDenied });
    expect(page.visitor.setCookies).toEqual([]);
    expect(counts(site).csrfRefused).toBe(1);
  });

  it("an origin that the service does not list is reported by refreshIfDue", async () => {
    const browser = await Browser.signedIn(site);
    site.clock.advance("15m");
    const { visitor } = browser.open(navigation, { origin: "https://app.test.example" });
    await expect(visitor.refreshIfDue()).rejects.toMatchObject({ code: Code.PermissionDenied });
  });
});

describe("two visitors", () => {
  it("sec:C23 at the same time never mix", async () => {
    const users = Array.from({ length: 20 }, (_, i) => `user-${i}`);
    const browsers = await Promise.all(users.map((user) => Browser.signedIn(site, user)));
    site.clock.advance("15m");
    const pages = browsers.map((browser) => browser.open());
    const seen = await Promise.all(
      pages.map(async (page) => {
        await page.visitor.refreshIfDue();
        return Promise.all([userOf(page), userOf(page)]);
      }),
    );
    expect(seen).toEqual(users.map((user) => [user, user]));
    const lines = pages.flatMap(({ visitor }) => visitor.setCookies);
    expect(new Set(lines).size).toBe(20);
  });

  it("neither hear of each other nor wait for each other", async () => {
    const opened = vi.fn<() => void>();
    vi.stubGlobal("BroadcastChannel", opened);
    vi.stubGlobal("navigator", { locks: { request: opened } });
    const browser = await Browser.signedIn(site);
    site.clock.advance("15m");
    const page = browser.open();
    expect(await userOf(page)).toBe("alice");
    await page.visitor.signOut();
    expect(opened).not.toHaveBeenCalled();
  });
});

describe("misuse is refused at once", () => {
  const headers = new Headers();
  const good = (): VisitorOptions => site.options;
  it.each([
    [
      "no request",
      () => render(undefined as never, good()),
      /must be a fetch Request, or an object/,
    ],
    [
      "a request of Node.js",
      () => render({ headers: { cookie: "a=b" }, method: "GET" } as never, good()),
      /in Node\.js and Express pass .* exchange = fromNode\(req, res\)/,
    ],
    [
      "a promise of headers",
      () => render({ headers: Promise.resolve() as never }, good()),
      /must be a fetch Request/,
    ],
    [
      "an origin with a path",
      () => render({ headers }, { ...good(), origin: `${realm}/` }),
      /origin: .* is not an origin/,
    ],
    [
      "no origin",
      () => render({ headers }, { ...good(), origin: undefined as never }),
      /origin: .*is not an origin/,
    ],
    [
      "no transport",
      () => render({ headers }, { ...good(), transport: undefined as never }),
      /transport must be a function/,
    ],
    [
      "a transport without its parts",
      () =>
        render({ headers }, { ...good(), transport: () => createWebTransport({ baseUrl: realm }) }),
      /must use its parts/,
    ],
    [
      "a long time",
      () => render({ headers }, { ...good(), refreshTimeout: "61s" }),
      /refreshTimeout must be at most/,
    ],
    [
      "an unknown option",
      () => render({ headers }, { ...good(), names: 1 } as never),
      /unknown option "names"/,
    ],
  ])("%s", (_what, make, message) => {
    expect(make).toThrow(TypeError);
    expect(make).toThrow(message);
  });

  it("an error names no token", async () => {
    const { cookies: cookie } = await Browser.signedIn(site);
    const { visitor } = render({ headers: new Headers({ ...navigation, cookie }) }, site.options);
    site.clock.advance("20m");
    const notes = createClient(NotesService, visitor.transport);
    const error = await notes.addNote({}).catch((failure: unknown) => failure);
    expect(error).toMatchObject({ code: Code.Unavailable });
    expect(String(error)).not.toContain(cookie.slice(30, 60));
  });
});
