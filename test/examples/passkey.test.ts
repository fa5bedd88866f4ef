// examples/passkey in Chromium, with a virtual authenticator (WebAuthn section 11).
import { type Browser, type BrowserContext, chromium, type Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, onTestFinished, test, vi } from "vitest";
import { buildScript, type RunningExample, startExample } from "../../examples/passkey/start.ts";
import { howToGetChromium, installedChromium } from "../browser/engines/chromium.ts";

vi.setConfig({ testTimeout: 120_000, hookTimeout: 120_000 });

const installed = await installedChromium();
const missing = installed ? "" : `(skipped: ${howToGetChromium})`;

interface Visit {
  readonly page: Page;
  readonly context: BrowserContext;
  /** Whether the person at the authenticator proves to be its owner. */
  readonly verify: (isUser: boolean) => Promise<void>;
}

describe.skipIf(missing !== "")(`feat:A15 a passkey for one call, in Chromium ${missing}`, () => {
  let browser: Browser;
  let script: string;
  beforeAll(async () => {
    [browser, script] = await Promise.all([chromium.launch(installed), buildScript()]);
  });
  afterAll(() => browser?.close());

  async function started(): Promise<RunningExample> {
    const example = await startExample(0, script);
    onTestFinished(() => example.close());
    return example;
  }

  /** A browser of its own with an authenticator, signed in with the password. */
  async function visit({ url }: RunningExample, user = "ada"): Promise<Visit> {
    const context = await browser.newContext();
    onTestFinished(() => context.close());
    const page = await context.newPage();
    page.setDefaultTimeout(60_000);
    const cdp = await context.newCDPSession(page);
    await cdp.send("WebAuthn.enable");
    const { authenticatorId } = await cdp.send("WebAuthn.addVirtualAuthenticator", {
      options: {
        ...{ protocol: "ctap2", transport: "internal", hasResidentKey: true },
        ...{ hasUserVerification: true, isUserVerified: true },
      },
    });
    await page.goto(url);
    await page.getByLabel("User").fill(user);
    await page.getByRole("button", { name: "Sign in" }).click();
    await page.getByText("You have 1000.").waitFor();
    const verify = async (isUserVerified: boolean) => {
      await cdp.send("WebAuthn.setUserVerified", { authenticatorId, isUserVerified });
    };
    return { page, context, verify };
  }

  async function press(page: Page, name: string): Promise<string> {
    const line = page.getByRole("status");
    await line.evaluate((element) => element.replaceChildren("…"));
    await page.getByRole("button", { name }).click();
    await page.waitForFunction(() => document.querySelector("#line")?.textContent !== "…");
    return (await line.textContent()) ?? "";
  }

  /** Records the calls of a page, such as "Transfer 403". */
  function record(page: Page): string[] {
    const calls: string[] = [];
    page.on("response", (response) => {
      const [, method] = /\/bank\.v1\.\w+\/(\w+)$/.exec(response.url()) ?? [];
      if (method !== undefined) {
        calls.push(`${method} ${response.status()}`);
      }
    });
    return calls;
  }

  /** Calls a method of PasskeyService as a script of the page that does not use our client. */
  const post = (page: Page, method: string, body: object) =>
    page.evaluate(
      async ([name, json]) => {
        const response = await fetch(`/bank.v1.PasskeyService/${name}`, {
          method: "POST",
          headers: { "content-type": "application/json" },
          body: json,
        });
        return { status: response.status, text: await response.text() };
      },
      [method, JSON.stringify(body)] as const,
    );

  /** Asks for a challenge of the session. Returns its options, as JSON. */
  async function challenge(page: Page): Promise<string> {
    const { text } = await post(page, "StartStepUp", {});
    return (JSON.parse(text) as { optionsJson: string }).optionsJson;
  }

  const finish = async (page: Page, credentialJson: string) =>
    (await post(page, "FinishStepUp", { credentialJson })).status;

  /** Lets the passkey sign a challenge, and asks for the owner's proof or not. */
  const sign = (page: Page, optionsJson: string, userVerification: string) =>
    page.evaluate(
      async ([json, wanted]) => {
        const options = PublicKeyCredential.parseRequestOptionsFromJSON(JSON.parse(json) as never);
        const credential = (await navigator.credentials.get({
          publicKey: { ...options, userVerification: wanted as UserVerificationRequirement },
        })) as PublicKeyCredential;
        return JSON.stringify(credential.toJSON());
      },
      [optionsJson, userVerification] as const,
    );

  test("a refused transfer asks for the passkey, and is sent again; the next one needs no passkey", async () => {
    const { page } = await visit(await started());
    expect(await press(page, "Add a passkey")).toBe("Your passkey was added.");
    const calls = record(page);
    expect(await press(page, "Transfer")).toBe("Sent. You have 900.");
    expect(calls).toEqual(["Transfer 403", "StartStepUp 200", "FinishStepUp 200", "Transfer 200"]);
    calls.length = 0;
    expect(await press(page, "Transfer")).toBe("Sent. You have 800.");
    expect(calls).toEqual(["Transfer 200"]);
  });

  test("without a passkey, and without the owner at the authenticator, the transfer stays refused", async () => {
    const { page, verify } = await visit(await started());
    expect(await press(page, "Transfer")).toBe("Add a passkey first.");
    await press(page, "Add a passkey");
    await verify(false);
    const calls = record(page);
    expect(await press(page, "Transfer")).not.toMatch(/^Sent/);
    expect(calls.filter((call) => call.startsWith("Transfer"))).toEqual(["Transfer 403"]);
  });

  test("whoever has the session alone cannot add a passkey beside the first one", async () => {
    const example = await started();
    const { page, context } = await visit(example);
    await press(page, "Add a passkey");
    const thief = await visit(example, "eve");
    await thief.context.clearCookies();
    await thief.context.addCookies(await context.cookies());
    await thief.page.reload();
    await thief.page.getByText("You have 1000.").waitFor();
    expect(await press(thief.page, "Add a passkey")).not.toBe("Your passkey was added.");
    expect(await press(thief.page, "Transfer")).not.toMatch(/^Sent/);
  });

  test("the passkey of another user, and a used or foreign answer, are refused", async () => {
    const example = await started();
    const [ada, eve] = [await visit(example), await visit(example, "eve")];
    await press(ada.page, "Add a passkey");
    await press(eve.page, "Add a passkey");

    /** What the page has sent with a successful FinishStepUp. */
    const sent = ada.page.waitForRequest((request) => request.url().endsWith("/FinishStepUp"));
    expect(await press(ada.page, "Transfer")).toBe("Sent. You have 900.");
    const used = JSON.parse((await sent).postData() ?? "") as { credentialJson: string };

    expect(await finish(ada.page, used.credentialJson)).toBe(403);
    for (const { page } of [ada, eve]) {
      await challenge(page);
      expect(await finish(page, used.credentialJson)).toBe(403);
    }
    expect(await press(eve.page, "Transfer")).toBe("Sent. You have 900.");
  });

  test("an answer without the owner's proof is refused, also if a script of the page asks for none", async () => {
    const { page, verify } = await visit(await started());
    await press(page, "Add a passkey");
    await verify(false);
    expect(await finish(page, await sign(page, await challenge(page), "discouraged"))).toBe(403);
    await verify(true);
    expect(await finish(page, await sign(page, await challenge(page), "required"))).toBe(200);
  });

  test("an answer to the challenge of one session does not confirm another session of the user", async () => {
    const example = await started();
    const [phone, laptop] = [await visit(example), await visit(example)];
    await press(phone.page, "Add a passkey");
    await challenge(laptop.page);
    const answer = await sign(phone.page, await challenge(phone.page), "required");
    expect(await finish(laptop.page, answer)).toBe(403);
    expect(await press(laptop.page, "Transfer")).not.toMatch(/^Sent/);
    expect(await finish(phone.page, answer)).toBe(200);
  });

  test.each(["null", "{", "[]", '{"id":5}'])("%s is refused as an answer", async (junk) => {
    const { page } = await visit(await started());
    await press(page, "Add a passkey");
    await challenge(page);
    expect(await finish(page, junk)).toBe(403);
    const added = await post(page, "FinishRegistration", { credentialJson: junk });
    expect(added.status).toBe(403);
  });
});
