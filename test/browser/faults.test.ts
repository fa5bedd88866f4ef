// What browsers do that programs do not expect.
import { expect, onTestFinished, test } from "vitest";
import type { Tab } from "./engines.ts";
import { until, waitFor } from "./engines.ts";
import { startApi } from "./servers.ts";
import { addNote, codeOf, listNotes, sessionCookies, signIn, watchNotes } from "./visitor.ts";
import { inEngines } from "./world.ts";

/** Everything that Chrome 98, Firefox 93 or Safari 16.4 does not have, and that bundles may use. */
const newerThanTheFloor: Readonly<Record<string, readonly string[]>> = {
  Promise: ["withResolvers", "try"],
  AbortSignal: ["any", "timeout"],
  "AbortSignal.prototype": ["throwIfAborted", "reason"],
  Array: ["fromAsync"],
  "Array.prototype": ["findLast", "findLastIndex", "toSorted", "toReversed", "toSpliced", "with"],
  Object: ["groupBy"],
  Map: ["groupBy"],
  "Map.prototype": ["getOrInsert", "getOrInsertComputed"],
  "Set.prototype": ["union", "intersection", "difference", "isSubsetOf", "isSupersetOf"],
  "String.prototype": ["isWellFormed", "toWellFormed"],
  Symbol: ["dispose", "asyncDispose"],
  URL: ["canParse", "parse"],
  "URLSearchParams.prototype": ["size"],
  "Headers.prototype": ["getSetCookie"],
  ReadableStream: ["from"],
  Response: ["json"],
  "Uint8Array.prototype": ["toBase64", "toHex"],
  Uint8Array: ["fromBase64", "fromHex"],
  "crypto.constructor.prototype": ["randomUUID"],
  globalThis: ["structuredClone", "Iterator", "scheduler", "cookieStore"],
};
const removal = Object.entries(newerThanTheFloor)
  .flatMap(([owner, names]) =>
    names.map((name) => `Reflect.deleteProperty(globalThis.eval("${owner}"), "${name}");`),
  )
  .join("");

/** Makes a call in a worker, and returns the notes or the error. */
async function askWorker(tab: Tab, kind: "Worker" | "ServiceWorker"): Promise<unknown> {
  return await tab.evaluate(async (which: string) => {
    const script = "/worker.js";
    let worker: Pick<Worker, "postMessage">;
    if (which === "Worker") {
      worker = new Worker(script, { type: "module" });
    } else {
      await navigator.serviceWorker.register(script);
      const { active } = await navigator.serviceWorker.ready;
      worker = active as ServiceWorker;
    }
    const { port1, port2 } = new MessageChannel();
    const answered = new Promise((resolve) => {
      port1.onmessage = ({ data }) => resolve(data);
    });
    worker.postMessage("ask", [port2]);
    return await answered;
  }, kind);
}

