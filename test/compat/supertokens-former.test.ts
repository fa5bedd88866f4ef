// Sessions that SuperTokens issued are traded when the SDK refreshes, as docs/supertokens.md describes it.
import type { IncomingMessage, ServerResponse } from "node:http";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { superTokens } from "rpc-session/compat/supertokens";
import { type TestSessions, testSessions } from "rpc-session/testing";
import { describe, expect, it } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { listenForTest } from "../helpers/listen.ts";
import { send } from "../helpers/send.ts";

const issuer = "https://test.example";
const page = { origin: issuer, "sec-fetch-site": "same-origin" };

/** SuperTokens' core: it rotates refresh tokens, and takes the same one again while its answer may be lost. */
class FormerCore {
  readonly #sessions = new Map<string, { userId: string; handle: string; createdAt: Date }>();
  readonly asked: string[] = [];
  isDown = false;

  issue(token: string, userId: string, createdAt: Date): void {
    this.#sessions.set(token, { userId, handle: `handle-of-${token}`, createdAt });
  }

  async refresh(token: string) {
    this.asked.push(token);
    if (this.isDown) {
      throw new Error("no core available");
    }
    return this.#sessions.get(token);
  }
}

async function world() {
  const sessions: TestSessions = testSessions({
    ...{ public: [NotesService.method.signIn], origins: [issuer] },
  });
  const core = new FormerCore();
  core.issue("old/token+1", "ada", new Date(sessions.clock.now() - 3_600_000));
  const compat = superTokens(sessions, {
    issuer,
    async former(refreshToken) {
      const old = await core.refresh(refreshToken);
      return (
        old && {
          userId: old.userId,
          externalId: { issuer: "supertokens", sid: old.handle },
          createdAt: old.createdAt,
        }
      );
    },
  });
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
  const url = await listenForTest(
    compat.node((req: IncomingMessage, res: ServerResponse) => rpcs(req, res)),
  );
  const post = (path: string, headers: Record<string, string>, body = "{}") =>
    send(url + path, {
      method: "POST",
      headers: { "content-type": "application/json", ...headers },
      body,
    });
  const refresh = (headers: Record<string, string>) => post("/auth/session/refresh", headers);
  const list = (headers: Record<string, string>) =>
    post("/notes.v1.NotesService/ListNotes", headers);
  return { sessions, core, compat, post, refresh, list };
}

const byCookie = { ...page, rid: "session", "st-auth-mode": "cookie" };
const oldCookie = `x=1; sRefreshToken=${encodeURIComponent("old/token+1")}`;
const byHeader = { "st-auth-mode": "header", authorization: "Bearer old/token+1" };
const clearing = /^sRefreshToken=; Path=\/auth\/session\/refresh; Max-Age=0/;
const jar = (response: Response) =>
  response.headers
    .getSetCookie()
    .map((line) => line.split(";")[0] ?? "")
    .filter((pair) => !pair.endsWith("="))
    .join("; ");

