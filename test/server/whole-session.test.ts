import {
  Code,
  createClient,
  createContextKey,
  createContextValues,
  createRouterTransport,
  type HandlerContext,
} from "@connectrpc/connect";
import { connectNodeAdapter, createConnectTransport } from "@connectrpc/connect-node";
import { SessionError, type SessionsOptions } from "rpc-session";
import {
  createFakeClock,
  signedIn,
  type TestSessionsOptions,
  testSessions,
} from "rpc-session/testing";
import { verifySessions } from "rpc-session/verify";
import { describe, expect, it } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { Action, Reason, Tokens } from "../../gen/rpcsession/v1/hint_pb.ts";
import { accessOf, apiOf, payloadOf } from "../helpers/api.ts";
import { clearsCookies, cookieEffects, exchangeOf, sessionErrorOf } from "../helpers/exchanges.ts";
import { listenForTest } from "../helpers/listen.ts";
import { issueOn } from "../helpers/refreshing.ts";

const open = { public: [NotesService.method.signIn] };

function nameIn(all: Readonly<Record<string, number>>, value: number | undefined) {
  return Object.keys(all).find((name) => all[name] === value);
}

describe("cookies that browsers would drop or that are unsafe", () => {
  it.each<[string, TestSessionsOptions, RegExp]>([
    [
      "SameSite=None without Secure",
      { issuer: "http://localhost", cookies: { insecure: true, sameSite: "none" } },
      /^cookies.*(sameSite|none|insecure)/i,
    ],
    ["insecure under https", { cookies: { insecure: true } }, /^cookies.*insecure/i],
    [
      "an unknown SameSite value",
      { cookies: { sameSite: "maybe" as "lax" } },
      /^cookies\.sameSite/,
    ],
  ])("feat:A6 %s is refused at construction", (_, options, message) => {
    expect(() => testSessions(options)).toThrow(TypeError);
    expect(() => testSessions(options)).toThrow(message);
  });

  it("feat:A6 no session is created if browsers would drop its cookie", async () => {
    const sessions = testSessions({ ...open, issuer: "http://api.example.com" });
    const headers = { "sec-fetch-site": "same-origin" };
    const api = apiOf(sessions);
    const { error } = await api.open({ headers }, (ctx) => sessions.create(ctx, { userId: "a" }));
    expect(error?.code).toBe(Code.Internal);
    expect(error?.rawMessage).toMatch(/browsers do not keep Secure cookies from http:/);
    expect((await sessions.list({ userId: "a" })).sessions).toEqual([]);
  });
});

