// SDKs of SuperTokens and clients of rpc-session on one server, as docs/supertokens.md describes it.
import { createClient } from "@connectrpc/connect";
import { connectNodeAdapter, createConnectTransport } from "@connectrpc/connect-node";
import { type ClientTokens, cookieTokens, createSessionClient } from "rpc-session/client";
import { superTokens } from "rpc-session/compat/supertokens";
import { fromNode } from "rpc-session/http";
import { testSessions } from "rpc-session/testing";
import { describe, expect, it } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { listenForTest } from "../helpers/listen.ts";
import { send } from "../helpers/send.ts";

const issuer = "https://test.example";
const former = { "st-auth-mode": "header", "content-type": "application/json" };

async function world(options: { readonly browserHeaderTransport?: boolean } = {}) {
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
    const { sessions, call } = await world();
    const browser = { origin: issuer, "sec-fetch-site": "same-origin" };
    const sdk = { ...browser, "st-auth-mode": "cookie", rid: "session" };
    // On a page with both, the SDK also marks the requests of our client, which it intercepts.
    const own = { ...browser, "st-auth-mode": "cookie", "rpcsession-transport": "cookie" };
    const cookies = new Map<string, string>();
    const as = async (path: string, headers: Record<string, string>, body = {}) => {
      const cookie = [...cookies].map((pair) => pair.join("=")).join("; ");
      const response = await call(path, { ...headers, cookie }, body);
      for (const line of response.headers.getSetCookie()) {
        const [, name = "", value = ""] = /^([^=]+)=([^;]*)/.exec(line) ?? [];
        cookies.set(name, value);
      }
      return response;
    };
    const list = "/notes.v1.NotesService/ListNotes";
    const kindOf = ({ headers }: Response) => [
      headers.has("front-token"),
      headers.has("rpcsession-session"),
    ];
    expect(kindOf(await as("/notes.v1.NotesService/SignIn", sdk, { user: "ada" }))).toEqual([
      true,
      false,
    ]);
    for (let i = 0; i < 3; i++) {
      // Each refreshes the session that the other one has refreshed before.
      sessions.clock.advance("20m");
      const byOwn = await as("/rpcsession.v1.SessionService/Refresh", own);
      expect([byOwn.status, ...kindOf(byOwn)]).toEqual([200, false, true]);
      expect((await as(list, sdk)).status).toBe(200);
      sessions.clock.advance("20m");
      const bySdk = await as("/auth/session/refresh", sdk);
      expect([bySdk.status, ...kindOf(bySdk)]).toEqual([200, true, false]);
      expect((await as(list, own)).status).toBe(200);
    }
    expect((await sessions.list({ userId: "ada" })).sessions).toHaveLength(1);
    expect((await as("/auth/signout", sdk)).status).toBe(200);
    expect((await as(list, own)).status).toBe(401);
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
});
