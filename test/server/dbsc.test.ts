// Sessions in cookies that are bound to a key of the browser (DBSC), with a browser of our own, the client
// of this package and a server on loopback behind a public https origin.
import { Code, ConnectError, type ConnectRouter, createClient } from "@connectrpc/connect";
import {
  connectNodeAdapter,
  createConnectTransport as createNodeTransport,
} from "@connectrpc/connect-node";
import { createConnectTransport } from "@connectrpc/connect-web";
import type { SessionEvent } from "rpc-session";
import { cookieTokens, createSessionClient } from "rpc-session/client";
import { dbscFallback, dbscHandler } from "rpc-session/http";
import { createVisitor } from "rpc-session/ssr";
import { testSessions } from "rpc-session/testing";
import { describe, expect, it, onTestFinished } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { DeviceBrowser, type DeviceBrowserOptions } from "../helpers/device-browser.ts";
import { listenForTest } from "../helpers/listen.ts";
import { notesApp } from "../helpers/notes.ts";

const origin = "https://test.example";
const refreshPath = "/rpcsession.v1.SessionService/Refresh";
const held = ["POST /dbsc/refresh 403", "POST /dbsc/refresh 200"];
const proofName = "__Http-rpcsession-proof";

type Options = NonNullable<Parameters<typeof testSessions>[0]>;

async function startWorld(options: Options = {}, own: Parameters<typeof notesApp>[1] = {}) {
  const events: SessionEvent[] = [];
  const sessions = testSessions({
    public: [NotesService.method.signIn],
    onEvent: (event) => events.push(event),
    ...options,
  });
  const { routes } = notesApp(sessions, own);
  const fallback = dbscFallback(sessions);
  const url = await listenForTest(
    connectNodeAdapter({ ...sessions.protect({ routes }), fallback }),
  );
  const { clock } = sessions;
  const newBrowser = (given: Partial<DeviceBrowserOptions> = {}) =>
    new DeviceBrowser({ hosts: { [origin]: url }, clock, ...given });
  const refusals = () => events.filter(({ type }) => type === "proofRefused");
  return { sessions, clock, events, refusals, url, newBrowser };
}

type World = Awaited<ReturnType<typeof startWorld>>;

/** A tab with the client of this package. */
function openTab({ clock }: World, browser: DeviceBrowser, page = origin) {
  const session = createSessionClient({
    tokens: cookieTokens(),
    clock,
    transport: (parts) =>
      createConnectTransport({ baseUrl: origin, ...parts, fetch: browser.pageOf(page) }),
  });
  onTestFinished(() => session.close());
  return { session, notes: createClient(NotesService, session.transport) };
}

/** Signs in, uses the session, and lets the access token nearly expire. */
async function signIn(world: World, browser: DeviceBrowser, page = origin) {
  const tab = openTab(world, browser, page);
  await tab.notes.signIn({ user: "alice" });
  await browser.settled();
  await use(world, tab);
  const [id = ""] = (await world.sessions.list({ userId: "alice" })).sessions.map(({ id }) => id);
  return { ...tab, id };
}

async function use({ clock }: World, { notes }: Pick<ReturnType<typeof openTab>, "notes">) {
  clock.advance("2m");
  await notes.listNotes({});
  clock.advance("12m");
}

/** The same, and the first proof has bound the session. */
async function bind(world: World, browser: DeviceBrowser, page = origin) {
  const tab = await signIn(world, browser, page);
  await tab.session.refresh();
  await use(world, tab);
  browser.lines();
  browser.rest();
  return tab;
}

const cookieOf = ({ jar }: DeviceBrowser, name: string) => jar.find((one) => one.name === name);

/** The answer to a copy of cookies that somebody sends without the browser. */
async function steal({ url }: World, jar: DeviceBrowser["jar"], headers = {}) {
  const cookie = jar.map(({ name, value }) => `${name}=${value}`).join("; ");
  return fetch(`${url}${refreshPath}`, {
    method: "POST",
    body: "{}",
    headers: { cookie, origin, "content-type": "application/json", ...headers },
  });
}