describe("refused calls", () => {
  it("feat:B3 feat:B4 feat:N4 report five distinct outcomes and clear only tokens of an ended session", async () => {
    const sessions = testSessions({
      ...open,
      methods: { "notes.v1.NotesService/AddNote": { claims: { vip: [] } } },
    });
    const api = apiOf(sessions);
    const fine = await issueOn(sessions, "cookie");
    const gone = await issueOn(sessions, "cookie");
    await gone.revoke();
    const old = await issueOn(sessions, "cookie");
    sessions.clock.advance("14m");
    const claims = await api.call({ access: fine.access }, () => {});
    const revoked = await api.call({ access: gone.access }, () => {});
    sessions.clock.advance("2m");
    const answers = {
      missing: await api.call({}, () => {}),
      revoked,
      expired: await api.call({ access: old.access, refresh: old.refresh }, () => {}),
      absent: await api.call({ refresh: old.refresh }, () => {}),
      claims,
    };
    const told = Object.entries(answers).map(([name, { error, hint, headers }]) => [
      name,
      Code[error?.code ?? 0],
      nameIn(Action, hint?.action),
      nameIn(Reason, hint?.reason),
      nameIn(Tokens, hint?.tokens),
      cookieEffects(headers).length > 0,
    ]);
    expect(told).toEqual([
      ["missing", "Unauthenticated", "SIGN_IN", "SESSION_MISSING", "KEEP", false],
      ["revoked", "Unauthenticated", "SIGN_IN", "SESSION_REVOKED", "CLEAR", true],
      ["expired", "Unauthenticated", "REFRESH", "TOKEN_EXPIRED", "KEEP", false],
      ["absent", "Unauthenticated", "REFRESH", "ACCESS_TOKEN_MISSING", "KEEP", false],
      ["claims", "PermissionDenied", "UNSPECIFIED", "CLAIM_REJECTED", "KEEP", false],
    ]);
    expect(cookieEffects(answers.revoked.headers)).toEqual(clearsCookies);
  });

  it("feat:B9 other schemes are ignored; a foreign bearer token is refused without falling back to the cookie", async () => {
    const sessions = testSessions(open);
    const api = apiOf(sessions);
    const { access } = await issueOn(sessions, "cookie");
    const basic = await api.call({ access, headers: { authorization: "Basic eDp5" } }, (ctx) => [
      sessions.require(ctx).userId,
      ctx.requestHeader.get("authorization"),
    ]);
    expect(basic.result).toEqual(["alice", "Basic eDp5"]);
    const foreign = testSessions({ issuer: "https://other.example", clock: sessions.clock });
    const bearer = (await issueOn(foreign, "header")).access;
    // Otherwise its key might count as one that was only just published.
    sessions.clock.advance("10s");
    const refused = await api.call({ access, bearer }, () => {});
    expect(refused.error?.code).toBe(Code.Unauthenticated);
    expect(cookieEffects(refused.headers)).toEqual([]);
    // A public method sees the foreign token unchanged.
    const taken = await api.open({ bearer }, (ctx) => ctx.requestHeader.get("authorization"));
    expect(taken.result).toBe(`Bearer ${bearer}`);
  });
});

describe("without a framework", () => {
  it("feat:B8 getSession reads the headers of any exchange and writes to its response", async () => {
    const sessions = testSessions();
    const { access, id, revoke } = await issueOn(sessions, "cookie");
    const first = await sessions.getSession(exchangeOf({ access }));
    expect(first).toMatchObject({ id, userId: "alice" });
    await first.updateData({ seen: 1 });
    expect(await first.data()).toEqual({ seen: 1 });
    expect(await sessions.getSession(exchangeOf({}), { required: false })).toBeUndefined();
    await revoke();
    const exchange = exchangeOf({ access });
    expect(await sessionErrorOf(sessions.getSession(exchange))).toBeInstanceOf(SessionError);
    expect(cookieEffects(exchange.responseHeader)).toEqual(clearsCookies);
  });
});

describe("feat:B12 clock skew", () => {
  it.each<[SessionsOptions["clockSkew"], number, boolean]>([
    [undefined, 59, true],
    [undefined, 62, false],
    ["10s", 9, true],
    ["10s", 12, false],
    ["0s", 2, false],
  ])(
    "feat:B12 with clockSkew %s, a token issued %d s ahead: accepted %s",
    async (clockSkew, ahead, fine) => {
      const issuer = testSessions();
      const { access } = await issueOn(issuer, "header");
      const verifying = verifySessions({
        issuer: "https://test.example",
        jwks: await issuer.jwks(),
        clock: createFakeClock(issuer.clock.now() - ahead * 1000),
        ...(clockSkew === undefined ? {} : { clockSkew }),
      });
      const found = await verifying
        .getSession(exchangeOf({ bearer: access }))
        .catch(() => undefined);
      expect(found !== undefined).toBe(fine);
    },
  );

  it("feat:B12 the expiry has no tolerance", async () => {
    const sessions = testSessions({ clockSkew: "60s" });
    const { access } = await issueOn(sessions, "header");
    const life = payloadOf(access).exp - payloadOf(access).iat;
    sessions.clock.advance(`${life - 1}s`);
    await expect(sessions.getSession(exchangeOf({ bearer: access }))).resolves.toBeDefined();
    sessions.clock.advance("1s");
    await expect(sessions.getSession(exchangeOf({ bearer: access }))).rejects.toMatchObject({
      kind: "tryRefreshToken",
      reason: "TOKEN_EXPIRED",
    });
  });
});

