import { connect as connect2, createServer as createServer2 } from "node:http2";
import { type AddressInfo, connect as connectSocket } from "node:net";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import type { SessionError, SessionEvent } from "rpc-session";
import {
  type BackChannelLogoutOptions,
  backChannelLogoutFallback,
  backChannelLogoutHandler,
} from "rpc-session/http";
import { memoryStore } from "rpc-session/stores/memory";
import { createFakeClock, testSessions } from "rpc-session/testing";
import { describe, expect, it, onTestFinished } from "vitest";
import { generateSigningKey, importSigningKey } from "../../src/jwt/keys.ts";
import { exchangeOf } from "../helpers/exchanges.ts";
import { listenForTest } from "../helpers/listen.ts";
import { notesApp } from "../helpers/notes.ts";
import { sorted } from "../helpers/sorted.ts";
import { watchedStore } from "../helpers/watched-store.ts";
import { forge } from "../jwt/fixture.ts";

const issuer = "https://login.example.com";
const path = "/backchannel-logout";
const url = `https://api.example.com${path}`;
const { privateJwk, publicJwk } = await generateSigningKey("ES256");
const signing = await importSigningKey(privateJwk);
const jwks = { keys: [publicJwk] };

/** Two servers on one store, and a provider. */
function createWorld(given: Partial<BackChannelLogoutOptions> = {}) {
  const { store, failing } = watchedStore();
  const clock = createFakeClock();
  const sessionEvents: SessionEvent[] = [];
  const options = { store, clock, secret: "a secret of at least 32 bytes, for tests" };
  const sessions = testSessions({ ...options, onEvent: (event) => sessionEvents.push(event) });
  const other = testSessions(options);
  const events: SessionEvent[] = [];
  const logout = {
    ...{ issuer, clientId: "notes", jwks, clock },
    onEvent: (event: SessionEvent) => events.push(event),
    ...given,
  };
  let tokens = 0;
  const tokenOf = async (changed: object): Promise<string> => {
    const iat = Math.floor(clock.now() / 1000);
    const events = { "http://schemas.openid.net/event/backchannel-logout": {} };
    const payload = { iss: issuer, aud: "notes", iat, exp: iat + 120, jti: `t${++tokens}`, events };
    const header = { alg: "ES256", kid: signing.kid, typ: "logout+jwt" };
    return forge(header, { ...payload, ...changed }, signing);
  };
  const signIn = async (sid?: string, sub?: string, userId = "alice") => {
    const { session, tokens } = await sessions.issue({
      userId,
      ...(sid === undefined && sub === undefined ? {} : { externalId: { issuer, sid, sub } }),
    });
    return { id: session.id, bearer: tokens.accessToken };
  };
  const reasonAt = (server: typeof sessions, bearer: string): Promise<string | undefined> =>
    server.getSession(exchangeOf({ bearer })).then(
      () => undefined,
      (error: SessionError) => error.reason,
    );
  return {
    sessions,
    other,
    events,
    sessionEvents,
    clock,
    failing,
    logout,
    tokenOf,
    signIn,
    reasonAt,
  };
}

function post(token: string | readonly string[], init: RequestInit = {}): Request {
  const body = new URLSearchParams([token].flat().map((one) => ["logout_token", one]));
  return new Request(url, { method: "POST", body, ...init });
}

