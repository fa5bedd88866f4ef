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
      "issuer missing",
      { issuer: undefined },
      /^issuer must be the URL of this service, such as .*, got undefined$/,
    ],
    ["issuer empty", { issuer: "" }, /^issuer must be .*, got ""$/],
    ["issuer a host", { issuer: "api.example.com" }, /^issuer must be .*, got "api.example.com"$/],
    ["issuer another scheme", { issuer: "ftp://api.example.com" }, /^issuer must be/],
    ["issuer with a query", { issuer: `${issuer}?a=1` }, /^issuer must be/],
    ["issuer with a fragment", { issuer: `${issuer}#a` }, /^issuer must be/],
    [
      "issuer with a user and a password, which the message hides",
      { issuer: "https://user:p/w@api.example.com" },
      /^issuer must be .*, got "https:\/\/\*\*\*@api\.example\.com"$/,
    ],
    ["issuer with a space", { issuer: `${issuer} ` }, /^issuer must be/],
    ["issuer with a line", { issuer: `${issuer}\r\nx: y` }, /^issuer must be/],
    ["issuer with a quote", { issuer: `${issuer}/"` }, /^issuer must be/],
    ["audience empty", { audience: "" }, /^audience must be a non-empty string, got ""$/],
    ["audience no string", { audience: ["a"] }, /^audience must be a string, got an array/],
    ["store missing", { store: undefined }, /^store must be a session store, such as sqliteStore/],
    ["store no store", { store: {} }, /^store must be a session store/],
    ["store a name", { store: "sessions.db" }, /^store must be a session store/],
    [
      "secret missing",
      { store: plainStore() },
      /^secret is missing and plainStore does not keep one; pass at least 32 random bytes/,
    ],
    [
      "secret too short",
      { secret: "x".repeat(31) },
      /^secret must be at least 32 bytes long, got 31; /,
    ],
    ["secret empty", { secret: "" }, /^secret must be at least 32 bytes long, got 0; /],
    [
      "secret, a short one among several",
      { secret: [secret, "short"] },
      /^secret must be at least 32 bytes long, got 5; /,
    ],
    [
      "secret, none among several",
      { secret: [] },
      /^secret must not be an empty list; give at least one secret$/,
    ],
    [
      "secret, short bytes",
      { secret: new Uint8Array(31) },
      /^secret must be at least 32 bytes long, got 31; /,
    ],
    [
      "access no duration",
      { lifetimes: { access: "15 min" } },
      /^lifetimes\.access: "15 min" is not a valid duration; use a value such as "15m"/,
    ],
    [
      "access a number",
      { lifetimes: { access: 900 } },
      /^lifetimes\.access: 900 is not a valid duration/,
    ],
    [
      "access negative",
      { lifetimes: { access: "-1m" } },
      /^lifetimes\.access: "-1m" is not a valid duration/,
    ],
    [
      "access too short",
      { lifetimes: { access: "1s" } },
      /^lifetimes\.access must be at least 2s, got "1s"$/,
    ],
    [
      "access too long",
      { lifetimes: { access: "61m" } },
      /^lifetimes\.access must be at most 1h, got "61m"$/,
    ],
    [
      "absolute shorter than access",
      { lifetimes: { absolute: "10m", idle: "5m" } },
      /^lifetimes\.absolute must be at least .*, got "10m"$/,
    ],
    [
      "absolute longer than a cookie lives",
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
      "overlap no longer than a client waits",
      { refresh: { overlap: "10s" } },
      /^refresh\.overlap must be longer than refresh\.clientTimeout \(10s\), got 10s/,
    ],
    [
      "a client that waits for long",
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
      /^refresh\.overlap must be shorter than half of .*, got 30s/,
    ],
    [
      "settle too long",
      { refresh: { settle: "2h" } },
      /^refresh\.settle must be at most 1h, got "2h"$/,
    ],
    [
      "settle no duration",
      { refresh: { settle: "soon" } },
      /^refresh\.settle: "soon" is not a valid duration/,
    ],
    ["clockSkew too long", { clockSkew: "61s" }, /^clockSkew must be at most 1m, got "61s"$/],
    ["clockSkew no duration", { clockSkew: "1" }, /^clockSkew: "1" is not a valid duration/],
    [
      "origin with a slash",
      { origins: ["https://app.example.com/"] },
      /^origins: "https:\/\/app\.example\.com\/" is not an origin as browsers send it; use a value such as/,
    ],
    [
      "origin with a user and a password, which the message hides",
      { origins: ["https://user:password@app.example.com"] },
      /^origins: "https:\/\/\*\*\*@app\.example\.com" is not an origin/,
    ],
    ["origin with a path", { origins: ["https://app.example.com/x"] }, /^origins: /],
    ["origin in capitals", { origins: ["https://App.example.com"] }, /^origins: /],
    ["origin with the default port", { origins: ["https://app.example.com:443"] }, /^origins: /],
    ["origin a host", { origins: ["app.example.com"] }, /^origins: /],
    ["origin a wildcard", { origins: ["https://*.example.com/"] }, /^origins: /],
    ["origin a wildcard without a slash", { origins: ["https://*.example.com"] }, /^origins: /],
    ["origin *", { origins: ["*"] }, /^origins: "\*" is not/],
    ["origin null", { origins: ["null"] }, /^origins: "null" is not/],
    [
      "origins a string",
      { origins: "https://app.example.com" },
      /^origins must be an array, got a string/,
    ],
    [
      "cookies insecure with https",
      { cookies: { insecure: true } },
      /^cookies\.insecure cannot be combined with an https issuer; leave it out$/,
    ],
    [
      "cookies sameSite",
      { cookies: { sameSite: "sloppy" } },
      /^cookies\.sameSite must be .*, got "sloppy"$/,
    ],
    [
      "crossSite no choice",
      { crossSite: "off" },
      /^crossSite must be one of "checked", "unchecked", got "off"$/,
    ],
    ["crossSite a boolean", { crossSite: false }, /^crossSite must be a string, got a boolean/],
    [
      "antiCsrf no choice",
      { antiCsrf: "on" },
      /^antiCsrf must be one of "off", "token", got "on"$/,
    ],
    ["antiCsrf a boolean", { antiCsrf: true }, /^antiCsrf must be a string, got a boolean/],
    [
      "sessionsPerUser, a slip",
      { sessionsPerUser: { max: 1, overFlow: "reject" } },
      /^unknown option "overFlow" for sessionsPerUser; the options are max, overflow$/,
    ],
    [
      "lifetimes, a slip",
      { lifetimes: { acess: "5m" } },
      /^unknown option "acess" for lifetimes; /,
    ],
    ["refresh, a slip", { refresh: { timeout: "1s" } }, /^unknown option "timeout" for refresh; /],
    ["keys, a slip", { keys: { rotate: "30d" } }, /^unknown option "rotate" for keys; /],
    [
      "verifiedCache, a slip",
      { verifiedCache: { entry: 0 } },
      /^unknown option "entry" for verifiedCache; /,
    ],
    [
      "methods, a slip that would ask for nothing",
      { methods: { "a.B/C": { fresh: "10m" } } },
      /^unknown option "fresh" for the policy of a\.B\/C in methods; the options are auth, .*freshWithin/,
    ],
    [
      "methods, a word for a policy",
      { methods: { "a.B/C": "none" } },
      /^the policy of a\.B\/C in methods must be an object, got string$/,
    ],
    ["public undefined", { public: [undefined] }, /^public must list generated methods/],
    [
      "public a name",
      { public: ["notes.v1.NotesService/SignIn"] },
      /^public must list generated methods/,
    ],
    [
      "methods, auth no word",
      { methods: { "a.B/C": { auth: "public" } } },
      /^methods: the auth of a\.B\/C must be .*, got "public"$/,
    ],
  ])("%s", (_, wrong, message) => {
    expect(make(wrong)).toThrow(TypeError);
    expect(make(wrong)).toThrow(message);
  });

  it.each<[string, Wrong]>([
    ["nothing else", {}],
    ["http on another host", { issuer: "http://10.0.0.1:8080" }],
    [
      "insecure cookies with http",
      { issuer: "http://localhost:8080", cookies: { insecure: true } },
    ],
    ["an issuer with a path", { issuer: `${issuer}/auth` }],
    ["a secret for a store that keeps none", { store: plainStore(), secret }],
    ["several secrets", { secret: [secret, new Uint8Array(32)] }],
    [
      "the shortest",
      {
        lifetimes: { access: "2s", idle: "2s", absolute: "2s" },
        refresh: { overlap: "0.9s", clientTimeout: "800ms", settle: "0s" },
      },
    ],
    [
      "the longest",
      { lifetimes: { access: "1h", idle: "400d", absolute: "400d" }, refresh: { settle: "1h" } },
    ],
    ["an origin with a port", { origins: [`${issuer}:8443`] }],
    [
      "pages on another port of this machine",
      { issuer: "http://localhost:8080", origins: ["http://localhost:5173"] },
    ],
    ["no origins", { origins: [] }],
  ])("takes %s", (_, options) => {
    expect(make(options)).not.toThrow();
  });

  it("does not reveal a secret", () => {
    expect(make({ secret: "hunter2" })).not.toThrow(/hunter2/);
  });

  it("opens nothing", () => {
    const { store, calls, listeners } = watchedStore();
    testSessions({ store });
    expect([calls, listeners()]).toEqual([[], 0]);
  });
});

describe("ready and close", () => {
  it("opens once, however many callers wait", async () => {
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

  it("close ends the store, the feed, and every call", async () => {
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

  it("close before anything was opened", async () => {
    const watched = watchedStore();
    const sessions = testSessions({ store: watched.store });
    await sessions.close();
    expect(watched.calls).not.toContain("open");
    expect((await sessionErrorOf(sessions.ready())).kind).toBe("unavailable");
  });

  it("close after a failure", async () => {
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

  it("Symbol.asyncDispose is close", async () => {
    const watched = watchedStore();
    {
      await using sessions = testSessions({ store: watched.store });
      await sessions.ready();
    }
    expect(watched.calls.at(-1)).toBe("close");
  });
});
