import { Code, ConnectError, createClient, createRouterTransport } from "@connectrpc/connect";
import { connectNodeAdapter, createConnectTransport } from "@connectrpc/connect-node";
import type { JsonWebKeySet } from "rpc-session";
import { createSessionClient, withRefresh } from "rpc-session/client";
import { type VerifySessionsOptions, verifySessions } from "rpc-session/verify";
import { describe, expect, it } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { Action, Reason, RefreshHintSchema, Tokens } from "../../gen/rpcsession/v1/hint_pb.ts";
import { exchangeOf, type Presented } from "../helpers/exchanges.ts";
import { type Issuer, startIssuer } from "../helpers/issuer.ts";
import { listenForTest } from "../helpers/listen.ts";

const issuer = "https://test.example";

/** A second service with the clock of the issuer. */
function beside(at: Issuer, options: Partial<VerifySessionsOptions> = {}) {
  return verifySessions({ issuer, jwks: at.jwks, clock: at.sessions.clock, ...options });
}

async function tokensOf(at: Issuer, transport: "cookie" | "header" = "header") {
  return (await at.sessions.issue({ userId: "alice", transport })).tokens;
}

async function outcome(
  sessions: ReturnType<typeof verifySessions>,
  presented: Presented,
): Promise<string> {
  const exchange = exchangeOf(presented);
  try {
    return (await sessions.getSession(exchange)).userId;
  } catch (error) {
    const { kind, reason } = error as { kind: string; reason: string };
    return `${kind} ${reason} ${exchange.responseHeader.get("rpcsession-hint")}`;
  }
}

describe("feat:Q5 verifySessions", () => {
  it("verifies tokens in headers and cookies with keys that it fetches once", async () => {
    const at = await startIssuer();
    const sessions = beside(at);
    expect(at.asked.count).toBe(0);
    const { accessToken } = await tokensOf(at);
    const cookie = (await tokensOf(at, "cookie")).accessToken;
    for (let i = 0; i < 100; i++) {
      expect(await outcome(sessions, { bearer: accessToken })).toBe("alice");
      expect(await outcome(sessions, { access: cookie })).toBe("alice");
    }
    expect(at.asked.count).toBe(1);
  });

  it("provides the whole session, except a way to end it", async () => {
    const at = await startIssuer();
    const { session, tokens } = await at.sessions.issue({
      userId: "alice",
      tenantId: "acme",
      claims: { role: "admin" },
    });
    const facts = Object.entries(session).filter(([name]) => name !== "revoke");
    const found = await beside(at).getSession(exchangeOf({ bearer: tokens.accessToken }));
    expect(found).toMatchObject({ ...Object.fromEntries(facts), claims: { role: "admin" } });
    // @ts-expect-error a session that is only verified has no such method
    await expect(found.revoke()).rejects.toThrow(/only verifies/);
  });

  it.each<readonly [string, (at: Issuer) => Promise<Presented>, string]>([
    ["nothing", async () => ({}), "unauthorized SESSION_MISSING sign-in"],
    ["junk", async () => ({ bearer: "junk" }), "tryRefreshToken TOKEN_INVALID refresh"],
    [
      "an expired token",
      async (at) => {
        const { accessToken } = await tokensOf(at);
        at.sessions.clock.advance("16m");
        return { bearer: accessToken };
      },
      "tryRefreshToken TOKEN_EXPIRED refresh",
    ],
    [
      "a refresh cookie alone",
      async () => ({ refresh: "r" }),
      "tryRefreshToken ACCESS_TOKEN_MISSING refresh",
    ],
    [
      "a cookie token in a header",
      async (at) => ({ bearer: (await tokensOf(at, "cookie")).accessToken }),
      "tryRefreshToken TOKEN_CONFLICT refresh",
    ],
    [
      "a cookie from another site",
      async (at) => ({
        access: (await tokensOf(at, "cookie")).accessToken,
        headers: { "sec-fetch-site": "cross-site", origin: "https://evil.example" },
      }),
      "forbidden CROSS_SITE null",
    ],
    [
      "a token of another issuer",
      async () => ({ bearer: (await tokensOf(await startIssuer())).accessToken }),
      "tryRefreshToken TOKEN_INVALID refresh",
    ],
  ])("refuses %s as the issuer would", async (_, present, expected) => {
    const at = await startIssuer();
    const presented = await present(at);
    expect(await outcome(beside(at), presented)).toBe(expected);
  });

  it("feat:B10, sec:J15 refuses tokens for another audience or from another issuer", async () => {
    const at = await startIssuer();
    const { accessToken } = await tokensOf(at);
    const refused = "tryRefreshToken TOKEN_INVALID refresh";
    expect(await outcome(beside(at, { audience: "other" }), { bearer: accessToken })).toBe(refused);
    const named = beside(at, { issuer: "https://test.example/" });
    expect(await outcome(named, { bearer: accessToken })).toBe(refused);
    const other = await startIssuer({ audience: "other" });
    const token = (await tokensOf(other)).accessToken;
    expect(await outcome(beside(other, { audience: "other" }), { bearer: token })).toBe("alice");
  });

  it("accepts a given key set, which never changes", async () => {
    const at = await startIssuer();
    const { accessToken } = await tokensOf(at);
    const given = beside(at, { jwks: await at.sessions.jwks() });
    await given.ready();
    expect(await outcome(given, { bearer: accessToken })).toBe("alice");
    const stranger = (await tokensOf(await startIssuer())).accessToken;
    expect(await outcome(given, { bearer: stranger })).toBe(
      "tryRefreshToken TOKEN_INVALID refresh",
    );
    expect(at.asked.count).toBe(0);
  });

  it.each(["RS256", "EdDSA"] as const)("verifies %s", async (algorithm) => {
    const at = await startIssuer({ algorithm });
    expect(await outcome(beside(at), { bearer: (await tokensOf(at)).accessToken })).toBe("alice");
  });

  it("sec:J17 follows rotation: no call fails, however old its keys are", async () => {
    const at = await startIssuer();
    // Now, so that the first key is as old as the clock.
    await at.sessions.ready();
    const sessions = beside(at);
    const headers = new Set<string>();
    let minutes = 0;
    while (minutes < 31 * 24 * 60) {
      const rotates = minutes > 29.9 * 24 * 60 && minutes < 30.2 * 24 * 60;
      const step = rotates ? 2 : 7 * 60;
      at.sessions.clock.advance(`${step}m`);
      minutes += step;
      // Keys are generated in the background, which takes a turn of the event loop.
      await new Promise((resolve) => setImmediate(resolve));
      const { accessToken } = await tokensOf(at);
      headers.add(accessToken.slice(0, accessToken.indexOf(".")));
      expect(await outcome(sessions, { bearer: accessToken })).toBe("alice");
    }
    // They differ only in the key id.
    expect(headers.size).toBe(2);
  });
});

