import { createSessions, type SessionStore, type SessionsOptions } from "rpc-session";
import { memoryStore } from "rpc-session/stores/memory";
import { createFakeClock, testSessions } from "rpc-session/testing";
import { describe, expect, it } from "vitest";
import { exchangeOf, sessionErrorOf } from "../helpers/exchanges.ts";
import { issueOn } from "../helpers/refreshing.ts";
import { watchedStore } from "../helpers/watched-store.ts";

const issuer = "https://api.example.com";
const secret = "0123456789abcdef0123456789abcdef";

/** Options as an untyped program might write them. */
type Wrong = { readonly [K in keyof SessionsOptions]?: unknown };

function make(wrong: Wrong): () => unknown {
  return () => createSessions({ issuer, store: memoryStore(), ...wrong } as SessionsOptions);
}

/** A store without its own secret, such as a database server. */
function plainStore(): SessionStore {
  const store = { ...memoryStore(), name: "plainStore" };
  delete store.secret;
  return store;
}

describe("invalid options throw at construction, with a message that says what to change", () => {
  it.each<[string, Wrong, RegExp]>([
    [
      "a missing issuer",
      { issuer: undefined },
      /^issuer must be the http or https URL of this service without .*, such as .*, got undefined$/,
    ],
    ["an empty issuer", { issuer: "" }, /^issuer must be .*, got ""$/],
    [
      "a host as issuer",
      { issuer: "api.example.com" },
      /^issuer must be .*, got "api.example.com"$/,
    ],
    ["an issuer with another scheme", { issuer: "ftp://api.example.com" }, /^issuer must be/],
    ["an issuer with a query", { issuer: `${issuer}?a=1` }, /^issuer must be/],
    ["an issuer with a fragment", { issuer: `${issuer}#a` }, /^issuer must be/],
    [
      "an issuer with a user name and a password, which the message hides",
      { issuer: "https://user:p/w@api.example.com" },
      /^issuer must be .*, got "https:\/\/\*\*\*@api\.example\.com"$/,
    ],
    ["an issuer with a space", { issuer: `${issuer} ` }, /^issuer must be/],
    ["an issuer with a line break", { issuer: `${issuer}\r\nx: y` }, /^issuer must be/],
    ["an issuer with a quote", { issuer: `${issuer}/"` }, /^issuer must be/],
    ["an empty audience", { audience: "" }, /^audience must be a non-empty string, got ""$/],
    [
      "an audience that is not a string",
      { audience: ["a"] },
      /^audience must be a string, got an array/,
    ],
    [
      "a missing store",
      { store: undefined },
      /^store must be a session store, such as sqliteStore/,
    ],
    ["an object that is not a store", { store: {} }, /^store must be a session store/],
    ["a file name as store", { store: "sessions.db" }, /^store must be a session store/],
    [
      "a missing secret",
      { store: plainStore() },
      /^secret is missing and plainStore does not keep one; pass at least 32 random bytes/,
    ],
    [
      "a secret that is too short",
      { secret: "x".repeat(31) },
      /^secret must be at least 32 bytes long, got 31; /,
    ],
    ["an empty secret", { secret: "" }, /^secret must be at least 32 bytes long, got 0; /],
    [
      "a list with a secret that is too short",
      { secret: [secret, "short"] },
      /^secret must be at least 32 bytes long, got 5; /,
    ],
    [
      "an empty list of secrets",
      { secret: [] },
      /^secret must not be an empty list; give at least one secret$/,
    ],
    [
      "a secret of too few bytes",
      { secret: new Uint8Array(31) },
      /^secret must be at least 32 bytes long, got 31; /,
    ],
    [
      "access without a unit",
      { lifetimes: { access: "15 min" } },
      /^lifetimes\.access: "15 min" is not a valid duration; use a value such as "15m"/,
    ],
    [
      "a number as access",
      { lifetimes: { access: 900 } },
      /^lifetimes\.access: 900 is not a valid duration/,
    ],
    [
      "a negative access",
      { lifetimes: { access: "-1m" } },
      /^lifetimes\.access: "-1m" is not a valid duration/,
    ],
    [
      "an access lifetime that is too short",
      { lifetimes: { access: "1s" } },
      /^lifetimes\.access must be at least 2s, got "1s"$/,
    ],
    [
      "an access lifetime that is too long",
      { lifetimes: { access: "61m" } },
      /^lifetimes\.access must be at most 1h, got "61m"$/,
    ],
    [
      "absolute shorter than access",
      { lifetimes: { absolute: "10m", idle: "5m" } },
      /^lifetimes\.absolute must be at least .*, got "10m"$/,
    ],
    [
      "absolute longer than browsers keep a cookie",
      { lifetimes: { absolute: "401d" } },
      /^lifetimes\.absolute must be at most .*, got "401d"$/,
    ],
    [
      "idle shorter than access",
      { lifetimes: { idle: "10m" } },
      /^lifetimes\.idle must be at least .*, got "10m"$/,
    ],
    [
      "idle longer than absolute",
      { lifetimes: { idle: "91d" } },
      /^lifetimes\.idle must be at most .*, got "91d"$/,
    ],
    [
      "the default idle longer than absolute",
      { lifetimes: { absolute: "7d" } },
      /^lifetimes\.idle must be at most .*, got "14d"$/,
    ],
    [
      "overlap that is not longer than clientTimeout",
      { refresh: { overlap: "10s" } },
      /^refresh\.overlap must be longer than refresh\.clientTimeout \(10s\), got 10s/,
    ],
    [
      "clientTimeout longer than overlap",
      { refresh: { clientTimeout: "30s" } },
      /^refresh\.overlap must be longer than .*, got 30s/,
    ],
    [
      "overlap half of access",
      { refresh: { overlap: "450s" } },
      /^refresh\.overlap must be shorter than half of lifetimes\.access \(15m\), got 450s/,
    ],
    [
      "access twice the overlap",
      { lifetimes: { access: "1m" } },
      /^refresh\.overlap must be shorter than half of .*, got 30s; .*such as lifetimes: \{ access: "5s" \}, refresh: \{ overlap: "2s", clientTimeout: "1s" \}$/,
    ],
    [
      "a settle that is too long",
      { refresh: { settle: "2h" } },
      /^refresh\.settle must be at most 1h, got "2h"$/,
    ],
    [
      "a settle that is not a duration",
      { refresh: { settle: "soon" } },
      /^refresh\.settle: "soon" is not a valid duration/,
    ],
    [
      "a clockSkew that is too long",
      { clockSkew: "61s" },
      /^clockSkew must be at most 1m, got "61s"$/,
    ],
    [
      "a clockSkew with a part of a second",
      { clockSkew: "1500ms" },
      /^clockSkew must be a whole number of seconds, the unit of token times, got "1500ms"$/,
    ],
    [
      "a clockSkew that is not a duration",
      { clockSkew: "1" },
      /^clockSkew: "1" is not a valid duration/,
    ],
    [
      "an origin with a trailing slash",
      { origins: ["https://app.example.com/"] },
      /^origins: "https:\/\/app\.example\.com\/" is not an origin as browsers send it; use a value such as/,
    ],
    ["an origin with a path", { origins: ["https://app.example.com/x"] }, /^origins: /],
    ["an origin in capitals", { origins: ["https://App.example.com"] }, /^origins: /],
    ["an origin with the default port", { origins: ["https://app.example.com:443"] }, /^origins: /],
    ["a host as origin", { origins: ["app.example.com"] }, /^origins: /],
    [
      "an origin with a wildcard and a slash",
      { origins: ["https://*.example.com/"] },
      /^origins: /,
    ],
    ["an origin with a wildcard", { origins: ["https://*.example.com"] }, /^origins: /],
    ["* as origin", { origins: ["*"] }, /^origins: "\*" is not/],
    [
      "an app's origin with a trailing slash",
      { origins: ["capacitor://localhost/"] },
      /^origins: /,
    ],
    ["an app's origin with a path", { origins: ["app://bundle/index.html"] }, /^origins: /],
    ["an app's origin in capitals", { origins: ["Capacitor://localhost"] }, /^origins: /],
    ["a scheme without a host", { origins: ["app://"] }, /^origins: /],
    ["a scheme alone", { origins: ["chrome-extension:"] }, /^origins: /],
    ["every extension", { origins: ["chrome-extension://*"] }, /^origins: /],
    ["files", { origins: ["file://"] }, /^origins: "file:\/\/" is not/],
    ["a host and a port as origin", { origins: ["app.example.com:443"] }, /^origins: /],
    ["null as origin", { origins: ["null"] }, /^origins: "null" is not/],
    [
      "a string as origins",
      { origins: "https://app.example.com" },
      /^origins must be an array, got a string/,
    ],
    [
      "insecure cookies with an https issuer",
      { cookies: { insecure: true } },
      /^cookies\.insecure cannot be combined with an https issuer; leave it out$/,
    ],
    [
      "an unknown sameSite",
      { cookies: { sameSite: "sloppy" } },
      /^cookies\.sameSite must be .*, got "sloppy"$/,
    ],
    [
      "an unknown crossSite",
      { crossSite: "off" },
      /^crossSite must be one of "checked", "unchecked", got "off"$/,
    ],
    ["a boolean as crossSite", { crossSite: false }, /^crossSite must be a string, got a boolean/],
    [
      "an unknown antiCsrf",
      { antiCsrf: "on" },
      /^antiCsrf must be one of "off", "token", got "on"$/,
    ],
    ["a boolean as antiCsrf", { antiCsrf: true }, /^antiCsrf must be a string, got a boolean/],
    [
      "a misspelt option in sessionsPerUser",
      { sessionsPerUser: { max: 1, overFlow: "reject" } },
      /^unknown option "overFlow" for sessionsPerUser; the options are max, overflow$/,
    ],
    [
      "a misspelt option in lifetimes",
      { lifetimes: { acess: "5m" } },
      /^unknown option "acess" for lifetimes; /,
    ],
    [
      "a misspelt option in refresh",
      { refresh: { timeout: "1s" } },
      /^unknown option "timeout" for refresh; /,
    ],
    [
      "a misspelt option in keys",
      { keys: { rotate: "30d" } },
      /^unknown option "rotate" for keys; /,
    ],
    [
      "a misspelt option in verifiedCache",
      { verifiedCache: { entry: 0 } },
      /^unknown option "entry" for verifiedCache; /,
    ],
    [
      "a misspelt option in methods, which would remove a demand",
      { methods: { "a.B/C": { fresh: "10m" } } },
      /^unknown option "fresh" for the policy of a\.B\/C in methods; the options are auth, .*freshWithin/,
    ],
    [
      "a string as policy in methods",
      { methods: { "a.B/C": "none" } },
      /^the policy of a\.B\/C in methods must be an object, got string$/,
    ],
    ["undefined in public", { public: [undefined] }, /^public must be a list of generated methods/],
    [
      "a name in public",
      { public: ["notes.v1.NotesService/SignIn"] },
      /^public must be a list of generated methods/,
    ],
    [
      "an unknown auth in methods",
      { methods: { "a.B/C": { auth: "public" } } },
      /^methods: the auth of a\.B\/C must be .*, got "public"$/,
    ],
  ])("%s", (_, wrong, message) => {
    expect(make(wrong)).toThrow(TypeError);
    expect(make(wrong)).toThrow(message);
  });

  it.each<[string, Wrong]>([
    ["only the required options", {}],
    ["http on another host", { issuer: "http://10.0.0.1:8080" }],
    [
      "insecure cookies with http",
      { issuer: "http://localhost:8080", cookies: { insecure: true } },
    ],
    ["an issuer with a path", { issuer: `${issuer}/auth` }],
    ["a secret for a store that keeps none", { store: plainStore(), secret }],
    ["several secrets", { secret: [secret, new Uint8Array(32)] }],
    [
      "the shortest durations",
      {
        lifetimes: { access: "2s", idle: "2s", absolute: "2s" },
        refresh: { overlap: "0.9s", clientTimeout: "800ms", settle: "0s" },
      },
    ],
    [
      "the longest durations",
      { lifetimes: { access: "1h", idle: "400d", absolute: "400d" }, refresh: { settle: "1h" } },
    ],
    ["an origin with a port", { origins: [`${issuer}:8443`] }],
    [
      "pages on another port of this machine",
      { issuer: "http://localhost:8080", origins: ["http://localhost:5173"] },
    ],
    ["no origins", { origins: [] }],
    [
      "pages of apps and extensions",
      {
        origins: [
          ...["capacitor://localhost", "ionic://localhost", "tauri://localhost", "app://."],
          ...["app://bundle:8080", "chrome-extension://aapbdbdomjkkjkaonfhkkikfgjllcleb"],
          "moz-extension://0d3ea0ec-96b5-4d5b-9a2b-8d26e0ddc8ef",
          "safari-web-extension://1C3F5A0E-1F4B-4D4E-9C57-3F7B0C6B7E11",
        ],
      },
    ],
  ])("accepts %s", (_, options) => {
    expect(make(options)).not.toThrow();
  });

  it("does not reveal a secret", () => {
    expect(make({ secret: "hunter2" })).not.toThrow(/hunter2/);
  });

  it("creating sessions opens nothing", () => {
    const { store, calls, listeners } = watchedStore();
    testSessions({ store });
    expect([calls, listeners()]).toEqual([[], 0]);
  });
});