/** A refresh without the client of this package. */
const refreshBy = (browser: DeviceBrowser) =>
  browser.pageOf(origin)(`${origin}${refreshPath}`, {
    method: "POST",
    body: "{}",
    headers: { "content-type": "application/json" },
  });

const failure = (call: Promise<unknown>) =>
  call.then(
    () => undefined,
    (error: unknown) => ConnectError.from(error),
  );

describe("a browser that knows DBSC", () => {
  it.each([{ alg: "ES256" }, { alg: "RS256" }, { quotes: true }] as const)(
    "feat:S11 registers a key, and its first proof binds the session: %j",
    async (given) => {
      const world = await startWorld();
      const browser = world.newBrowser(given);
      const tab = await signIn(world, browser);
      expect(browser.refusals).toEqual([]);
      expect(browser.lines()).toEqual([
        "POST /notes.v1.NotesService/SignIn 200",
        "POST /dbsc/register 200",
        "POST /notes.v1.NotesService/ListNotes 200",
      ]);
      // A finished registration does not prove that the browser keeps the binding.
      expect((await world.sessions.find(tab.id))?.boundKey).toBeUndefined();
      await tab.session.refresh();
      expect(browser.lines()).toEqual([...held, `POST ${refreshPath} 200`]);
      const info = await world.sessions.find(tab.id);
      expect(info?.device.bound).toBe("dbsc");
      expect(info?.boundKey).toMatch(/^[\w-]{43}$/);
      // The answer has used the proof up.
      expect(cookieOf(browser, proofName)).toBeUndefined();
      await use(world, tab);
      expect(browser.lines()).toEqual(["POST /notes.v1.NotesService/ListNotes 200"]);
      await tab.session.refresh();
      expect(browser.lines()).toEqual([...held, `POST ${refreshPath} 200`]);
      expect(world.refusals()).toEqual([]);
    },
  );

  it("feat:S11 other browsers work as before, and are told apart", async () => {
    const world = await startWorld();
    const browser = world.newBrowser({ knowsDbsc: false });
    const tab = await signIn(world, browser);
    for (let round = 0; round < 3; round++) {
      await tab.session.refresh();
      await use(world, tab);
    }
    const info = await world.sessions.find(tab.id);
    expect(info).toMatchObject({ boundKey: undefined });
    expect(info?.device.bound).toBeUndefined();
  });

  it("feat:S11 all cookies of a bound session refresh nothing without the key", async () => {
    const world = await startWorld();
    const browser = world.newBrowser();
    const tab = await bind(world, browser);
    const before = await world.sessions.find(tab.id);
    for (const headers of [{}, { "sec-fetch-site": "same-origin" }]) {
      const answer = await steal(world, browser.jar, headers);
      expect(answer.status).toBe(503);
      expect(answer.headers.get("set-cookie")).not.toContain("rpcsession-refresh");
      expect(answer.headers.has("rpcsession-session")).toBe(false);
    }
    expect(world.refusals()).toMatchObject([{ why: "missing" }, { why: "missing" }]);
    expect(await world.sessions.find(tab.id)).toEqual(before);
    await tab.session.refresh();
    expect(tab.session.state.status).toBe("signedIn");
  });

  it("feat:S11 feat:I9 a bound session keeps its binding when the prefix of its cookies changes", async () => {
    const world = await startWorld();
    const browser = world.newBrowser();
    const tab = await bind(world, browser);
    browser.jar = browser.jar.map((cookie) => ({
      ...cookie,
      name: cookie.name.replace("__Host-Http-", "__Host-"),
    }));
    await tab.session.refresh();
    expect(browser.lines()).toEqual([...held, `POST ${refreshPath} 200`]);
    expect(world.refusals()).toEqual([]);
    const names = browser.jar
      .map(({ name }) => name)
      .filter((name) => /-(access|refresh)$/.test(name));
    expect(new Set(names)).toEqual(
      new Set(["__Host-Http-rpcsession-access", "__Host-Http-rpcsession-refresh"]),
    );
    await use(world, tab);
    await tab.session.refresh();
    expect(tab.session.state.status).toBe("signedIn");
  });

  it("feat:S11 a stolen proof is good for one refresh", async () => {
    const world = await startWorld();
    const browser = world.newBrowser();
    const tab = await bind(world, browser);
    let jar: DeviceBrowser["jar"] = [];
    browser.fault = (url, send) => {
      jar = url.pathname === refreshPath ? [...browser.jar] : jar;
      return send();
    };
    await tab.session.refresh();
    expect(jar.some(({ name }) => name === proofName)).toBe(true);
    // It gets the same successor as the browser, once; for that one it has no proof.
    const once = await steal(world, jar);
    expect(once.status).toBe(200);
    const stolen = jar.map((cookie) => {
      const value = once.headers
        .getSetCookie()
        .find((line) => line.startsWith(`${cookie.name}=`) && !line.includes("Max-Age=0"))
        ?.split(";")[0]
        ?.slice(cookie.name.length + 1);
      return value === undefined ? cookie : { ...cookie, value };
    });
    expect((await steal(world, stolen)).status).toBe(503);
    expect(world.refusals()).toMatchObject([{ why: "stale" }]);
    await use(world, tab);
    await tab.session.refresh();
    expect(tab.session.state.status).toBe("signedIn");
  });

  it("feat:S11 is asked once for a missing proof, and then to sign in", async () => {
    const world = await startWorld();
    const browser = world.newBrowser();
    const tab = await bind(world, browser);
    browser.bindings.splice(0); // the user has cleared the storage of the browser, but not the cookies
    const first = await failure(tab.session.refresh());
    expect(first?.code).toBe(Code.Unavailable);
    expect(tab.session.state.status).toBe("signedIn");
    const second = await failure(tab.session.refresh());
    expect(second?.code).toBe(Code.Unauthenticated);
    expect(tab.session.state.status).toBe("signedOut");
    expect(browser.jar).toEqual([]);
    expect(world.refusals()).toMatchObject([{ why: "missing" }, { why: "missing" }]);
    expect(world.events.filter(({ type }) => type === "failed")).toEqual([]);
    // A sign-in helps at once, and binds again.
    const again = await bind(world, browser);
    expect(again.session.state.status).toBe("signedIn");
    expect((await world.sessions.find(again.id))?.device.bound).toBe("dbsc");
  });

  it("feat:S11 a proof for another generation is used up, and the next call brings a new one", async () => {
    const world = await startWorld();
    const browser = world.newBrowser();
    const tab = await bind(world, browser);
    let old: DeviceBrowser["jar"] = [];
    browser.fault = (url, send) => {
      old =
        url.pathname === refreshPath ? browser.jar.filter(({ name }) => name === proofName) : old;
      return send();
    };
    await tab.session.refresh();
    browser.fault = (_url, send) => send();
    browser.jar.push(...old);
    expect((await failure(tab.session.refresh()))?.code).toBe(Code.Unavailable);
    expect(cookieOf(browser, proofName)).toBeUndefined();
    await tab.session.refresh();
    expect(world.refusals()).toMatchObject([{ why: "stale" }]);
    expect(tab.session.state.status).toBe("signedIn");
  });

  it("feat:S11 a proof expires on the server, too", async () => {
    const world = await startWorld();
    const browser = world.newBrowser();
    await bind(world, browser);
    browser.fault = async (url, send) => {
      if (url.pathname === refreshPath) {
        world.clock.advance("11m");
      }
      return send();
    };
    expect((await refreshBy(browser)).status).toBe(503);
    expect(world.refusals()).toMatchObject([{ why: "stale" }]);
  });

  it.each([
    ["an answer 503", async () => new Response(null, { status: 503 }), "server_error"],
    ["a lost connection", () => Promise.reject(new TypeError("reset")), "unreachable"],
  ] as const)("feat:S11 is not signed out by %s to its proof", async (_, fault, why) => {
    const world = await startWorld({ bind: { onMismatch: "revoke" } });
    const browser = world.newBrowser();
    const tab = await bind(world, browser);
    browser.fault = (url, send) => (url.pathname === "/dbsc/refresh" ? fault() : send());
    for (let round = 0; round < 3; round++) {
      expect((await failure(tab.session.refresh()))?.code).toBe(Code.Unavailable);
    }
    expect(browser.sent.at(-1)?.headers.get("secure-session-skipped")).toContain(why);
    browser.fault = (_url, send) => send();
    browser.rest();
    await tab.session.refresh();
    expect(tab.session.state.status).toBe("signedIn");
    expect(world.refusals()).toMatchObject(Array(3).fill({ why: "skipped" }));
  });

  it("feat:S11 is not signed out when it has used up its quota of proofs", async () => {
    const world = await startWorld();
    const browser = world.newBrowser({ quota: 1 });
    const tab = await bind(world, browser);
    await tab.session.refresh();
    expect((await failure(tab.session.refresh()))?.code).toBe(Code.Unavailable);
    expect(world.refusals()).toMatchObject([{ why: "skipped" }]);
    browser.rest();
    await tab.session.refresh();
    expect(tab.session.state.status).toBe("signedIn");
  });

  it("feat:S11 recovers from every lost answer", async () => {
    const world = await startWorld();
    const browser = world.newBrowser();
    const tab = await bind(world, browser);
    for (const path of ["/dbsc/refresh", refreshPath]) {
      let isLost = true;
      browser.fault = async (url, send) => {
        const answer = await send();
        if (url.pathname === path && isLost) {
          isLost = false;
          throw new TypeError("the answer was lost");
        }
        return answer;
      };
      expect((await failure(tab.session.refresh()))?.code).toBe(Code.Unavailable);
      await tab.session.refresh();
      expect(tab.session.state.status).toBe("signedIn");
      await use(world, tab);
      browser.rest();
    }
    expect(world.events.filter(({ type }) => type === "theft")).toEqual([]);
  });

  it("feat:S11 the answer that binds the session may be lost", async () => {
    const world = await startWorld();
    const browser = world.newBrowser();
    const tab = await signIn(world, browser);
    let isLost = true;
    browser.fault = async (url, send) => {
      const answer = await send();
      if (url.pathname === refreshPath && isLost) {
        isLost = false;
        throw new TypeError("the answer was lost");
      }
      return answer;
    };
    await failure(tab.session.refresh());
    expect((await world.sessions.find(tab.id))?.boundKey).toBeDefined();
    world.clock.advance("20m");
    await tab.session.refresh();
    await use(world, tab);
    await tab.session.refresh();
    expect(tab.session.state.status).toBe("signedIn");
  });

  it("feat:S11 an empty answer makes the browser send the used challenge again, which is no theft", async () => {
    const world = await startWorld();
    const browser = world.newBrowser();
    const tab = await bind(world, browser);
    browser.fault = async (url, send) => {
      const answer = await send();
      return url.pathname === "/dbsc/refresh" && answer.status === 200
        ? new Response(null, answer)
        : answer;
    };
    await tab.session.refresh();
    await use(world, tab);
    browser.lines();
    await tab.session.refresh();
    expect(browser.lines()).toEqual([...held, `POST ${refreshPath} 200`]);
    expect(tab.session.state.status).toBe("signedIn");
  });

  it("feat:S11 calls that refresh at once make one proof, and so do tabs", async () => {
    const world = await startWorld();
    const browser = world.newBrowser();
    const first = await bind(world, browser);
    const answers = await Promise.all([1, 2, 3].map(() => refreshBy(browser)));
    expect(answers.map(({ status }) => status)).toEqual([200, 200, 200]);
    expect(browser.lines().filter((line) => line === held[1])).toHaveLength(1);
    await use(world, first);
    const second = openTab(world, browser);
    await Promise.all([second.session.refresh(), first.session.refresh()]);
    expect(first.session.state.status).toBe("signedIn");
    expect(second.session.state.status).toBe("signedIn");
    expect(world.refusals()).toEqual([]);
    expect(world.events.filter(({ type }) => type === "theft")).toEqual([]);
  });

  it("feat:S11 two tabs that sign in at once end with one bound session", async () => {
    const world = await startWorld();
    const browser = world.newBrowser();
    const tabs = [openTab(world, browser), openTab(world, browser)] as const;
    await Promise.all(tabs.map(({ notes }) => notes.signIn({ user: "alice" })));
    await browser.settled();
    const [tab] = tabs;
    await use(world, tab);
    await tab.session.refresh();
    await use(world, tab);
    await tab.session.refresh();
    const bound = (await world.sessions.list({ userId: "alice" })).sessions.filter(
      ({ device }) => device.bound === "dbsc",
    );
    expect(bound).toHaveLength(1);
    expect(tab.session.state).toMatchObject({ status: "signedIn", sessionId: bound[0]?.id });
  });

  it("feat:S11 a second sign-in gets a binding of its own, and the browser forgets the first one", async () => {
    const world = await startWorld();
    const browser = world.newBrowser();
    const first = await bind(world, browser);
    await first.session.refresh();
    await first.notes.signIn({ user: "bob" });
    await browser.settled();
    expect(browser.bindings).toHaveLength(2);
    await use(world, first);
    browser.lines();
    await first.session.refresh();
    expect(browser.lines()).toEqual(["POST /dbsc/refresh 401", ...held, `POST ${refreshPath} 200`]);
    expect(browser.bindings).toHaveLength(1);
    const { sessions } = await world.sessions.list({ userId: "bob" });
    expect(sessions[0]?.device.bound).toBe("dbsc");
  });

  it.each([
    ["a sign-out", ({ session }: ReturnType<typeof openTab>) => session.signOut()],
    ["a revocation", (_: unknown, { sessions }: World, id: string) => sessions.revoke(id)],
  ] as const)("feat:S11 %s ends the binding", async (_, end) => {
    const world = await startWorld();
    const browser = world.newBrowser();
    const tab = await bind(world, browser);
    const jar = [...browser.jar];
    await end(tab, world, tab.id);
    browser.jar = jar;
    const answer = await refreshBy(browser);
    expect(browser.lines().at(-2)).toBe("POST /dbsc/refresh 401");
    expect(browser.bindings).toEqual([]);
    // The user hears that the session is over, and not that a proof is missing.
    expect(await answer.json()).toMatchObject({ message: "the session was ended; sign in again" });
  });

  it("feat:S11 is not signed out by a server that renders its pages and has no key", async () => {
    const world = await startWorld();
    const browser = world.newBrowser();
    const tab = await bind(world, browser);
    for (let request = 0; request < 3; request++) {
      const cookie = browser.jar.map(({ name, value }) => `${name}=${value}`).join("; ");
      const visitor = createVisitor(
        { headers: new Headers({ cookie, "sec-fetch-site": "same-origin" }) },
        {
          origin,
          clock: world.clock,
          transport: (parts) =>
            createNodeTransport({ baseUrl: world.url, httpVersion: "1.1", ...parts }),
        },
      );
      await visitor.refreshIfDue();
      expect(visitor.setCookies).toEqual([]);
    }
    await tab.session.refresh();
    expect(tab.session.state.status).toBe("signedIn");
    expect(world.refusals()).toMatchObject(Array(3).fill({ why: "missing" }));
  });

  it("feat:S11 pages of another origin of the site refresh, too", async () => {
    const app = "https://app.test.example";
    const world = await startWorld({ origins: [origin, app] });
    const browser = world.newBrowser();
    const tab = await bind(world, browser, app);
    await tab.session.refresh();
    expect(browser.lines()).toEqual([...held, `POST ${refreshPath} 200`]);
    expect((await world.sessions.find(tab.id))?.device.bound).toBe("dbsc");
  });
});