describe("feat:G10 feat:A14 backChannelLogoutHandler", () => {
  it("ends the sessions with the sid of the token, on every server, with a reason", async () => {
    const world = createWorld();
    const handle = backChannelLogoutHandler(world.sessions, world.logout);
    const [first, second, plain] = [
      await world.signIn("sid-1", "sub-1"),
      await world.signIn("sid-2", "sub-1"),
      await world.signIn(),
    ];
    expect(await world.reasonAt(world.other, first.bearer)).toBeUndefined();
    const response = await handle(post(await world.tokenOf({ sid: "sid-1", sub: "sub-1" })));
    expect([response?.status, await response?.text()]).toEqual([200, ""]);
    expect(response?.headers.get("cache-control")).toBe("no-store");
    for (const server of [world.sessions, world.other]) {
      expect(await world.reasonAt(server, first.bearer)).toBe("SESSION_REVOKED");
      expect(await world.reasonAt(server, second.bearer)).toBeUndefined();
      expect(await world.reasonAt(server, plain.bearer)).toBeUndefined();
    }
    expect(world.sessionEvents.filter(({ type }) => type === "revoked")).toEqual([
      { type: "revoked", sessionId: first.id, endedBy: "externalLogout" },
    ]);
    expect(world.events).toEqual([]);
  });

  it("ends all sessions of a sub if the token has no sid, of all users and tenants", async () => {
    const world = createWorld();
    const handle = backChannelLogoutHandler(world.sessions, world.logout);
    const ours = [
      await world.signIn("sid-1", "sub-1"),
      await world.signIn(undefined, "sub-1", "bob"),
    ];
    const others = [await world.signIn("sid-3", "sub-2"), await world.signIn("sub-1", undefined)];
    expect((await handle(post(await world.tokenOf({ sub: "sub-1" }))))?.status).toBe(200);
    for (const { bearer } of ours) {
      expect(await world.reasonAt(world.other, bearer)).toBe("SESSION_REVOKED");
    }
    for (const { bearer } of others) {
      expect(await world.reasonAt(world.other, bearer)).toBeUndefined();
    }
  });

  it("ends a session without a sid by the sub of a token that has both", async () => {
    const world = createWorld();
    const handle = backChannelLogoutHandler(world.sessions, world.logout);
    const [bySub, bySid] = [
      await world.signIn(undefined, "sub-1"),
      await world.signIn("sid-2", "sub-1"),
    ];
    await handle(post(await world.tokenOf({ sid: "sid-1", sub: "sub-1" })));
    expect(await world.reasonAt(world.sessions, bySub.bearer)).toBe("SESSION_REVOKED");
    expect(await world.reasonAt(world.sessions, bySid.bearer)).toBeUndefined();
  });

  it("responds with 200 if there is no such session, or it has ended", async () => {
    const world = createWorld();
    const handle = backChannelLogoutHandler(world.sessions, world.logout);
    const { id } = await world.signIn("sid-1");
    await world.sessions.revoke(id);
    for (const sid of ["sid-1", "unknown", "'; drop table", "*"]) {
      expect((await handle(post(await world.tokenOf({ sid }))))?.status).toBe(200);
    }
  });

  it("sec:J20 responds with 400 and an error to an invalid token, which ends nothing", async () => {
    const world = createWorld();
    const handle = backChannelLogoutHandler(world.sessions, world.logout);
    const { bearer } = await world.signIn("sid-1", "sub-1");
    const response = await handle(post(await world.tokenOf({ sid: "sid-1", aud: "mallory" })));
    expect(response?.status).toBe(400);
    expect(Object.fromEntries(response?.headers ?? [])).toEqual({
      "cache-control": "no-store",
      "content-type": "application/json",
    });
    const why = "The aud of the logout token is not the configured client id.";
    expect(await response?.json()).toEqual({ error: "invalid_request", error_description: why });
    expect(world.events).toEqual([{ type: "logoutRefused", why }]);
    expect(await world.reasonAt(world.sessions, bearer)).toBeUndefined();
  });

  it("sec:V11 ends sessions once by one token, so a copy does not end those of a later sign-in", async () => {
    const world = createWorld();
    const handle = backChannelLogoutHandler(world.sessions, world.logout);
    const token = await world.tokenOf({ sub: "sub-1" });
    const answers = await Promise.all([handle(post(token)), handle(post(token))]);
    expect(sorted(answers.map((answer) => answer?.status))).toEqual([200, 400]);
    const { bearer } = await world.signIn("sid-9", "sub-1");
    world.clock.advance("119s");
    expect((await handle(post(token)))?.status).toBe(400);
    expect(await world.reasonAt(world.sessions, bearer)).toBeUndefined();
    // Afterwards it is refused because it has expired.
    world.clock.advance("2h");
    const late = await (await handle(post(token)))?.text();
    expect(late).toContain("expired");
  });

  it("sec:V11 remembers 10,000 tokens, and forgets the oldest beyond that", async () => {
    let ended = 0;
    const world = createWorld();
    const target = {
      revokeAll: async () => {
        ended++;
        return [];
      },
    };
    const handle = backChannelLogoutHandler(target, world.logout);
    const first = await world.tokenOf({ sub: "sub-1" });
    const second = await world.tokenOf({ sub: "sub-1" });
    const status = async (token: string) => (await handle(post(token)))?.status;
    expect([await status(first), await status(second)]).toEqual([200, 200]);
    for (let count = 2; count < 10_000; count++) {
      await status(await world.tokenOf({ sub: "sub-1" }));
    }
    expect(ended).toBe(10_000);
    expect(await status(first)).toBe(400);
    expect(await status(await world.tokenOf({ sub: "sub-1" }))).toBe(200);
    expect(await status(first)).toBe(200);
  }, 60_000);

  it("responds with 503 in an outage of the store, and the same token works afterwards", async () => {
    const world = createWorld();
    const handle = backChannelLogoutHandler(world.sessions, world.logout);
    const { bearer } = await world.signIn("sid-1");
    world.failing.add("revokeAll");
    const token = await world.tokenOf({ sid: "sid-1" });
    const response = await handle(post(token));
    expect([response?.status, response?.headers.get("retry-after")]).toEqual([503, "1"]);
    expect(response?.headers.get("cache-control")).toBe("no-store");
    expect(await response?.json()).toMatchObject({ error: "temporarily_unavailable" });
    expect(world.events).toMatchObject([{ type: "failed", error: { kind: "unavailable" } }]);
    world.failing.clear();
    expect((await handle(post(token)))?.status).toBe(200);
    expect(await world.reasonAt(world.sessions, bearer)).toBe("SESSION_REVOKED");
  });

  it("responds with 503 if the keys of the provider cannot be fetched, and works again afterwards", async () => {
    let [status, asked] = [500, 0];
    const keys = await listenForTest((_request, response) => {
      asked++;
      response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(jwks));
    });
    const world = createWorld({ jwks: `${keys}/jwks` });
    const handle = backChannelLogoutHandler(world.sessions, world.logout);
    const { bearer } = await world.signIn("sid-1");
    const token = await world.tokenOf({ sid: "sid-1" });
    const first = await handle(post(token));
    expect([first?.status, first?.headers.get("retry-after")]).toEqual([503, "30"]);
    expect(await world.reasonAt(world.sessions, bearer)).toBeUndefined();
    // At most one request in 30 s, however many tokens arrive.
    expect((await handle(post(token)))?.status).toBe(503);
    expect(asked).toBe(1);
    status = 200;
    world.clock.advance("30s");
    expect((await handle(post(token)))?.status).toBe(200);
    expect(await world.reasonAt(world.sessions, bearer)).toBe("SESSION_REVOKED");
  });

  it("accepts a token under a key that the provider has added meanwhile", async () => {
    const next = await generateSigningKey("ES256");
    const published = [next.publicJwk];
    const keys = await listenForTest((_request, response) =>
      response.writeHead(200).end(JSON.stringify({ keys: published })),
    );
    const world = createWorld({ jwks: new URL(`${keys}/jwks`) });
    const handle = backChannelLogoutHandler(world.sessions, world.logout);
    expect((await handle(post(await world.tokenOf({ sid: "sid-1" }))))?.status).toBe(400);
    published.push(publicJwk);
    world.clock.advance("31s");
    expect((await handle(post(await world.tokenOf({ sid: "sid-1" }))))?.status).toBe(200);
  });

  it("sec:V11 reads only a form with one logout_token of at most 16 KiB; ignores other fields", async () => {
    const world = createWorld();
    const handle = backChannelLogoutHandler(world.sessions, world.logout);
    const token = await world.tokenOf({ sid: "sid-1" });
    const form = "application/x-www-form-urlencoded";
    const json = JSON.stringify({ logout_token: token });
    const bad: RequestInit[] = [
      { body: "", headers: { "content-type": form } },
      { body: `x=${token}`, headers: { "content-type": form } },
      { body: `logout_token=${token}&logout_token=${token}`, headers: { "content-type": form } },
      { body: json, headers: { "content-type": "application/json" } },
      { body: `logout_token=${token}`, headers: { "content-type": "text/plain" } },
      { body: `logout_token=${token}`, headers: { "content-type": `${form}x` } },
      { body: `logout_token=${token}&x=${"x".repeat(16_384)}`, headers: { "content-type": form } },
    ];
    for (const init of bad) {
      const response = await handle(new Request(url, { method: "POST", ...init }));
      expect(response?.status, JSON.stringify(init).slice(0, 60)).toBe(400);
    }
    const body = `x=1&logout_token=${token}`;
    const headers = { "content-type": `${form}; charset=utf-8` };
    expect((await handle(new Request(url, { method: "POST", body, headers })))?.status).toBe(200);
  });

  it("leaves other paths to others, and refuses other methods", async () => {
    const world = createWorld({ path: "/logout" });
    const handle = backChannelLogoutHandler(world.sessions, world.logout);
    expect(await handle(post(await world.tokenOf({ sid: "sid-1" })))).toBeUndefined();
    for (const method of ["GET", "HEAD", "PUT", "OPTIONS"]) {
      const response = await handle(new Request("https://api.example.com/logout?a=b", { method }));
      expect([response?.status, response?.headers.get("allow")]).toEqual([405, "POST"]);
    }
  });

  it("sec:V10 names no token and no id in events and answers, and limits the events of one cause", async () => {
    const world = createWorld();
    const handle = backChannelLogoutHandler(world.sessions, world.logout);
    let said = "";
    for (let index = 0; index < 30; index++) {
      const response = await handle(
        post(await world.tokenOf({ sid: "CANARY-sid", sub: "CANARY-sub", nonce: "CANARY-nonce" })),
      );
      said += await response?.text();
    }
    world.clock.advance("1s");
    expect(world.events).toHaveLength(11);
    expect(world.events.at(-1)).toMatchObject({ type: "omitted", of: "logoutRefused", count: 20 });
    expect(said + JSON.stringify(world.events)).not.toContain("CANARY");
  });

  it.each<[string, object, RegExp]>([
    ["a path without a slash", { path: "logout" }, /^path must begin with/],
    ["no issuer", { issuer: undefined }, /^issuer must be a string/],
    ["an issuer that no externalId can have", { issuer: "a b" }, /^issuer must not contain spaces/],
    ["no client id", { clientId: [] }, /^clientId must be/],
    ["an empty client id", { clientId: "" }, /^clientId must be/],
    ["keys by http", { jwks: "http://login.example.com/jwks" }, /^jwks must be an https URL/],
    ["no keys", { jwks: {} }, /^JWK set/],
    ["the algorithm none", { algorithms: ["none"] }, /^algorithms must be a list/],
    ["a shared secret", { algorithms: ["HS256"] }, /^algorithms must be a list/],
    ["no algorithm", { algorithms: [] }, /^algorithms must be a list/],
    ["an unknown leniency", { allow: ["everything"] }, /^allow must be a list of untyped, without/],
    ["an unknown option", { audience: "notes" }, /^unknown option "audience"/],
    ["a long clock skew", { clockSkew: "5m" }, /^clockSkew must be at most/],
  ])("throws for %s", (_, wrong, message) => {
    const { sessions, logout } = createWorld();
    expect(() => backChannelLogoutHandler(sessions, { ...logout, ...wrong })).toThrow(message);
    expect(() => backChannelLogoutFallback(sessions, { ...logout, ...wrong })).toThrow(TypeError);
  });

  it("throws without sessions", () => {
    const { logout } = createWorld();
    expect(() => backChannelLogoutHandler({} as never, logout)).toThrow(/createSessions returned/);
  });
});

