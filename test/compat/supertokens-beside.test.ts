// SDKs of SuperTokens and clients of rpc-session on one server, as docs/supertokens.md describes it.
import { createClient } from "@connectrpc/connect";
import { connectNodeAdapter, createConnectTransport } from "@connectrpc/connect-node";
import { type ClientTokens, cookieTokens, createSessionClient } from "rpc-session/client";
import { superTokens } from "rpc-session/compat/supertokens";
import { fromFetch, fromNode } from "rpc-session/http";
import { testSessions } from "rpc-session/testing";
import { describe, expect, it } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { listenForTest } from "../helpers/listen.ts";
import { send } from "../helpers/send.ts";

const issuer = "https://test.example";
const former = { "st-auth-mode": "header", "content-type": "application/json" };

async function world(
  options: { readonly browserHeaderTransport?: boolean; readonly antiCsrf?: "token" } = {},
) {
  const sessions = testSessions({ public: [NotesService.method.signIn], ...options });
  const rpcs = connectNodeAdapter(
    sessions.protect({
      routes: (router) =>
        router.service(NotesService, {
          async signIn({ user }, ctx) {
            await sessions.create(ctx, { userId: user });
            return {};
          },
          listNotes: (_, ctx) => ({ notes: [{ text: sessions.require(ctx).userId }] }),
        }),
    }),
  );
  // The former system: a list of its sessions, each of which can be traded once.
  const old = new Map([["old-session", "ada"]]);
  const url = await listenForTest(
    superTokens(sessions, { issuer }).node((req, res) => {
      if (req.url !== "/trade") {
        rpcs(req, res);
        return;
      }
      const handle = String(req.headers["x-old"]);
      const userId = old.get(handle);
      if (userId === undefined) {
        res.writeHead(401).end();
        return;
      }
      const externalId = { issuer: "supertokens", sid: handle };
      void sessions.create(fromNode(req, res), { userId, externalId }).then(() => {
        old.delete(handle);
        res.writeHead(204).end();
      });
    }),
  );
  const call = (path: string, headers: Record<string, string> = {}, body = {}) =>
    send(url + path, {
      method: "POST",
      headers: { ...former, ...headers },
      body: JSON.stringify(body),
    });
  const list = (token: string | null) =>
    call("/notes.v1.NotesService/ListNotes", { authorization: `Bearer ${token}` });
  return { sessions, url, call, list };
}

const list = "/notes.v1.NotesService/ListNotes";
const browser = { origin: issuer, "sec-fetch-site": "same-origin" };
/** Requests of an SDK, and of rpc-session's client, from one browser. */
const sdk = { ...browser, "st-auth-mode": "cookie", rid: "session" };
const own = { ...browser, "rpcsession-transport": "cookie", "content-type": "application/json" };

/** Which client a response tells of the session. */
const kindsOf = ({ headers }: Response) => [
  ...(headers.has("rpcsession-session") ? ["own"] : []),
  ...(headers.has("front-token") ? ["sdk"] : []),
];

/** The user that a response names to the SDK. */
function userOf({ headers }: Response): string | undefined {
  const token = headers.get("front-token");
  return token === null ? undefined : JSON.parse(Buffer.from(token, "base64").toString()).uid;
}

/** A browser with pages of both kinds. */
async function cookieWorld(options: Parameters<typeof world>[0] = {}) {
  const { sessions, url } = await world(options);
  const cookies = new Map<string, string>();
  const as = async (path: string, headers: Record<string, string>, body = {}) => {
    const cookie = [...cookies].map((pair) => pair.join("=")).join("; ");
    const response = await send(url + path, {
      method: "POST",
      headers: { "content-type": "application/json", ...headers, cookie },
      body: JSON.stringify(body),
    });
    for (const line of response.headers.getSetCookie()) {
      const [, name = "", value = ""] = /^([^=]+)=([^;]*)/.exec(line) ?? [];
      cookies.set(name, value);
    }
    return response;
  };
  return { sessions, as, cookies };
}