describe("feat:N3 context values of the service", () => {
  it("feat:N3 contextValues of the adapter reach clientIp, gates and handlers along with the session", async () => {
    const remote = createContextKey("nobody");
    const sessions = testSessions({ ...open, clientIp: (ctx) => ctx.values.get(remote) });
    const seen: unknown[] = [];
    const url = await listenForTest(
      connectNodeAdapter(
        Object.assign(
          sessions.protect({
            requestGate: async (ctx: HandlerContext) => {
              seen.push(["gate", ctx.values.get(remote)]);
            },
            routes: (router) =>
              router.service(NotesService, {
                async signIn(_, ctx) {
                  await sessions.create(ctx, { userId: "alice" });
                  return {};
                },
                addNote(_, ctx) {
                  seen.push([sessions.require(ctx).userId, ctx.values.get(remote)]);
                  return {};
                },
              }),
          }),
          {
            contextValues: (request: { socket: { remoteAddress?: string } }) =>
              createContextValues().set(remote, request.socket.remoteAddress ?? "?"),
          },
        ) as Parameters<typeof connectNodeAdapter>[0],
      ),
    );
    const { tokens } = await sessions.issue({ userId: "alice" });
    const transport = createConnectTransport({ baseUrl: url, httpVersion: "1.1" });
    const notes = createClient(NotesService, transport);
    await notes.signIn({});
    await notes.addNote({}, { headers: { authorization: `Bearer ${tokens.accessToken}` } });
    expect(seen).toEqual([
      ["gate", "127.0.0.1"],
      ["gate", "127.0.0.1"],
      ["alice", "127.0.0.1"],
    ]);
    const { sessions: all } = await sessions.list({ userId: "alice" });
    expect(all.map(({ device }) => device.ip).filter((ip) => ip !== undefined)).toEqual([
      "127.0.0.1",
    ]);
  });
});

describe("feat:N7 test helpers", () => {
  it("feat:N7 a fake clock stands still until it is moved, and sessions use it", async () => {
    const sessions = testSessions(open);
    const api = apiOf(sessions);
    const { tokens } = await sessions.issue({ userId: "alice" });
    const bearer = tokens.accessToken;
    expect((await api.call({ bearer }, () => {})).error).toBeUndefined();
    sessions.clock.advance("16m");
    expect((await api.call({ bearer }, () => {})).hint?.action).toBe(Action.REFRESH);
    const refreshed = await api.refresh("header", tokens.refreshToken);
    expect((await api.call({ bearer: accessOf(refreshed) ?? "" }, () => {})).error).toBeUndefined();
    const began = sessions.clock.now();
    await new Promise((resolve) => setTimeout(resolve, 5));
    expect(sessions.clock.now()).toBe(began);
  });

  it("feat:N7 signedIn creates a client whose calls carry a session", async () => {
    const sessions = testSessions(open);
    const { routes, ...router } = sessions.protect({
      routes: (r) =>
        r.service(NotesService, {
          signIn: () => ({}),
          listNotes: (_, ctx) => {
            const { userId, claims } = sessions.require(ctx);
            return { notes: [{ text: `${userId} ${JSON.stringify(claims)}` }] };
          },
        }),
    });
    const given = { userId: "alice", tenantId: "acme", claims: { role: "admin" } };
    const interceptors = [await signedIn(sessions, given)];
    const transport = createRouterTransport(routes, { router, transport: { interceptors } });
    const { notes } = await createClient(NotesService, transport).listNotes({});
    expect(notes[0]?.text).toBe('alice {"role":"admin"}');
  });
});