inEngines((engine, open) => {
  test("feat:Q4 a resumed stream goes on after the server has cut it", async () => {
    const { api, visit } = await open();
    const page = await visit();
    await signIn(page);
    await addNote(page, "milk");
    const { promise, resolve } = Promise.withResolvers<void>();
    api.calls.watching = promise;
    await page.evaluate(() => {
      const watched: string[] = [];
      const loop = async (): Promise<void> => {
        const stream = app.session.resume((_, call) => app.notes.watchNotes({}, call));
        for await (const { note } of stream) {
          watched.push(note?.text ?? "");
        }
        watched.push("the end");
      };
      loop().catch((error) => watched.push(String(error)));
      Object.assign(globalThis, { watched });
    });
    const watched = () =>
      page.evaluate(() => (globalThis as unknown as { watched: string[] }).watched);
    await until(async () => (await watched()).length === 1, "the first message arrives");
    api.calls.watching = undefined;
    api.cut();
    await until(async () => (await watched()).length >= 3, "the stream ends");
    expect(await watched()).toEqual(["milk", "milk", "the end"]);
    resolve();
  });

  test("feat:P6 a page that the visitor comes back to does not miss another tab's sign-out", async () => {
    const { site, visit } = await open();
    const page = await visit();
    await signIn(page);
    await addNote(page, "milk");
    await page.goto(`${site.at()}/next`);
    const other = await visit();
    await other.evaluate(() => app.session.signOut());
    await page.back();
    await waitFor(page, () => "app" in globalThis && app.session.state.status !== "signedIn");
    expect(await codeOf(page)).toBe(16);
  });

  test("feat:P9 a client with header tokens leaves the cookies of its page alone", async () => {
    const { api, visitor, visit } = await open({ options: { browserHeaderTransport: true } });
    const page = await visit();
    await signIn(page);
    await addNote(page, "milk");
    const before = await sessionCookies(visitor, api.at());
    api.asked.length = 0;
    await page.evaluate(async () => {
      const own = app.withTokens();
      await own.notes.signIn({ user: "bob" });
      await own.notes.addNote({ note: { text: "bread" } });
      await own.session.signOut();
    });
    expect(api.asked.filter(({ cookies }) => cookies)).toEqual([]);
    expect(await sessionCookies(visitor, api.at())).toEqual(before);
    expect(await listNotes(page)).toEqual(["milk"]);
  });

  test.each(["cookies", "header tokens"])(
    "a call with %s does not follow a redirect, and the error says so",
    async (kept) => {
      const { api, site, visit } = await open({ options: { browserHeaderTransport: true } });
      const page = await visit();
      const elsewhere = await startApi([site.at()], {}, { tls: api.at().startsWith("https:") });
      onTestFinished(() => elsewhere.close());
      const keepsTokens = kept !== "cookies";
      await page.evaluate(async (withTokens: boolean) => {
        Object.assign(globalThis, { one: withTokens ? app.withTokens() : app });
        await (globalThis as unknown as { one: typeof app }).one.notes.signIn({ user: "bob" });
      }, keepsTokens);
      api.redirectTo = elsewhere.at();
      const seen = await page.evaluate(async () => {
        const { one } = globalThis as unknown as { one: typeof app };
        return [await one.notes.listNotes({}).catch(String), one.session.state.status];
      });
      expect(seen).toEqual([
        "ConnectError: [unknown] the service redirects; give the transport the final address as baseUrl",
        "signedIn",
      ]);
      expect(elsewhere.asked).toEqual([]);
    },
  );

  test("feat:P9 a Web Worker uses the cookies of its page", async () => {
    const { visit } = await open();
    const page = await visit();
    await signIn(page);
    await addNote(page, "milk");
    expect(await askWorker(page, "Worker")).toEqual(["milk"]);
  });

  test("feat:C7 Connect GET with cookies works over plain http", async () => {
    const api = await startApi([], { cookies: { insecure: true } }, { host: "plain.test" });
    onTestFinished(() => api.close());
    const { visitor } = await open();
    const page = await visitor.newTab();
    await page.goto(api.at());
    const [signedIn, listed] = await page.evaluate(async () => {
      const method = "/notes.v1.NotesService/";
      const post = await fetch(`${method}SignIn`, {
        method: "POST",
        headers: { "content-type": "application/json", "rpcsession-transport": "cookie" },
        body: JSON.stringify({ user: "alice" }),
      });
      const get = await fetch(`${method}ListNotes?connect=v1&encoding=json&message=%7B%7D`);
      return [post.status, get.status];
    });
    expect([signedIn, listed]).toEqual([200, 200]);
    const get = api.asked.at(-1);
    expect(get).toMatchObject({ verb: "GET", cookies: true, origin: undefined, site: undefined });
  });

  test("the client runs without the JavaScript that the oldest supported browsers lack", async () => {
    const { api, visitor, visit } = await open({ prelude: removal });
    const page = await visit();
    expect(await page.evaluate(() => "withResolvers" in Promise || "any" in AbortSignal)).toBe(
      false,
    );
    await signIn(page);
    await addNote(page, "milk");
    api.sessions.clock.advance("16m");
    expect(await listNotes(page)).toEqual(["milk"]);
    await page.evaluate(async () => {
      await app.session.refresh({ timeoutMs: 30_000, signal: new AbortController().signal });
    });
    expect(await watchNotes(page)).toEqual(["milk"]);
    await page.evaluate(() => app.session.signOut());
    expect(await visitor.cookies(api.at())).toEqual([]);
  });

  const kept = engine.traits.secureOnLocalhost;
  test(`feat:P6 ${kept ? "keeps" : "drops, and the client says so,"} Secure cookies of http://localhost`, async () => {
    const { visit } = await open({ tls: false });
    const page = await visit();
    await signIn(page);
    const said = await page.evaluate(async () => app.notes.listNotes({}).then(() => "", String));
    if (kept) {
      expect(said).toBe("");
    } else {
      expect(said).toContain("the browser sent no session cookie");
      expect(said).toContain("cookies: { insecure: true }");
      expect(await page.evaluate(() => app.events)).toEqual([
        "signedIn",
        "cookiesMissing",
        "signedOut",
      ]);
    }
  });

  test("feat:I2 insecure: true keeps cookies of http://localhost", async () => {
    const { visit } = await open({ tls: false, options: { cookies: { insecure: true } } });
    const page = await visit();
    await signIn(page);
    await addNote(page, "milk");
    expect(await listNotes(page)).toEqual(["milk"]);
  });
});

inEngines(
  (_engine, open) => {
    test("feat:P6 with blocked cookies the page works, and the client says why nobody stays signed in", async () => {
      const { visit } = await open({ settings: { cookies: "none" } });
      const page = await visit();
      await signIn(page);
      const said = await page.evaluate(async () => app.notes.listNotes({}).then(() => "", String));
      expect(said).toContain("the browser sent no session cookie");
      expect(await page.evaluate(() => app.events)).toContain("cookiesMissing");
    });

    test("feat:P9 a service worker uses the cookies of its page", async () => {
      const { visit } = await open();
      const page = await visit();
      await signIn(page);
      await addNote(page, "milk");
      expect(await askWorker(page, "ServiceWorker")).toEqual(["milk"]);
    });
  },
  { settings: true },
);