/** A client of rpc-session that keeps its tokens in memory. */
function ownClient(baseUrl: string) {
  const session = createSessionClient({
    transport: (parts) => createConnectTransport({ baseUrl, httpVersion: "1.1", ...parts }),
  });
  return { session, notes: createClient(NotesService, session.transport) };
}

describe("feat:P20 SDKs of SuperTokens beside clients of rpc-session", () => {
  it("both kinds of client use one server and one store, and one call ends all sessions of a user", async () => {
    const { sessions, url, call, list } = await world();
    const signedIn = await call("/notes.v1.NotesService/SignIn", {}, { user: "ada" });
    const own = ownClient(url);
    await own.notes.signIn({ user: "ada" });
    expect((await list(signedIn.headers.get("st-access-token"))).status).toBe(200);
    expect((await own.notes.listNotes({})).notes[0]?.text).toBe("ada");

    sessions.clock.advance("20m");
    const refresh = { authorization: `Bearer ${signedIn.headers.get("st-refresh-token")}` };
    const refreshed = await call("/auth/session/refresh", { ...refresh, rid: "session" });
    const token = refreshed.headers.get("st-access-token");
    expect((await list(token)).status).toBe(200);
    expect((await own.notes.listNotes({})).notes[0]?.text).toBe("ada");

    await sessions.revokeAll({ userId: "ada" });
    expect((await list(token)).status).toBe(401);
    await expect(own.notes.listNotes({})).rejects.toThrow();
  });

  it("a handler trades a session of SuperTokens once, for one that the SDK uses", async () => {
    const { call, list } = await world();
    const traded = await call("/trade", { "x-old": "old-session" });
    expect(traded.status).toBe(204);
    expect((await list(traded.headers.get("st-access-token"))).status).toBe(200);
    expect((await call("/trade", { "x-old": "old-session" })).status).toBe(401);
  });

  it("a page in header mode moves to our client with the tokens that the SDK kept", async () => {
    const { sessions, url, call } = await world();
    const signedIn = await call("/notes.v1.NotesService/SignIn", {}, { user: "ada" });
    const accessToken = signedIn.headers.get("st-access-token") ?? "";
    const refreshToken = signedIn.headers.get("st-refresh-token") ?? "";
    const payload = JSON.parse(
      Buffer.from(accessToken.split(".")[1] ?? "", "base64url").toString(),
    );
    let kept: ClientTokens | undefined = {
      ...{ session: payload.sid, user: payload.sub, realm: payload.iss },
      ...{ accessToken, refreshToken, generation: payload.gen, claimsVersion: payload.cv },
      ...{ expiresAt: payload.exp, expiresIn: 0, receivedAt: Date.now() },
    };
    const session = createSessionClient({
      transport: (parts) => createConnectTransport({ baseUrl: url, httpVersion: "1.1", ...parts }),
      tokens: {
        transport: "header",
        load: () => kept,
        save: (tokens) => {
          kept = tokens;
        },
      },
    });
    expect((await session.load()).status).toBe("signedIn");
    const notes = createClient(NotesService, session.transport);
    expect((await notes.listNotes({})).notes[0]?.text).toBe("ada");
    sessions.clock.advance("20m");
    expect((await notes.listNotes({})).notes[0]?.text).toBe("ada");
    expect(kept?.session).toBe(payload.sid);
    expect(kept?.accessToken).not.toBe(accessToken);
  });

  it("a page in cookie mode moves to our client with the cookies that it has", async () => {
    const { url, call } = await world();
    const page = { "st-auth-mode": "cookie", origin: issuer, "sec-fetch-site": "same-origin" };
    const signedIn = await call("/notes.v1.NotesService/SignIn", page, { user: "ada" });
    const cookies = signedIn.headers.getSetCookie().map((line) => line.split(";")[0]);
    const session = createSessionClient({
      transport: ({ interceptors }) =>
        createConnectTransport({
          ...{ baseUrl: url, httpVersion: "1.1" },
          interceptors: [
            ...interceptors,
            // What the browser adds.
            (next) => (request) => {
              request.header.set("cookie", cookies.join("; "));
              request.header.set("origin", issuer);
              request.header.set("sec-fetch-site", "same-origin");
              return next(request);
            },
          ],
        }),
      tokens: cookieTokens(),
    });
    expect(await session.load()).toMatchObject({ status: "signedIn", userId: "ada" });
    const notes = createClient(NotesService, session.transport);
    expect((await notes.listNotes({})).notes[0]?.text).toBe("ada");
  });

  it("in headers each kind has a session of its own, which only that kind refreshes and ends", async () => {
    const { sessions, url, call, list } = await world();
    const signedIn = await call("/notes.v1.NotesService/SignIn", {}, { user: "ada" });
    const own = ownClient(url);
    await own.notes.signIn({ user: "ada" });
    expect((await sessions.list({ userId: "ada" })).sessions).toHaveLength(2);

    sessions.clock.advance("20m");
    await own.notes.listNotes({});
    await own.session.signOut();
    expect((await sessions.list({ userId: "ada" })).sessions).toHaveLength(1);
    const refresh = { authorization: `Bearer ${signedIn.headers.get("st-refresh-token")}` };
    const refreshed = await call("/auth/session/refresh", { ...refresh, rid: "session" });
    expect((await list(refreshed.headers.get("st-access-token"))).status).toBe(200);
    // A stray header of the other kind changes the form of an answer, never the session.
    const mixed = await call("/notes.v1.NotesService/ListNotes", {
      ...{ authorization: `Bearer ${refreshed.headers.get("st-access-token")}` },
      "rpcsession-session": "signedOut",
    });
    expect(mixed.status).toBe(200);
    expect(mixed.headers.has("front-token")).toBe(false);
  });

  it("in one browser with cookies both kinds follow one session, each by its own headers", async () => {
    const { sessions, as } = await cookieWorld();
    expect(kindsOf(await as("/notes.v1.NotesService/SignIn", sdk, { user: "ada" }))).toEqual([
      "sdk",
    ]);
    for (let i = 0; i < 3; i++) {
      // Each refreshes the session that the other one has refreshed before.
      sessions.clock.advance("20m");
      const byOwn = await as("/rpcsession.v1.SessionService/Refresh", own);
      expect([byOwn.status, ...kindsOf(byOwn)]).toEqual([200, "own"]);
      expect((await as(list, sdk)).status).toBe(200);
      sessions.clock.advance("20m");
      const bySdk = await as("/auth/session/refresh", sdk);
      expect([bySdk.status, ...kindsOf(bySdk)]).toEqual([200, "sdk"]);
      expect((await as(list, own)).status).toBe(200);
    }
    expect((await sessions.list({ userId: "ada" })).sessions).toHaveLength(1);
  });

  it("in cookies, a sign-out by either kind ends the session for both", async () => {
    for (const [path, headers, other] of [
      ["/auth/signout", sdk, own],
      ["/rpcsession.v1.SessionService/SignOut", own, sdk],
    ] as const) {
      const { sessions, as } = await cookieWorld();
      await as("/notes.v1.NotesService/SignIn", other, { user: "ada" });
      expect((await as(path, headers)).status).toBe(200);
      expect((await as(list, other)).status).toBe(401);
      expect((await sessions.list({ userId: "ada" })).sessions).toEqual([]);
    }
  });

  it("in cookies, an anti-CSRF token of either kind is valid until the session ends", async () => {
    const { sessions, as } = await cookieWorld({ antiCsrf: "token" });
    const signedIn = await as("/notes.v1.NotesService/SignIn", sdk, { user: "ada" });
    const bySdk = { ...sdk, "anti-csrf": signedIn.headers.get("anti-csrf") ?? "" };
    const loaded = await as("/rpcsession.v1.SessionService/Refresh", own, { onlyIfNeeded: true });
    const byOwn = { ...own, "rpcsession-csrf": loaded.headers.get("rpcsession-csrf") ?? "" };
    for (const [path, headers] of [
      ["/rpcsession.v1.SessionService/Refresh", byOwn],
      ["/auth/session/refresh", bySdk],
    ] as const) {
      sessions.clock.advance("20m");
      expect((await as(path, headers)).status).toBe(200);
      expect([(await as(list, byOwn)).status, (await as(list, bySdk)).status]).toEqual([200, 200]);
      // Neither kind is served without one.
      expect([(await as(list, own)).status, (await as(list, sdk)).status]).toEqual([401, 401]);
    }
  });

  it("in cookies, the next call of an SDK tells it that our client has changed the session", async () => {
    const { as, cookies } = await cookieWorld();
    const signedIn = await as("/notes.v1.NotesService/SignIn", sdk, { user: "ada" });
    expect(userOf(signedIn)).toBe("ada");

    // 1. Our client signs another user in. The SDK still shows the first one.
    cookies.set("sFrontToken", signedIn.headers.get("front-token") ?? "");
    cookies.set("st-last-access-token-update", "1");
    expect((await as("/notes.v1.NotesService/SignIn", own, { user: "bob" })).status).toBe(200);
    const told = await as(list, sdk);
    expect([(await told.json()).notes[0].text, userOf(told)]).toEqual(["bob", "bob"]);
    cookies.set("sFrontToken", told.headers.get("front-token") ?? "");
    expect(kindsOf(await as(list, sdk))).toEqual([]);

    // 2. The SDK has signed out before, and our client has signed in since.
    cookies.delete("sFrontToken");
    expect(userOf(await as(list, sdk))).toBe("bob");

    // 3. A page on another host: its cookies do not reach the server, which cannot tell.
    cookies.delete("st-last-access-token-update");
    expect(kindsOf(await as(list, sdk))).toEqual([]);

    // 4. A front-token that is none.
    for (const junk of [
      "junk",
      btoa("{}"),
      btoa('{"up":{"sessionHandle":"a\\nb"}}'),
      btoa("null"),
    ]) {
      cookies.set("sFrontToken", junk);
      expect([(await as(list, sdk)).status, ...kindsOf(await as(list, sdk))]).toEqual([200]);
    }
  });

  it("a session of SuperTokens that is still to be traded is not taken from the SDK", async () => {
    const sessions = testSessions();
    const handle = superTokens(sessions, { issuer }).fetch(async (request) => {
      const exchange = fromFetch(request);
      const session = await sessions.getSession(exchange, { required: false });
      return exchange.respond(Response.json({ user: session?.userId ?? null }));
    });
    const front = btoa('{"uid":"ada","ate":1,"up":{"sessionHandle":"former-handle"}}');
    const cookie = `sAccessToken=x; sFrontToken=${front}; st-last-access-token-update=1`;
    const answer = await handle(new Request(`${issuer}/me`, { headers: { ...sdk, cookie } }));
    expect(await answer.json()).toEqual({ user: null });
    expect(kindsOf(answer)).toEqual([]);
  });

  it("in cookies, a response to our client on the page of an SDK tells both", async () => {
    const { sessions, as } = await cookieWorld({ antiCsrf: "token" });
    // The SDK intercepts the requests of our client, and marks them.
    const both = { ...sdk, ...own };
    const signedIn = await as("/notes.v1.NotesService/SignIn", both, { user: "ada" });
    expect([...kindsOf(signedIn), userOf(signedIn)]).toEqual(["own", "sdk", "ada"]);
    expect(signedIn.headers.get("anti-csrf")).toBe(signedIn.headers.get("rpcsession-csrf"));
    expect(signedIn.headers.get("access-control-expose-headers")).toContain("front-token");
    sessions.clock.advance("20m");
    const refreshed = await as("/rpcsession.v1.SessionService/Refresh", both);
    expect([...kindsOf(refreshed), userOf(refreshed)]).toEqual(["own", "sdk", "ada"]);
    const signedOut = await as("/rpcsession.v1.SessionService/SignOut", both);
    expect(kindsOf(signedOut)).toEqual(["own", "sdk"]);
    expect(signedOut.headers.get("front-token")).toBe("remove");
  });

  it("servers with fetch tell both as well, and forget a session of SuperTokens for any page", async () => {
    const sessions = testSessions();
    const compat = superTokens(sessions, { issuer, former: async () => undefined });
    const handle = compat.fetch(async (request) => {
      const exchange = fromFetch(request);
      await sessions.create(exchange, { userId: "ada" });
      return exchange.respond(Response.json({}));
    });
    const signIn = (headers: Record<string, string>) =>
      handle(new Request(`${issuer}/login`, { method: "POST", headers }));
    for (const [headers, kinds] of [
      [sdk, ["sdk"]],
      [{ ...sdk, ...own }, ["own", "sdk"]],
      [own, ["own"]],
    ] as const) {
      const signedIn = await signIn(headers);
      expect(kindsOf(signedIn)).toEqual(kinds);
      expect(signedIn.headers.getSetCookie().map((line) => line.split("=")[0])).toEqual([
        ...[expect.stringMatching(/access$/), expect.stringMatching(/refresh$/), "sRefreshToken"],
      ]);
    }
  });

  it("an SDK that is switched from cookies to headers keeps its session until it signs out", async () => {
    const { sessions, call } = await world({ browserHeaderTransport: true });
    const browser = { origin: issuer, "sec-fetch-site": "same-origin", rid: "session" };
    const list = "/notes.v1.NotesService/ListNotes";
    const byCookie = { ...browser, "st-auth-mode": "cookie" };
    const jarOf = (response: Response) =>
      response.headers
        .getSetCookie()
        .map((line) => line.split(";")[0])
        .join("; ");
    let cookie = jarOf(await call("/notes.v1.NotesService/SignIn", byCookie, { user: "ada" }));

    const switched = { ...browser, "st-auth-mode": "header" };
    expect((await call(list, { ...switched, cookie })).status).toBe(200);
    sessions.clock.advance("20m");
    const refreshed = await call("/auth/session/refresh", { ...switched, cookie });
    expect(refreshed.status).toBe(200);
    expect(refreshed.headers.has("st-access-token")).toBe(false);
    cookie = jarOf(refreshed);
    expect((await call(list, { ...switched, cookie })).status).toBe(200);
    expect((await call("/auth/signout", { ...switched, cookie })).status).toBe(200);
    expect((await call(list, { ...switched, cookie })).status).toBe(401);

    // The next session is in headers, as the SDK asks.
    const again = await call("/notes.v1.NotesService/SignIn", switched, { user: "ada" });
    expect(again.headers.has("st-access-token")).toBe(true);
    expect(again.headers.getSetCookie()).toEqual([]);
  });

  it("an SDK that is switched from headers to cookies keeps its session until it signs out", async () => {
    const { sessions, call } = await world({ browserHeaderTransport: true });
    const page = { ...browser, rid: "session" };
    const byHeader = { ...page, "st-auth-mode": "header" };
    const signedIn = await call("/notes.v1.NotesService/SignIn", byHeader, { user: "ada" });
    const bearer = (name: string, { headers }: Response) => ({
      authorization: `Bearer ${headers.get(name)}`,
    });

    const switched = { ...page, "st-auth-mode": "cookie" };
    const access = { ...switched, ...bearer("st-access-token", signedIn) };
    expect((await call(list, access)).status).toBe(200);
    sessions.clock.advance("20m");
    const refresh = { ...switched, ...bearer("st-refresh-token", signedIn) };
    const refreshed = await call("/auth/session/refresh", refresh);
    expect(refreshed.status).toBe(200);
    const next = { ...switched, ...bearer("st-access-token", refreshed) };
    expect((await call(list, next)).status).toBe(200);
    expect((await call("/auth/signout", next)).status).toBe(200);
    expect((await call(list, next)).status).toBe(401);

    // The next session is in cookies, as the SDK asks.
    const again = await call("/notes.v1.NotesService/SignIn", switched, { user: "ada" });
    expect(again.headers.has("st-access-token")).toBe(false);
    expect(again.headers.getSetCookie()).toHaveLength(2);
  });
});
