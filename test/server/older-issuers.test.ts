import { Code, createClient, createRouterTransport } from "@connectrpc/connect";
import type { JsonObject, SessionsOptions } from "rpc-session";
import { memoryStore } from "rpc-session/stores/memory";
import { createFakeClock, testSessions } from "rpc-session/testing";
import { verifySessions } from "rpc-session/verify";
import { describe, expect, it } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { Action, Tokens } from "../../gen/rpcsession/v1/hint_pb.ts";
import { SessionService } from "../../gen/rpcsession/v1/service_pb.ts";
import { payloadOf } from "../helpers/api.ts";
import { cookieValue, exchangeOf } from "../helpers/exchanges.ts";
import { issueOn } from "../helpers/refreshing.ts";
import { type WireServer, wireServer } from "../helpers/wire-server.ts";

const { addNote } = NotesService.method;
const { refresh, signOut } = SessionService.method;
const [former, present] = ["https://test.example", "https://test.example/api"];
const secret = "one secret of at least 32 bytes!";

type Options = Omit<Partial<SessionsOptions>, "clock" | "store">;

/** Servers over one store, each with its own options. */
function deployment() {
  const clock = createFakeClock();
  const store = memoryStore();
  const start = async (options: Options) => {
    const sessions = testSessions({ store, clock, secret, antiCsrf: "token", ...options });
    await sessions.ready();
    const { routes, ...rest } = sessions.protect({
      routes: (router) =>
        router.service(NotesService, {
          addNote: async () => ({}),
          async *watchNotes(_request, context) {
            yield {};
            await new Promise((resolve) => {
              context.signal.addEventListener("abort", resolve);
            });
          },
        }),
    });
    const client = createClient(NotesService, createRouterTransport(routes, { router: rest }));
    return { sessions, client, server: wireServer({ routes, ...rest }) };
  };
  return { clock, store, start };
}

async function answerTo(server: WireServer, presented: Parameters<WireServer["call"]>[2]) {
  const { error, hint } = await server.call(addNote, {}, presented);
  return error === undefined ? "ok" : { code: error.code, action: hint?.action };
}

function issuerOf(token: string | undefined): unknown {
  const { iss, aud, client_id } = payloadOf(token ?? "") as JsonObject;
  return { iss, aud, client_id };
}

const ofPresent = { iss: present, aud: present, client_id: present };