describe("an honest browser under random faults", () => {
  it.each([1, 2, 3, 4, 5, 6, 7, 8])(
    "feat:S11 is never signed out, and every thief with its cookies is refused: seed %i",
    async (seed) => {
      const random = randomOf(seed);
      const world = await startWorld();
      const browser = world.newBrowser();
      const tab = await bind(world, browser);
      const tabs = [tab, openTab(world, browser)];
      const paths = ["/dbsc/refresh", refreshPath];
      let stolen: DeviceBrowser["jar"] = [];
      for (let step = 0; step < 60; step++) {
        // 1. What goes wrong in this step, if anything: a request or an answer is lost, or an outage.
        const fault = random() < 0.4 ? Math.floor(random() * 3) : undefined;
        const path = paths[Math.floor(random() * 2)];
        let left = fault === undefined ? 0 : 1;
        browser.fault = async (url, send) => {
          if (url.pathname !== path || left-- <= 0) {
            return send();
          }
          if (fault === 0) {
            throw new TypeError("the request was lost");
          }
          const answer = fault === 1 ? await send() : new Response(null, { status: 503 });
          if (fault === 1) {
            throw new TypeError("the answer was lost");
          }
          return answer;
        };
        // 2. What the user does.
        world.clock.advance(`${Math.floor(random() * 900)}s`);
        browser.rest();
        const calls = tabs.flatMap(({ session, notes }) => [
          ...(random() < 0.5 ? [session.refresh()] : []),
          ...(random() < 0.5 ? [notes.listNotes({})] : []),
        ]);
        await Promise.all(calls.map(failure));
        // 3. A thief with the cookies of a moment when no proof was among them.
        if (random() < 0.3) {
          stolen = browser.jar.filter(({ name }) => !name.startsWith(proofName));
          expect((await steal(world, stolen)).status).not.toBe(200);
        }
      }
      browser.fault = (_url, send) => send();
      browser.rest();
      await failure(tab.session.refresh());
      await tab.session.refresh();
      await tab.notes.listNotes({});
      expect(tabs.map(({ session }) => session.state.status)).toEqual(["signedIn", "signedIn"]);
      expect(world.events.filter(({ type }) => type === "theft")).toEqual([]);
      expect(world.refusals().map((event) => "why" in event && event.why)).toContain("missing");
    },
  );
});

