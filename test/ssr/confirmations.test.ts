import { Code } from "@connectrpc/connect";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { Browser, counts, type Site, startSite, userOf } from "./browser.ts";

// The default times: an access token lives 15 minutes, `settle` is 60 s, `overlap` 30 s.

let site: Site;

beforeEach(async () => {
  site = await startSite();
});

afterEach(async () => {
  expect(counts(site).theft ?? 0).toBe(0);
  await site.server.close();
});

/** A browser whose generation is confirmed, and whose access token has expired. */
async function expiredBrowser(): Promise<Browser> {
  const browser = await Browser.signedIn(site);
  site.clock.advance("2m");
  expect(await userOf(browser.open())).toBe("alice");
  site.clock.advance("15m");
  return browser;
}

describe("where a page cannot set cookies", () => {
  it("feat:P11 sec:C22 two renders more than `settle` apart confirm nothing, so the browser refreshes after `overlap`", async () => {
    const browser = await expiredBrowser();
    expect(await userOf(browser.open())).toBe("alice");
    site.clock.advance("2m");
    const second = browser.open();
    expect(await userOf(second)).toBe("alice");
    // Its calls use the new access token once more, long after the first one was made.
    expect(await userOf(second)).toBe("alice");
    expect(counts(site)).toMatchObject({ refreshed: 1, recovered: 1 });

    site.clock.advance("2m");
    expect((await browser.refresh()).code).toBe("ok");
    expect(browser.generation).toBe(1);
    expect((await browser.refresh()).code).toBe("ok");
  });

  it("renders for longer than an access token lives keep the session", async () => {
    const browser = await expiredBrowser();
    for (let minutes = 0; minutes < 120; minutes += 3) {
      site.clock.advance("3m");
      expect(await userOf(browser.open())).toBe("alice");
    }
    expect(browser.generation).toBe(0);
    expect((await browser.refresh()).code).toBe("ok");
    expect(browser.generation).toBe(1);
  });

  it("renders at the same moment get the same generation", async () => {
    const browser = await expiredBrowser();
    const opened = Array.from({ length: 5 }, () => browser.open());
    expect(await Promise.all(opened.map(userOf))).toEqual(Array(5).fill("alice"));
    site.clock.advance("2m");
    expect((await browser.refresh()).code).toBe("ok");
    expect(browser.generation).toBe(1);
  });

  it("a render and a refresh of the browser at the same moment agree", async () => {
    const browser = await expiredBrowser();
    const page = browser.open();
    const [user, refreshed] = await Promise.all([userOf(page), browser.refresh()]);
    expect([user, refreshed.code]).toEqual(["alice", "ok"]);
    expect(browser.generation).toBe(1);
    for (let round = 0; round < 4; round++) {
      site.clock.advance("10m");
      expect(await userOf(browser.open())).toBe("alice");
      expect((await browser.refresh()).code).toBe("ok");
    }
  });
});

describe("where a page sets cookies", () => {
  it("the browser continues with them, and its next request confirms them", async () => {
    const browser = await expiredBrowser();
    const page = browser.open();
    await page.visitor.refreshIfDue();
    expect(page.visitor.setCookies).toHaveLength(2);
    browser.keep(page);
    expect(browser.generation).toBe(1);
    site.clock.advance("2m");
    const next = browser.open();
    expect(await userOf(next)).toBe("alice");
    expect(next.visitor.setCookies).toEqual([]);
    // Only the browser's own request could confirm it, and did: the next refresh advances.
    site.clock.advance("15m");
    const later = browser.open();
    expect(await userOf(later)).toBe("alice");
    browser.keep(later);
    expect(browser.generation).toBe(2);
  });

  it("a browser that crashes before it has stored them continues with its former ones", async () => {
    const browser = await expiredBrowser();
    const crash = browser.remember();
    const page = browser.open();
    expect(await userOf(page)).toBe("alice");
    browser.keep(page);
    crash();
    expect(browser.generation).toBe(0);
    site.clock.advance("2m");
    expect(await userOf(browser.open())).toBe("alice");
    site.clock.advance("2m");
    expect((await browser.refresh()).code).toBe("ok");
  });

  it("what renders behind a middleware does not confirm them for the browser", async () => {
    const browser = await expiredBrowser();
    const first = browser.open();
    await first.visitor.refreshIfDue();
    // The response is lost, and the page behind the middleware takes its time.
    const behind = () => browser.open({ cookie: first.visitor.cookieHeader });
    site.clock.advance("2m");
    expect(await userOf(behind())).toBe("alice");
    expect(await userOf(behind())).toBe("alice");
    site.clock.advance("2m");
    expect((await browser.refresh()).code).toBe("ok");
  });
});

describe("a response that takes long", () => {
  it("does not refresh with a token that the browser may have replaced", async () => {
    const browser = await expiredBrowser();
    await browser.refresh();
    site.clock.advance("2m");
    await browser.refresh();
    const page = browser.open();
    expect(await userOf(page)).toBe("alice");
    // Meanwhile the browser advances and confirms.
    site.clock.advance("15m");
    await browser.refresh();
    site.clock.advance("2m");
    await browser.refresh();
    site.clock.advance("2m");

    await expect(page.own.getSession({})).rejects.toMatchObject({ code: Code.Unavailable });
    expect((await browser.refresh()).code).toBe("ok");
  });

  it("does not confirm a generation that the browser has lost in a crash", async () => {
    const browser = await expiredBrowser();
    const crash = browser.remember();
    await browser.refresh();
    expect(browser.generation).toBe(1);
    const page = browser.open();
    expect(await userOf(page)).toBe("alice");
    crash();
    site.clock.advance("70s");
    expect(await userOf(page)).toBe("alice");
    site.clock.advance("1m");
    expect((await browser.refresh()).code).toBe("ok");
    expect(browser.generation).toBe(1);
  });

  it("is abandoned if a refresh that began in time does not end in time", async () => {
    const browser = await expiredBrowser();
    const page = browser.open(undefined, {
      refreshTimeout: "1s",
      // Time passes while the request is under way.
      transport: (parts) =>
        site.options.transport({
          ...parts,
          interceptors: [
            ...parts.interceptors,
            (next) => (request) => {
              if (request.method.name === "Refresh") {
                site.clock.advance("600ms");
              }
              return next(request);
            },
          ],
        }),
    });
    site.clock.advance("600ms");
    await expect(page.own.getSession({})).rejects.toMatchObject({ code: Code.Unavailable });
    expect(page.visitor.setCookies).toEqual([]);
  });
});