describe("feat:H11 a change of the issuer", () => {
  it("keeps a cookie session: access cookie, anti-CSRF token and refresh cookie; new tokens name the new issuer", async () => {
    const { clock, start } = deployment();
    const before = await start({ issuer: former });
    const { access, refresh: cookie } = await issueOn(before.sessions, "cookie");
    const first = await before.server.call(refresh, {}, { access, refresh: cookie });
    const csrf = first.headers.get("rpcsession-csrf") ?? "";
    const after = await start({ issuer: present, olderIssuers: [former] });
    clock.advance("1m");
    expect(await answerTo(after.server, { access, refresh: cookie, csrf })).toBe("ok");
    expect(await answerTo(after.server, { access, refresh: cookie })).toEqual({
      code: Code.Unauthenticated,
      action: Action.REFRESH,
    });
    clock.advance("16m");
    const renewed = await after.server.call(refresh, {}, { access, refresh: cookie });
    expect(renewed.error).toBeUndefined();
    const next = cookieValue(renewed.headers, "access") ?? "";
    expect(issuerOf(next)).toEqual(ofPresent);
    const newCsrf = renewed.headers.get("rpcsession-csrf") ?? "";
    expect(newCsrf.slice(0, 8)).not.toBe(csrf.slice(0, 8));
    expect(await answerTo(after.server, { access: next, csrf: newCsrf })).toBe("ok");
    expect(await answerTo(after.server, { access: next, csrf })).toBe("ok");
  });

  it("keeps a header session over refreshes, and sign-out ends it", async () => {
    const { clock, start } = deployment();
    const before = await start({ issuer: former });
    const issued = await issueOn(before.sessions, "header");
    const after = await start({ issuer: present, olderIssuers: [former] });
    expect(await answerTo(after.server, { bearer: issued.access })).toBe("ok");
    let token = issued.refresh;
    for (let i = 0; i < 3; i++) {
      clock.advance("16m");
      const renewed = await after.server.call(refresh, { refreshToken: token }, {});
      token = renewed.headers.get("rpcsession-refresh-token") ?? token;
      const bearer = renewed.headers.get("rpcsession-access-token") ?? "";
      expect(issuerOf(bearer)).toEqual(ofPresent);
      clock.advance("31s");
      expect(await answerTo(after.server, { bearer })).toBe("ok");
    }
    expect(token.slice(0, 8)).not.toBe(issued.refresh.slice(0, 8));
    const out = await after.server.call(signOut, { refreshToken: token }, {});
    expect(out.error).toBeUndefined();
    const ended = await after.server.call(refresh, { refreshToken: token }, {});
    expect(ended.hint?.action).toBe(Action.SIGN_IN);
  });

  it("signs with the stored key of before, and replaces it after a day", async () => {
    const { clock, start } = deployment();
    const before = await start({ issuer: former });
    const [key] = await before.sessions.keys.list();
    const after = await start({ issuer: present, olderIssuers: [former] });
    expect(await after.sessions.keys.list()).toEqual([key]);
    clock.advance("1d");
    await after.sessions.issue({ userId: "alice" });
    expect(await after.sessions.keys.list()).toMatchObject([
      { state: "signing" },
      { state: "next" },
    ]);
    clock.advance("11m");
    await after.sessions.issue({ userId: "alice" });
    const keys = await after.sessions.keys.list();
    expect(keys.map(({ state }) => state)).toEqual(["former", "signing"]);
    expect(keys[1]?.secretId).not.toBe(key?.secretId);
    expect((await after.sessions.jwks()).keys).toHaveLength(2);
  });

  it("leaves a stream open that began with a token of before, until its session ends on any server", async () => {
    const { start } = deployment();
    const before = await start({ issuer: former, olderIssuers: [present] });
    const issued = await issueOn(before.sessions, "header");
    const after = await start({ issuer: present, olderIssuers: [former] });
    const headers = { authorization: `Bearer ${issued.access}` };
    const stream = after.client.watchNotes({}, { headers })[Symbol.asyncIterator]();
    expect((await stream.next()).done).toBe(false);
    await before.sessions.revoke(issued.id);
    await expect(stream.next()).rejects.toMatchObject({ code: Code.Unauthenticated });
  });

  it("lets servers with the former and with the new issuer run side by side, if each lists the other", async () => {
    const { clock, start } = deployment();
    const servers = [
      await start({ issuer: former, olderIssuers: [present] }),
      await start({ issuer: present, olderIssuers: [former] }),
    ] as const;
    for (const transport of ["cookie", "header"] as const) {
      let { access, refresh: token } = await issueOn(servers[0].sessions, transport);
      for (let i = 1; i < 7; i++) {
        const { server } = servers[i % 2] as (typeof servers)[0];
        clock.advance("16m");
        const given = transport === "cookie" ? { refresh: token } : {};
        const inMessage = transport === "cookie" ? "" : token;
        const { headers, error } = await server.call(refresh, { refreshToken: inMessage }, given);
        expect(error).toBeUndefined();
        const csrf = headers.get("rpcsession-csrf") ?? "";
        access = cookieValue(headers, "access") ?? headers.get("rpcsession-access-token") ?? "";
        token = cookieValue(headers, "refresh") ?? headers.get("rpcsession-refresh-token") ?? token;
        clock.advance("31s");
        for (const one of servers) {
          const presented = transport === "cookie" ? { access, csrf } : { bearer: access };
          expect(await answerTo(one.server, presented)).toBe("ok");
        }
      }
    }
  });

  it("names the new issuer in a reissued token", async () => {
    const { start } = deployment();
    const before = await start({ issuer: former });
    const { id, access } = await issueOn(before.sessions, "header");
    const after = await start({ issuer: present, olderIssuers: [former] });
    await after.sessions.updateClaims(id, { role: "admin" });
    const answer = await after.server.call(addNote, {}, { bearer: access });
    expect(issuerOf(answer.headers.get("rpcsession-access-token") ?? "")).toEqual(ofPresent);
  });

  it.each<readonly [string, Options, Options]>([
    ["not listed", {}, {}],
    ["of another audience", { audience: "notes" }, { olderIssuers: [former] }],
  ])("refuses access tokens of an issuer that is %s", async (_, older, options) => {
    const { clock, start } = deployment();
    const before = await start({ issuer: former, ...older });
    const { access } = await issueOn(before.sessions, "header");
    const after = await start({ issuer: present, ...options });
    clock.advance("6s");
    expect(await answerTo(after.server, { bearer: access })).toEqual({
      code: Code.Unauthenticated,
      action: Action.REFRESH,
    });
  });

  it("keeps the tokens of an issuer that is not listed, because its server may list it", async () => {
    const { start } = deployment();
    const before = await start({ issuer: former });
    const { refresh: refreshToken } = await issueOn(before.sessions, "header");
    const after = await start({ issuer: present });
    const { hint } = await after.server.call(refresh, { refreshToken }, {});
    expect(hint).toMatchObject({ action: Action.RETRY_LATER, tokens: Tokens.KEEP });
  });

  it("keeps an explicit audience for the tokens of both", async () => {
    const { start } = deployment();
    const before = await start({ issuer: former, audience: "notes" });
    const { access } = await issueOn(before.sessions, "header");
    const options = { issuer: present, audience: "notes", olderIssuers: [former] };
    expect(await answerTo((await start(options)).server, { bearer: access })).toBe("ok");
  });

  it("retires a secret for every issuer at once", async () => {
    const { start } = deployment();
    const before = await start({ issuer: former });
    const { refresh: refreshToken } = await issueOn(before.sessions, "header");
    const after = await start({
      issuer: present,
      olderIssuers: [former],
      secret: ["a new secret of at least 32 bytes", secret],
    });
    const ids = await after.sessions.secrets.retire(refreshToken.slice(0, 8));
    expect(ids).toHaveLength(2);
    const { hint } = await after.server.call(refresh, { refreshToken }, {});
    expect(hint).toMatchObject({ action: Action.SIGN_IN, tokens: Tokens.CLEAR });
  });
});