/** The same numbers for the same seed (mulberry32). */
function randomOf(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

describe("reauthenticate and fork", () => {
  it("feat:S5 a bound browser keeps its binding over reauthenticate, and cannot fork", async () => {
    const sessions = testSessions({ public: [NotesService.method.signIn] });
    const fallback = dbscFallback(sessions);
    const routes = (router: ConnectRouter) =>
      router.service(NotesService, {
        async signIn({ user }, context) {
          await sessions.create(context, { userId: user });
          return {};
        },
        async addNote({ note }, context) {
          await (note?.text === "fork"
            ? sessions.fork(context, { freshWithin: "any" })
            : sessions.reauthenticate(context));
          return {};
        },
        listNotes: () => ({}),
      });
    const url = await listenForTest(
      connectNodeAdapter({ ...sessions.protect({ routes }), fallback }),
    );
    const { clock } = sessions;
    const browser = new DeviceBrowser({ hosts: { [origin]: url }, clock });
    const world = { sessions, clock } as World;
    const tab = await bind(world, browser);
    const key = (await sessions.find(tab.id))?.boundKey;
    await tab.session.refresh(); // so that no early refresh runs beside the calls
    const refused = await failure(tab.notes.addNote({ note: { text: "fork" } }));
    expect(refused?.code).toBe(Code.PermissionDenied);
    expect(refused?.rawMessage).toMatch(/cannot be forked/);
    expect(tab.session.state.status).toBe("signedIn");
    await tab.notes.addNote({ note: { text: "again" } });
    expect(await sessions.find(tab.id)).toBeUndefined();
    await use(world, tab);
    browser.lines();
    browser.rest();
    await tab.session.refresh();
    expect(browser.lines()).toEqual([...held, `POST ${refreshPath} 200`]);
    const [next] = (await sessions.list({ userId: "alice" })).sessions;
    expect(next).toMatchObject({ boundKey: key, device: { bound: "dbsc" } });
  });
});

describe("a method that needs a proof on each call", () => {
  it("feat:S7 refuses a bound browser, which proves its key for refreshes alone, and signs nobody out", async () => {
    const world = await startWorld({
      methods: { "notes.v1.NotesService/AddNote": { proof: "required" } },
    });
    const browser = world.newBrowser();
    const tab = await bind(world, browser);
    const refused = await failure(tab.notes.addNote({ note: { text: "bread" } }));
    expect(refused?.code).toBe(Code.PermissionDenied);
    expect(refused?.rawMessage).toMatch(/with tokens in headers/);
    expect(tab.session.state.status).toBe("signedIn");
  });
});

describe("bind: required, with tokens in cookies", () => {
  const required = { bind: { mode: "required" } } as const;
  /** The whole service, or one sign-in. */
  const ways = [
    ["by the service", required, {}],
    ["by a sign-in", {}, { bind: "required" }],
  ] as const;

  it.each(ways)(
    "feat:S12 %s: a session that its browser has proven goes on",
    async (_, options, own) => {
      const world = await startWorld(options, own);
      const browser = world.newBrowser();
      const tab = await bind(world, browser);
      await tab.session.refresh();
      await use(world, tab);
      browser.rest();
      await tab.session.refresh();
      expect(tab.session.state.status).toBe("signedIn");
      expect((await world.sessions.find(tab.id))?.device).toMatchObject({
        ...{ bind: "required", bound: "dbsc" },
      });
    },
  );

  it.each(ways)(
    "feat:S12 %s: one that no browser has proven is refreshed for 5 minutes, and changes no more",
    async (_, options, own) => {
      const world = await startWorld(options, own);
      const browser = world.newBrowser({ knowsDbsc: false });
      const tab = openTab(world, browser);
      await tab.notes.signIn({ user: "alice" });
      world.clock.advance("299s");
      await tab.session.refresh();
      world.clock.advance("2s");
      const [before] = (await world.sessions.list({ userId: "alice" })).sessions;
      expect((await failure(tab.session.refresh()))?.code).toBe(Code.Unavailable);
      expect((await world.sessions.list({ userId: "alice" })).sessions).toEqual([before]);
      expect((await failure(tab.session.refresh()))?.code).toBe(Code.Unauthenticated);
      expect(tab.session.state.status).toBe("signedOut");
    },
  );

  it.each(ways)(
    "feat:S12 %s: it is not refreshed either if its use has confirmed its tokens",
    async (_, options, own) => {
      const world = await startWorld(options, own);
      const tab = openTab(world, world.newBrowser({ knowsDbsc: false }));
      await tab.notes.signIn({ user: "alice" });
      await use(world, tab);
      expect((await failure(tab.session.refresh()))?.code).toBe(Code.Unavailable);
    },
  );
});

describe("dbscHandler", () => {
  it.each([
    [{ cookies: { sameSite: "none", partitioned: true } }, {}, /partitioned/],
    [{ cookies: { path: "/rpc" } }, {}, /below cookies\.path/],
    [{}, { path: "dbsc" }, /path must be segments/],
    [{}, { path: "/dbsc/" }, /path must be segments/],
    [{}, { paths: "/dbsc" }, /unknown option "paths"/],
  ] as const)("refuses %j with %j at construction", (options, given, message) => {
    const sessions = testSessions(options as Options);
    expect(() => dbscHandler(sessions, given as never)).toThrow(message);
  });

  it("refuses another object than sessions, and a second path", () => {
    expect(() => dbscHandler({} as never)).toThrow(/createSessions/);
    const sessions = testSessions();
    dbscHandler(sessions);
    expect(() => dbscFallback(sessions, { path: "/other" })).toThrow(/under \/dbsc already/);
  });
});
