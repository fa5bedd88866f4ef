// Plain HTTP handlers in real browsers: a link in a mail, downloads, links and forms of other sites.
import type { IncomingMessage, ServerResponse } from "node:http";
import { SessionError } from "rpc-session";
import { fromNode } from "rpc-session/http";
import { expect, onTestFinished, test } from "vitest";
import { type Tab, until, waitFor } from "./engines.ts";
import { type Api, startPages } from "./servers.ts";
import { inEngines, type World } from "./world.ts";

const form = '<form method="post"><button>Sign in</button></form>';
const links = '<a href="/plain/file" download>file</a>';

/** What each request came to, such as "POST /plain/link: alice". */
type Outcomes = string[];

/** Serves a page that signs in, a page, and a download, and records what requests come to. */
function servePlain({ sessions }: Api, outcomes: Outcomes): NonNullable<Api["plain"]> {
  const outcomeOf = async (req: IncomingMessage, res: ServerResponse): Promise<string> => {
    const exchange = fromNode(req, res);
    switch (`${req.method} ${req.url}`) {
      case "GET /plain/link":
        res.setHeader("referrer-policy", "no-referrer");
        return "form";
      case "POST /plain/link":
        return (await sessions.create(exchange, { userId: "alice" })).userId;
      case "GET /plain/page":
        return (await sessions.getSession(exchange, { crossSite: "navigations" })).userId;
      default:
        return (await sessions.getSession(exchange)).userId;
    }
  };
  return async (req, res) => {
    const outcome = await outcomeOf(req, res).catch((error: unknown) =>
      error instanceof SessionError ? error.reason : String(error),
    );
    outcomes.push(`${req.method} ${req.url}: ${outcome}`);
    res.setHeader("content-type", "text/html");
    res.end(`<!doctype html><title>${outcome}</title>${outcome === "form" ? form : links}`);
  };
}

async function titled(tab: Tab, title: string): Promise<void> {
  await waitFor(tab, (expected: string) => document.title === expected, title);
}

inEngines((_, open) => {
  async function started(): Promise<World & { readonly outcomes: Outcomes; readonly tab: Tab }> {
    const world = await open();
    const outcomes: Outcomes = [];
    world.api.plain = servePlain(world.api, outcomes);
    const tab = await world.visitor.newTab();
    await tab.goto(`${world.api.at()}/plain/link`);
    return { ...world, outcomes, tab };
  }

  async function openElsewhere({ api }: World, tab: Tab): Promise<void> {
    const tls = api.at().startsWith("https:");
    const site = await startPages(() => "", { host: "evil.test", tls });
    onTestFinished(() => site.close());
    await tab.goto(site.at());
  }

  test("feat:A12 the form of a page with Referrer-Policy: no-referrer signs in, and a download link of an own page works", async () => {
    const { tab, outcomes } = await started();
    await tab.evaluate(() => document.querySelector("form")?.requestSubmit());
    await titled(tab, "alice");
    await tab.evaluate(() => document.querySelector("a")?.click());
    await until(() => outcomes.length > 2, "the download was asked for");
    expect(outcomes).toEqual([
      "GET /plain/link: form",
      "POST /plain/link: alice",
      "GET /plain/file: alice",
    ]);
  });

  test("feat:B15 sec:C26 a link of another site opens a page that allows it, and no other; a frame never does", async () => {
    const world = await started();
    const { tab, api, outcomes } = world;
    await tab.evaluate(() => document.querySelector("form")?.requestSubmit());
    await titled(tab, "alice");
    outcomes.length = 0;
    for (const [path, title] of [
      ["/plain/page", "alice"],
      ["/plain/other", "CROSS_SITE"],
    ] as const) {
      await openElsewhere(world, tab);
      await tab.evaluate((url: string) => {
        location.href = url;
      }, `${api.at()}${path}`);
      await titled(tab, title);
    }
    await openElsewhere(world, tab);
    await tab.evaluate((url: string) => {
      const frame = document.createElement("iframe");
      frame.src = url;
      document.body.append(frame);
    }, `${api.at()}/plain/page`);
    await until(() => outcomes.length > 2, "the frame was asked for");
    expect(outcomes.at(-1)).toMatch(/^GET \/plain\/page: (?:SESSION_MISSING|CROSS_SITE)$/);
  });

  test("sec:C25 the form of another site signs nobody in", async () => {
    const world = await started();
    const { tab, api, outcomes } = world;
    outcomes.length = 0;
    await openElsewhere(world, tab);
    await tab.evaluate((url: string) => {
      const hostile = document.createElement("form");
      hostile.method = "post";
      hostile.action = url;
      document.body.append(hostile);
      hostile.submit();
    }, `${api.at()}/plain/link`);
    await titled(tab, "CROSS_SITE");
    expect(outcomes).toEqual(["POST /plain/link: CROSS_SITE"]);
    expect((await api.sessions.list({ userId: "alice" })).sessions).toEqual([]);
  });
});