describe("feat:G10 backChannelLogoutFallback", () => {
  const form = { "content-type": "application/x-www-form-urlencoded" };

  it("works with connectNodeAdapter over HTTP/1.1 and HTTP/2", async () => {
    const { sessions, logout, tokenOf, signIn, reasonAt } = createWorld();
    const adapter = connectNodeAdapter({
      ...sessions.protect({ routes: notesApp(sessions).routes }),
      fallback: backChannelLogoutFallback(sessions, logout),
    });
    const base = await listenForTest(adapter);
    const [first, second] = [await signIn("sid-1"), await signIn("sid-2")];
    const body = new URLSearchParams({ logout_token: await tokenOf({ sid: "sid-1" }) });
    const response = await fetch(`${base}${path}`, { method: "POST", body });
    expect([response.status, response.headers.get("cache-control")]).toEqual([200, "no-store"]);
    expect(await reasonAt(sessions, first.bearer)).toBe("SESSION_REVOKED");
    expect((await fetch(`${base}/else`, { method: "POST", body })).status).toBe(404);
    const other = `logout_token=${await tokenOf({ sid: "sid-2" })}`;
    expect(await postHttp2(adapter, other)).toBe(200);
    expect(await reasonAt(sessions, second.bearer)).toBe("SESSION_REVOKED");
  });

  it("answers a form that is too long while it is still being sent", async () => {
    const { sessions, logout } = createWorld();
    const base = await listenForTest(backChannelLogoutFallback(sessions, logout));
    const socket = connectSocket(Number(new URL(base).port), "127.0.0.1");
    onTestFinished(() => void socket.destroy());
    socket.write(
      `POST ${path} HTTP/1.1\r\nhost: x\r\ncontent-type: ${form["content-type"]}\r\ncontent-length: 99999999\r\n\r\n${"x".repeat(20_000)}`,
    );
    const [head] = (await once(socket)).toString().split("\r\n");
    expect(head).toBe("HTTP/1.1 400 Bad Request");
  });

  it("works in front of other middleware, and behind a parser of forms", async () => {
    const { sessions, logout, tokenOf } = createWorld();
    const fallback = backChannelLogoutFallback(sessions, logout);
    let parsed: unknown;
    const base = await listenForTest((request, response) => {
      const read = async () => {
        if (request.url?.includes("parsed")) {
          for await (const _ of request) {
            // As express.urlencoded() does, which leaves nothing to read.
          }
          Object.assign(request, { body: parsed });
        }
        fallback(request, response, () => response.writeHead(418).end());
      };
      void read();
    });
    const status = async (query: string, body = "x=1") =>
      (await fetch(`${base}${query}`, { method: "POST", body, headers: form })).status;
    expect(await status("/else")).toBe(418);
    const token = await tokenOf({ sid: "sid-1" });
    for (const [value, expected] of [
      [{}, 400],
      [{ logout_token: [token, token] }, 400],
      [{ logout_token: { a: 1 } }, 400],
      [{ logout_token: token }, 200],
      [`logout_token=${await tokenOf({ sid: "sid-1" })}`, 200],
      [Buffer.from(`logout_token=${await tokenOf({ sid: "sid-1" })}`), 200],
    ] as const) {
      parsed = value;
      expect(await status(`${path}?parsed`)).toBe(expected);
    }
    expect((await fetch(`${base}${path}`)).status).toBe(405);
  });

  it("ends the sessions of a memory store of its own", async () => {
    const clock = createFakeClock();
    const sessions = testSessions({ store: memoryStore(), clock });
    const { logout, tokenOf } = createWorld();
    const externalId = { issuer, sub: "sub-1" };
    const { session } = await sessions.issue({ userId: "alice", externalId });
    expect((await session.info()).externalId).toEqual(externalId);
    const base = await listenForTest(backChannelLogoutFallback(sessions, logout));
    const body = new URLSearchParams({ logout_token: await tokenOf({ sub: "sub-1" }) });
    await fetch(`${base}${path}`, { method: "POST", body });
    expect(await sessions.find(session.id)).toBeUndefined();
  });
});

function once(socket: ReturnType<typeof connectSocket>): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    socket.once("data", resolve).once("error", reject);
  });
}

async function postHttp2(
  listener: Parameters<typeof createServer2>[1] & object,
  body: string,
): Promise<number | undefined> {
  const server = createServer2(listener);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const client = connect2(`http://127.0.0.1:${(server.address() as AddressInfo).port}`);
  onTestFinished(() => {
    client.destroy();
    server.close();
  });
  const stream = client.request({
    ...{ ":path": path, ":method": "POST" },
    "content-type": "application/x-www-form-urlencoded",
  });
  stream.end(body);
  return new Promise((resolve, reject) => {
    stream.once("response", (headers) => resolve(headers[":status"]));
    stream.once("error", reject);
  });
}