describe("verifySessions in an outage of the issuer", () => {
  it("goes on with its known keys; without any it is Unavailable", async () => {
    const at = await startIssuer();
    const { accessToken } = await tokensOf(at);
    const [known, fresh] = [beside(at), beside(at)];
    await known.ready();
    at.instead.status = 503;
    at.sessions.clock.advance("10m");
    expect(await outcome(known, { bearer: accessToken })).toBe("alice");
    expect(await outcome(fresh, { bearer: accessToken })).toBe(
      "unavailable AUTH_UNAVAILABLE retry-later",
    );
    await expect(fresh.ready()).rejects.toMatchObject({ kind: "unavailable" });
    at.instead.status = undefined;
    at.sessions.clock.advance("30s");
    expect(await outcome(fresh, { bearer: accessToken })).toBe("alice");
  });

  it.each([301, 302, 303, 307, 308])("sec:V07 follows no redirect: %i", async (status) => {
    const at = await startIssuer();
    const evil = await startIssuer();
    at.instead.status = status;
    at.instead.headers = { location: evil.jwks };
    const { accessToken } = await tokensOf(evil);
    expect(await outcome(beside(at), { bearer: accessToken })).toMatch(/^unavailable/);
    expect(evil.asked.count).toBe(0);
  });

  it("is Unavailable if nothing listens at the URL", async () => {
    const at = await startIssuer();
    const { accessToken } = await tokensOf(at);
    const nobody = beside(at, { jwks: "http://127.0.0.1:1/jwks.json" });
    expect(await outcome(nobody, { bearer: accessToken })).toMatch(/^unavailable/);
  });
});