describe("ready and close", () => {
  it("ready opens the store once for many callers", async () => {
    const watched = watchedStore();
    const sessions = testSessions({ store: watched.store });
    await Promise.all([
      sessions.ready(),
      sessions.ready(),
      sessions.issue({ userId: "alice" }),
      sessions.getSession(exchangeOf({ bearer: "junk" })).catch(() => {}),
    ]);
    expect(watched.calls.filter((call) => call === "open")).toHaveLength(1);
    expect(watched.listeners()).toBe(1);
  });

  it.each(["open", "secret", "signingKeys", "addSigningKey", "changes"] as const)(
    "a failure of %s is Unavailable, with its cause, and is tried again",
    async (method) => {
      const watched = watchedStore();
      const sessions = testSessions({ store: watched.store });
      watched.failing.add(method);
      for (let i = 0; i < 3; i++) {
        const error = await sessionErrorOf(sessions.ready());
        expect(error.kind).toBe("unavailable");
        expect(error.message).not.toContain("CANARY");
        expect(String(error.cause)).toContain("CANARY");
      }
      // A store that did not open has no listeners.
      expect(watched.listeners()).toBe(0);
      watched.failing.clear();
      await sessions.ready();
      expect(watched.listeners()).toBe(1);
    },
  );

  it("close closes the store, stops reading the change log and refuses further calls", async () => {
    const watched = watchedStore();
    const clock = createFakeClock();
    const sessions = testSessions({ store: watched.store, clock });
    const { access } = await issueOn(sessions, "header");
    const { session } = await sessions.issue({ userId: "bob" });
    await sessions.close();
    expect(watched.listeners()).toBe(0);
    expect(watched.calls.at(-1)).toBe("close");
    for (const call of [
      () => sessions.getSession(exchangeOf({ bearer: access })),
      () => sessions.issue({ userId: "alice" }),
      () => sessions.ready(),
      () => session.revoke(),
    ]) {
      expect((await sessionErrorOf(call())).kind).toBe("unavailable");
    }
    await expect(sessions.close()).resolves.toBeUndefined();
  });

  it("close works before anything was opened", async () => {
    const watched = watchedStore();
    const sessions = testSessions({ store: watched.store });
    await sessions.close();
    expect(watched.calls).not.toContain("open");
    expect((await sessionErrorOf(sessions.ready())).kind).toBe("unavailable");
  });

  it("close works after a failed open", async () => {
    const watched = watchedStore();
    const sessions = testSessions({ store: watched.store });
    watched.failing.add("open");
    await sessionErrorOf(sessions.ready());
    await expect(sessions.close()).resolves.toBeUndefined();
  });

  it("close waits for writes in the background", async () => {
    const inner = memoryStore();
    const order: string[] = [];
    const confirm: SessionStore["confirm"] = async (...use) => {
      await new Promise((resolve) => setImmediate(resolve));
      order.push("confirmed");
      return await inner.confirm(...use);
    };
    const close = async () => void order.push("closed");
    const sessions = testSessions({ store: { ...inner, confirm, close } });
    const { access } = await issueOn(sessions, "header");
    sessions.clock.advance("61s");
    await sessions.getSession(exchangeOf({ bearer: access }));
    await sessions.close();
    expect(order).toEqual(["confirmed", "closed"]);
  });

  it("a log read that fails after close is not tried again", async () => {
    const inner = memoryStore();
    const reads: ((reason: Error) => void)[] = [];
    const changes: SessionStore["changes"] = (cursor, window) =>
      cursor === undefined
        ? inner.changes(cursor, window)
        : new Promise((_, reject) => reads.push(reject));
    const sessions = testSessions({ store: { ...inner, changes } });
    const { id } = await issueOn(sessions, "header");
    await inner.revoke(id, "revoked");
    expect(reads).toHaveLength(1);
    await sessions.close();
    reads[0]?.(new Error("closed"));
    await new Promise((resolve) => setImmediate(resolve));
    sessions.clock.advance("10s");
    expect(reads).toHaveLength(1);
  });

  it("Symbol.asyncDispose calls close", async () => {
    const watched = watchedStore();
    {
      await using sessions = testSessions({ store: watched.store });
      await sessions.ready();
    }
    expect(watched.calls.at(-1)).toBe("close");
  });
});
