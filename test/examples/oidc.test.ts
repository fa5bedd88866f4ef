// examples/oidc against a real OpenID provider, with a cookie jar and, if it is installed, in Chromium.
import { type Browser, chromium } from "playwright-core";
import type { CookieJar } from "tough-cookie";
import { afterAll, beforeAll, describe, expect, it, onTestFinished, test, vi } from "vitest";
import { buildScript, type RunningExample, startExample } from "../../examples/oidc/start.ts";
import { howToGetChromium, installedChromium } from "../browser/engines/chromium.ts";
import { newJar } from "../helpers/jar.ts";
import { type Sent, send } from "../helpers/send.ts";

vi.setConfig({ testTimeout: 120_000, hookTimeout: 120_000 });

async function started(script = ""): Promise<RunningExample> {
  const example = await startExample(0, script);
  onTestFinished(() => example.close());
  return example;
}

/** A browser: keeps cookies, follows redirects, and says where a navigation comes from. */
class Visitor {
  readonly jar: CookieJar = newJar();
  url = "";
  /** The addresses of the last navigation, redirects included. */
  readonly trail: string[] = [];

  /** Opens a page, and follows redirects. */
  async open(url: string, sent: Sent = {}): Promise<string> {
    this.trail.length = 0;
    let site = this.url === "" ? "none" : siteOf(this.url, url);
    let next: Sent = sent;
    let at = url;
    for (;;) {
      this.trail.push(at);
      const answer = await this.#send(at, {
        ...next,
        headers: {
          "sec-fetch-site": site,
          "sec-fetch-mode": "navigate",
          "sec-fetch-dest": "document",
          ...(next.method === "POST" && { origin: new URL(this.url).origin }),
          ...next.headers,
        },
      });
      const location = answer.headers.get("location");
      if (location === null) {
        this.url = at;
        return await answer.text();
      }
      const target = new URL(location, at).href;
      site = site === "none" || site === "cross-site" ? site : siteOf(at, target);
      at = target;
      next = {};
    }
  }

  /** Sends the form of the page, with one more field for each `field`. */
  async submit(html: string, fields: Readonly<Record<string, string>>): Promise<string> {
    const action = /action="([^"]+)"/.exec(html)?.[1] ?? "";
    const hidden = [...html.matchAll(/<input type="hidden" name="([^"]+)" value="([^"]*)"/g)];
    const given = Object.fromEntries(hidden.map(([, name = "", value = ""]) => [name, value]));
    return await this.open(new URL(action, this.url).href, {
      method: "POST",
      headers: { "content-type": "application/x-www-form-urlencoded" },
      body: new URLSearchParams({ ...given, ...fields }).toString(),
    });
  }

  /** Calls the RPC as the script of the page does. */
  async notes(origin: string): Promise<string> {
    const answer = await this.#send(`${origin}/notes.v1.NotesService/ListNotes`, {
      method: "POST",
      headers: { "content-type": "application/json", "sec-fetch-site": "same-origin", origin },
      body: "{}",
    });
    return `${answer.status} ${await answer.text()}`;
  }

  async #send(url: string, sent: Sent): Promise<Response> {
    const cookie = await this.jar.getCookieString(url);
    const answer = await send(url, {
      ...sent,
      headers: { ...sent.headers, ...(cookie !== "" && { cookie }) },
    });
    for (const one of answer.headers.getSetCookie()) {
      await this.jar.setCookie(one, url, { ignoreError: true });
    }
    return answer;
  }
}

function siteOf(from: string, to: string): string {
  const [a, b] = [new URL(from), new URL(to)];
  return a.origin === b.origin
    ? "same-origin"
    : a.hostname === b.hostname
      ? "same-site"
      : "cross-site";
}

async function signIn(visitor: Visitor, { url }: RunningExample, login: string): Promise<void> {
  await visitor.open(`${url}/`);
  const form = await visitor.open(`${url}/sign-in`);
  await visitor.submit(form, { login, password: "any" });
}