describe("a service that only verifies", () => {
  it("serves by its policies, with the hints of the issuer and without SessionService", async () => {
    const at = await startIssuer();
    const sessions = beside(at, { public: [NotesService.method.signIn] });
    const users: string[] = [];
    const { routes, ...router } = sessions.protect({
      routes: (r) =>
        r.service(NotesService, {
          signIn: () => ({}),
          listNotes: (_request, context) => {
            users.push(sessions.require(context).userId);
            return {};
          },
        }),
    });
    const services: string[] = [];
    const transport = createRouterTransport(
      (r) => {
        routes(r);
        services.push(...r.handlers.map(({ service }) => service.typeName));
      },
      { router },
    );
    const notes = createClient(NotesService, transport);
    await notes.signIn({});
    const headers = { authorization: `Bearer ${(await tokensOf(at)).accessToken}` };
    await notes.listNotes({}, { headers });
    expect(users).toEqual(["alice"]);
    at.sessions.clock.advance("1h");
    const error = await notes
      .listNotes({}, { headers })
      .catch((e: unknown) => ConnectError.from(e));
    expect((error as ConnectError).code).toBe(Code.Unauthenticated);
    expect((error as ConnectError).findDetails(RefreshHintSchema)).toMatchObject([
      { action: Action.REFRESH, reason: Reason.TOKEN_EXPIRED, tokens: Tokens.KEEP, realm: issuer },
    ]);
    expect(new Set(services)).toEqual(new Set([NotesService.typeName]));
    expect(sessions.describe({ handlers: [] } as never)).toEqual([]);
  });

  it("feat:Q5 a client refreshes at the issuer and retries transparently", async () => {
    const at = await startIssuer();
    const sessions = beside(at);
    let handled = 0;
    const url = await listenForTest(
      connectNodeAdapter(
        sessions.protect({
          routes: (router) =>
            router.service(NotesService, {
              listNotes(_request, context) {
                handled++;
                return { notes: [{ text: sessions.require(context).userId }] };
              },
            }),
        }),
      ),
    );
    const session = createSessionClient({
      transport: (parts) =>
        createConnectTransport({ baseUrl: at.url, httpVersion: "1.1", ...parts }),
    });
    await createClient(NotesService, session.transport).signIn({ user: "alice" });
    const transport = createConnectTransport({ baseUrl: url, httpVersion: "1.1" });
    const notes = withRefresh(createClient(NotesService, transport), session);
    const list = async () => (await notes.listNotes({})).notes.map(({ text }) => text);
    expect(await list()).toEqual(["alice"]);
    at.sessions.clock.advance("16m");
    expect(await list()).toEqual(["alice"]);
    expect(handled).toBe(2);
  });
});

describe("options of verifySessions", () => {
  const jwks = "https://test.example/.well-known/jwks.json";

  it.each<readonly [string, Partial<VerifySessionsOptions>, RegExp]>([
    ["http", { jwks: "http://test.example/jwks.json" }, /^jwks must be an https URL/],
    ["http on a host that only looks local", { jwks: "http://localhost.evil.example/" }, /^jwks/],
    ["credentials", { jwks: "https://user:pass@test.example/" }, /^jwks/],
    ["a file", { jwks: "file:///etc/passwd" }, /^jwks/],
    ["a data URL", { jwks: "data:application/json,{}" }, /^jwks/],
    ["a path", { jwks: "/.well-known/jwks.json" }, /^jwks/],
    ["no key set", { jwks: {} as JsonWebKeySet }, /^JWK set/],
    ["no jwks", { jwks: undefined as unknown as string }, /^JWK set/],
    ["no issuer", { issuer: "" }, /^issuer/],
    [
      "an option that needs a store",
      { store: {} } as object,
      /^unknown option "store" for verifySessions; /,
    ],
    ["an empty audience", { audience: "" }, /^audience/],
    ["a clockSkew that is too long", { clockSkew: "61s" }, /^clockSkew/],
    ["an origin with a path", { origins: ["https://a.example/"] }, /^origins/],
    ["an unknown choice", { crossSite: "off" as "checked" }, /^crossSite/],
  ])("refuses %s", (_, options, message) => {
    expect(() => verifySessions({ issuer, jwks, ...options })).toThrow(TypeError);
    expect(() => verifySessions({ issuer, jwks, ...options })).toThrow(message);
  });

  it("requires options", () => {
    expect(() => verifySessions(undefined as never)).toThrow(/^verifySessions requires options/);
  });

  it.each([
    jwks,
    new URL(jwks),
    "http://localhost:8080/jwks",
    "http://127.0.0.1/k",
    "http://[::1]/k",
  ])("accept %s", (url) => {
    expect(verifySessions({ issuer, jwks: url })).toHaveProperty("requestGate");
  });

  it("a given key set without a usable key fails when it is opened", async () => {
    const sessions = verifySessions({ issuer, jwks: { keys: [{ kty: "oct", k: "AAAA" }] } });
    await expect(sessions.ready()).rejects.toThrow(/no key/);
  });

  it("reports a policy for a method that is not served", () => {
    const sessions = verifySessions({ issuer, jwks, public: [NotesService] });
    const { routes } = sessions.protect({ routes: (router) => router });
    expect(() => createRouterTransport(routes)).toThrow(/serves no such method/);
  });
});