describe("feat:P20 sessions that SuperTokens issued", () => {
  it("are traded by the first refresh of the SDK, in cookies", async () => {
    const { sessions, core, refresh, list } = await world();
    const traded = await refresh({ ...byCookie, cookie: oldCookie });
    expect([traded.status, await traded.json()]).toEqual([200, {}]);
    expect(core.asked).toEqual(["old/token+1"]);
    expect(traded.headers.get("front-token")).toMatch(/^ey/);
    expect(traded.headers.getSetCookie()).toContainEqual(expect.stringMatching(clearing));
    const cookie = jar(traded);
    expect(await (await list({ ...byCookie, cookie })).json()).toEqual({
      notes: [{ text: "ada" }],
    });
    const { sessions: found } = await sessions.list({
      externalId: { issuer: "supertokens", sid: "handle-of-old/token+1" },
    });
    expect(found).toHaveLength(1);
    expect(found[0]?.createdAt.getTime()).toBe(sessions.clock.now() - 3_600_000);
    // From now on it is a session like any other.
    sessions.clock.advance("20m");
    expect((await refresh({ ...byCookie, cookie })).status).toBe(200);
    expect(core.asked).toHaveLength(1);
  });

  it("are traded by the first refresh of the SDK, in headers", async () => {
    const { refresh, list } = await world();
    const refused = await list({ "st-auth-mode": "header", authorization: "Bearer old-access" });
    expect(refused.status).toBe(401); // so the SDK refreshes
    const traded = await refresh(byHeader);
    expect(traded.status).toBe(200);
    const authorization = `Bearer ${traded.headers.get("st-access-token")}`;
    expect(traded.headers.has("st-refresh-token")).toBe(true);
    expect((await list({ "st-auth-mode": "header", authorization })).status).toBe(200);
  });

  it("are traded once, and again only after the new session shows that its answer was lost", async () => {
    const { sessions, refresh } = await world();
    expect((await refresh(byHeader)).status).toBe(200);
    const again = await refresh(byHeader);
    expect([again.status, again.headers.get("front-token")]).toEqual([401, "remove"]);
    sessions.clock.advance("1h");
    expect((await refresh(byHeader)).status).toBe(401);
  });

  it("end for the SDK if SuperTokens refuses them, and are kept if it cannot be reached", async () => {
    const { core, compat, refresh } = await world();
    const unknown = { "st-auth-mode": "header", authorization: "Bearer junk" };
    const refused = await refresh(unknown);
    expect([refused.status, refused.headers.get("front-token")]).toEqual([401, "remove"]);
    core.isDown = true;
    // The error reaches the server, whose answer is no 401.
    await expect(refresh(byHeader)).rejects.toThrow();
    const fetched = compat.fetch(() => new Response());
    const request = new Request(`${issuer}/auth/session/refresh`, {
      ...{ method: "POST", headers: { rid: "session", ...byHeader } },
    });
    await expect(fetched(request)).rejects.toThrow("no core available");
    core.isDown = false;
    expect((await refresh(byHeader)).status).toBe(200);
  });

  it("are not traded for another site, nor for a request without any token", async () => {
    const { core, refresh } = await world();
    const other = { origin: "https://evil.example", "sec-fetch-site": "cross-site" };
    // A form of another site: without the headers of the SDK.
    expect((await refresh({ ...other, cookie: oldCookie })).status).toBe(401);
    expect((await refresh(byCookie)).status).toBe(401);
    expect(core.asked).toEqual([]);
    // With them, because CORS allows them for too many sites.
    const crossSite = await refresh({ ...byCookie, ...other, cookie: oldCookie });
    expect(crossSite.status).toBe(403);
    expect(crossSite.headers.getSetCookie()).toEqual([]);
  });

  it("are forgotten when another session begins or ends in the same browser", async () => {
    const { post } = await world();
    const signedIn = await post(
      "/notes.v1.NotesService/SignIn",
      byCookie,
      JSON.stringify({ user: "eve" }),
    );
    const signedOut = await post("/auth/signout", { ...byCookie, cookie: jar(signedIn) });
    for (const response of [signedIn, signedOut]) {
      expect(response.status).toBe(200);
      expect(response.headers.getSetCookie()).toContainEqual(expect.stringMatching(clearing));
    }
  });

  it("are forgotten as well when a page without an SDK begins or ends a session", async () => {
    const { post, list } = await world();
    const own = { ...page, "rpcsession-transport": "cookie" };
    const body = JSON.stringify({ user: "eve" });
    const signedIn = await post("/notes.v1.NotesService/SignIn", own, body);
    const cookie = jar(signedIn);
    // A call that changes no session sets no cookie.
    const listed = await list({ ...own, cookie });
    expect([listed.status, listed.headers.getSetCookie()]).toEqual([200, []]);
    const signedOut = await post("/rpcsession.v1.SessionService/SignOut", { ...own, cookie });
    for (const response of [signedIn, signedOut]) {
      expect(response.headers.has("front-token")).toBe(false);
      expect(response.headers.has("rpcsession-session")).toBe(true);
      expect(response.headers.getSetCookie()).toContainEqual(expect.stringMatching(clearing));
    }
    // An app keeps no cookies, and some fail if they get one.
    const byApp = await post("/notes.v1.NotesService/SignIn", {}, body);
    expect([byApp.status, byApp.headers.getSetCookie()]).toEqual([200, []]);
  });

  it("do not come back after a sign-out, even if they were not traded before", async () => {
    const { post } = await world();
    const cookie = "sAccessToken=former-access";
    const signedOut = await post("/auth/signout", { ...byCookie, cookie });
    expect([signedOut.status, signedOut.headers.get("front-token")]).toEqual([200, "remove"]);
    expect(signedOut.headers.getSetCookie()).toContainEqual(expect.stringMatching(clearing));
  });

  it("are forgotten on all hosts of the domain that their cookies had", async () => {
    const sessions = testSessions({ origins: [issuer] });
    const former = async () => undefined;
    const compat = superTokens(sessions, { issuer, former, formerCookieDomain: ".test.example" });
    const signedOut = await compat.fetch(() => new Response())(
      new Request(`${issuer}/auth/signout`, { method: "POST", headers: byCookie }),
    );
    expect(signedOut.headers.getSetCookie()).toEqual([
      expect.stringContaining("Path=/auth/session/refresh; Domain=.test.example; Max-Age=0"),
    ]);
    for (const formerCookieDomain of ["", "a b", "x; Path=/", 1 as never]) {
      expect(() => superTokens(sessions, { issuer, formerCookieDomain })).toThrow(
        /formerCookieDomain must be a domain such as "example.com", got /,
      );
    }
  });

  it("are over without the option, and the option must be a function", async () => {
    const sessions = testSessions({ origins: [issuer] });
    const handle = superTokens(sessions, { issuer }).fetch(() => new Response());
    const request = new Request(`${issuer}/auth/session/refresh`, {
      ...{ method: "POST", headers: { rid: "session", ...byHeader } },
    });
    expect((await handle(request)).status).toBe(401);
    expect(() => superTokens(sessions, { issuer, former: "x" as never })).toThrow(
      /former must be a function that verifies a refresh token of SuperTokens, got string/,
    );
  });
});