describe("feat:A13 signing in at an OpenID provider", () => {
  it("signs in with code, PKCE, state and nonce, calls an RPC, downloads, and signs out at both", async () => {
    const example = await started();
    const visitor = new Visitor();
    expect(await visitor.notes(example.url)).toMatch(/^401 /);

    // 1. Sign in at the provider, which redirects back.
    await signIn(visitor, example, "ada");
    expect(visitor.trail.at(-2)).toMatch(/\/callback\?code=.+&state=.+/);
    expect(visitor.url).toBe(`${example.url}/`);
    expect(await visitor.notes(example.url)).toBe('200 {"notes":[{"text":"Welcome, Ada!"}]}');

    // 2. Open a download from a link of another site.
    visitor.url = "https://mail.example/";
    expect(await visitor.open(`${example.url}/notes.txt`)).toBe("The notes of ada.\n");

    // 3. Sign out here and at the provider.
    await visitor.open(`${example.url}/`);
    const question = await visitor.open(`${example.url}/sign-out`, { method: "POST" });
    expect(visitor.url).toContain(example.provider);
    expect(await visitor.notes(example.url)).toMatch(/^401 /);
    await visitor.submit(question, { logout: "yes" });
    expect(visitor.url).toBe(`${example.url}/`);
    expect(await visitor.open(`${example.url}/sign-in`)).toContain('name="login"');
  });

  it("feat:G10 signing out at the provider ends the session here, and that of no other browser", async () => {
    const example = await started();
    const [visitor, other] = [new Visitor(), new Visitor()];
    await signIn(visitor, example, "ada");
    await signIn(other, example, "ada");
    const question = await visitor.open(`${example.provider}/session/end`);
    await visitor.submit(question, { logout: "yes" });
    expect(await visitor.notes(example.url)).toMatch(/^401 .*REASON_SESSION_REVOKED/);
    expect(await other.notes(example.url)).toContain("Welcome, Ada!");
  });

  it("another user who signs in replaces the session of the first", async () => {
    const example = await started();
    const visitor = new Visitor();
    await signIn(visitor, example, "ada");
    const former = await visitor.jar.getCookies(example.url);
    await visitor.jar.setCookie("_session=; Max-Age=0; Path=/", example.provider);
    await signIn(visitor, example, "grace");
    expect(await visitor.notes(example.url)).toContain("Welcome, Grace!");

    const thief = new Visitor();
    for (const cookie of former) {
      await thief.jar.setCookie(cookie, example.url);
    }
    expect(await thief.notes(example.url)).toMatch(/^401 /);
  });

  it("sec:C25 a callback that the browser has not asked for signs nobody in", async () => {
    const example = await started();
    const attacker = new Visitor();
    await attacker.open(`${example.url}/sign-in`);
    const victim = new Visitor();
    await victim.open(`${example.url}/sign-in`);
    const [attackers] = [await attacker.jar.getCookies(example.url)];
    expect(attackers.map(({ key }) => key)).toEqual(["__Host-sign-in"]);

    // The attacker stops before the callback, and sends its address to the victim.
    const stopped = await callbackOf(attacker, example, "mallory");
    victim.url = "https://evil.example/";
    for (const url of [stopped, `${example.url}/callback?code=x`]) {
      const form = new Visitor();
      form.url = "https://evil.example/";
      expect(await form.open(url)).toMatch(/not started in this browser/);
      await victim.open(`${example.url}/sign-in`);
      victim.url = "https://evil.example/";
      expect(await victim.open(url)).toBe("The sign-in failed. Start again.");
      expect(await victim.notes(example.url)).toMatch(/^401 /);
    }
  });
});

/** Signs in at the provider, and returns the address of the callback instead of opening it. */
async function callbackOf(
  visitor: Visitor,
  example: RunningExample,
  login: string,
): Promise<string> {
  const form = await visitor.open(`${example.url}/sign-in`);
  const before = await visitor.jar.getCookies(example.url);
  for (const { key } of before) {
    // Without its cookie, the app refuses the callback, so that the code stays unused.
    await visitor.jar.setCookie(`${key}=; Max-Age=0; Path=/; Secure`, example.url);
  }
  await visitor.submit(form, { login, password: "any" });
  return visitor.trail.find((url) => url.includes("/callback?")) ?? "";
}

const installed = await installedChromium();
const missing = installed ? "" : `skipped because Chromium is missing: ${howToGetChromium}`;

describe.skipIf(missing !== "")(`in Chromium ${missing}`, () => {
  let browser: Browser;
  let script: string;
  beforeAll(async () => {
    [browser, script] = await Promise.all([chromium.launch(installed), buildScript()]);
  });
  afterAll(() => browser?.close());

  test("feat:A13 feat:B15 a visitor signs in, follows a download link, and signs out", async () => {
    const example = await started(script);
    const context = await browser.newContext();
    onTestFinished(() => context.close());
    const page = await context.newPage();
    page.setDefaultTimeout(60_000);
    await page.goto(example.url);
    await page.getByText("You are signed out.").waitFor();
    await page.getByRole("link", { name: "Sign in" }).click();
    await page.getByPlaceholder("Enter any login").fill("ada");
    await page.getByPlaceholder("and password").fill("any");
    await page.getByRole("button", { name: "Sign-in" }).click();
    await page.getByText("Welcome, Ada!").waitFor();

    // From a page of another site, and from an own page.
    const open = async (name: string) => {
      const download = page.waitForEvent("download");
      await page.getByRole("link", { name }).click();
      return (await download).suggestedFilename();
    };
    expect(await open("Download")).toBe("notes.txt");
    const other = await started(script);
    await page.goto(other.url.replace("localhost", "127.0.0.1"));
    await page.setContent(`<a href="${example.url}/notes.txt">elsewhere</a>`);
    expect(await open("elsewhere")).toBe("notes.txt");

    await page.goto(example.url);
    await page.getByRole("button", { name: "Sign out" }).click();
    await page.getByRole("button", { name: "Sign out at the provider too" }).click();
    await page.getByText("You are signed out.").waitFor();
  });
});