describe("feat:H11 olderIssuers of verifySessions", () => {
  it("accepts the tokens of before and of now, with the audience that each names", async () => {
    const { clock, start } = deployment();
    const before = await start({ issuer: former });
    const after = await start({ issuer: present, olderIssuers: [former] });
    const tokens = [
      await issueOn(before.sessions, "header"),
      await issueOn(after.sessions, "header"),
    ].map(({ access }) => access);
    const jwks = await after.sessions.jwks();
    const verifier = (options: object) =>
      verifySessions({ issuer: present, jwks, clock, ...options });
    const both = verifier({ olderIssuers: [former] });
    for (const bearer of tokens) {
      expect((await both.getSession(exchangeOf({ bearer }))).userId).toBe("alice");
    }
    const [old = ""] = tokens;
    await expect(verifier({}).getSession(exchangeOf({ bearer: old }))).rejects.toMatchObject({
      kind: "tryRefreshToken",
    });
    const strict = verifier({ olderIssuers: [former], audience: present });
    await expect(strict.getSession(exchangeOf({ bearer: old }))).rejects.toMatchObject({
      kind: "tryRefreshToken",
    });
  });
});

describe("feat:H11 misuse of olderIssuers", () => {
  const jwks = { keys: [] };
  it.each([
    [[former], /olderIssuers\[0\].*is the issuer itself/],
    [[present, present], /olderIssuers\[1\].*is listed twice/],
    [["ftp://test.example"], /olderIssuers\[0\] must be the http or https URL/],
    [[`${present}?a`], /olderIssuers\[0\] must be the http or https URL/],
    [Array.from({ length: 9 }, (_, i) => `${present}/${i}`), /at most 8 issuers, got 9/],
  ])("throws at construction: %j", (olderIssuers, message) => {
    expect(() => testSessions({ olderIssuers })).toThrow(message);
    expect(() => verifySessions({ issuer: former, jwks, olderIssuers })).toThrow(message);
  });

  it("throws for anything but a list", () => {
    const olderIssuers = former as unknown as string[];
    expect(() => testSessions({ olderIssuers })).toThrow("olderIssuers must be an array");
    expect(() => verifySessions({ issuer: former, jwks, olderIssuers })).toThrow(
      "olderIssuers must be an array",
    );
  });
});
