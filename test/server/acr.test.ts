import { Code, type ConnectRouter } from "@connectrpc/connect";
import type { JsonObject } from "rpc-session";
import { SessionError } from "rpc-session";
import { memoryStore } from "rpc-session/stores/memory";
import { type TestSessionsOptions, testSessions } from "rpc-session/testing";
import { verifySessions } from "rpc-session/verify";
import { describe, expect, it } from "vitest";
import { z } from "zod";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { Action, PolicyViolationsSchema, Reason, Tokens } from "../../gen/rpcsession/v1/hint_pb.ts";
import { StrongService } from "../gen/policytest/v1/policytest_pb.ts";
import { accessOf, apiOf, payloadOf, refreshOf } from "../helpers/api.ts";
import { wireServer } from "../helpers/wire-server.ts";

const { classed, freshClassed } = StrongService.method;
const phr = { acr: "phr", amr: ["hwk", "user"] } as const;
const seen = { acr: "phr", amr: ["hwk", "user"] };
const none = { acr: undefined, amr: [] };

function routes(router: ConnectRouter): void {
  router.service(StrongService, { classed: () => ({}), freshClassed: () => ({}) });
}

function createWorld(options: TestSessionsOptions = {}) {
  const sessions = testSessions({ public: [NotesService.method.signIn], ...options });
  return { sessions, api: apiOf(sessions) };
}

function of({ acr, amr }: { readonly acr: string | undefined; readonly amr: readonly string[] }) {
  return { acr, amr };
}

/** A store with a session of an older version, whose claims have names that were reserved later. */
async function olderSession(claims: JsonObject, options: TestSessionsOptions = {}) {
  const store = memoryStore();
  let given: JsonObject | undefined;
  const { sessions, api } = createWorld({
    ...options,
    store: {
      ...store,
      insert: (session) => store.insert({ ...session, claims: given ?? session.claims }),
    },
  });
  given = claims;
  // The first refresh signs what is stored, as for any session of an older version.
  const { session, tokens } = await sessions.issue({ userId: "alice" });
  given = undefined;
  sessions.clock.advance("61s");
  const renewed = await api.refresh("header", tokens.refreshToken);
  return { sessions, api, id: session.id, bearer: accessOf(renewed) ?? "", renewed };
}

describe("feat:A15 how the user authenticated", () => {
  it.each(["cookie", "header"] as const)(
    "is in the session and in every access token, by %s: after the sign-in, a refresh and changed claims",
    async (transport) => {
      const { sessions, api } = createWorld();
      const headers = transport === "cookie" ? { origin: "https://test.example" } : {};
      const signedIn = await api.open({ headers }, async (ctx) =>
        of(await sessions.create(ctx, { userId: "alice", transport, ...phr })),
      );
      expect(signedIn.result).toEqual(seen);
      expect(payloadOf(accessOf(signedIn))).toMatchObject(seen);
      sessions.clock.advance("61s");
      const renewed = await api.refresh(transport, refreshOf(signedIn) ?? "");
      const access = accessOf(renewed) ?? "";
      expect(payloadOf(access)).toMatchObject(seen);
      const presented = transport === "cookie" ? { access } : { bearer: access };
      const changed = await api.call(presented, async (ctx) => {
        const session = sessions.require(ctx);
        await session.updateClaims({ role: "admin" });
        return [of(session), of(await session.info()), session.claims];
      });
      expect(changed.result).toEqual([seen, seen, { role: "admin" }]);
      expect(payloadOf(accessOf(changed))).toMatchObject({ ...seen, role: "admin" });
      const [listed] = (await sessions.list({ userId: "alice" })).sessions;
      expect(listed && of(listed)).toEqual(seen);
    },
  );

  it("is unknown if nobody says it, and then no token mentions it", async () => {
    const { sessions } = createWorld();
    const { session, tokens } = await sessions.issue({ userId: "alice" });
    expect([of(session), of(await session.info())]).toEqual([none, none]);
    const payload = payloadOf(tokens.accessToken);
    expect(Object.keys(payload).filter((name) => /acr|amr|authn/.test(name))).toEqual([]);
    const half = await sessions.issue({ userId: "alice", amr: ["pwd"] });
    expect(of(half.session)).toEqual({ acr: undefined, amr: ["pwd"] });
  });

  it("reauthenticate sets it anew, and nothing of the former authentication is left", async () => {
    const { sessions, api } = createWorld();
    const { tokens } = await sessions.issue({ userId: "alice", acr: "pwd", amr: ["pwd"] });
    const strong = await api.call({ bearer: tokens.accessToken }, async (ctx) =>
      of(await sessions.reauthenticate(ctx, phr)),
    );
    expect(strong.result).toEqual(seen);
    const plain = await api.call({ bearer: accessOf(strong) ?? "" }, async (ctx) => {
      const session = await sessions.reauthenticate(ctx);
      return [of(session), of(await session.info())];
    });
    expect(plain.result).toEqual([none, none]);
  });

  it("fork keeps it, together with the time", async () => {
    const { sessions, api } = createWorld();
    const { session, tokens } = await sessions.issue({ userId: "alice", ...phr });
    const { result } = await api.call({ bearer: tokens.accessToken }, (ctx) => sessions.fork(ctx));
    expect(result && of(result.session)).toEqual(seen);
    expect(result?.session.authTime).toEqual(session.authTime);
    expect(payloadOf(result?.tokens.accessToken)).toMatchObject(seen);
  });

  it("is seen by a service that only verifies, which no handler can change for others", async () => {
    const { sessions } = createWorld();
    const verifying = verifySessions({
      issuer: "https://test.example",
      jwks: await sessions.jwks(),
      clock: sessions.clock,
    });
    const { tokens } = await sessions.issue({ userId: "alice", ...phr });
    const headers = { authorization: `Bearer ${tokens.accessToken}` };
    const read = () =>
      verifying.getSession({
        requestMethod: "GET",
        url: "https://test.example/",
        requestHeader: new Headers(headers),
        responseHeader: new Headers(),
      });
    const first = await read();
    expect(of(first)).toEqual(seen);
    expect(() => (first.amr as string[]).push("mfa")).toThrow(TypeError);
    expect(of(await read())).toEqual(seen);
  });

  it.each([
    ["acr", ""],
    ["acr", "two words"],
    ["acr", 'qu"ote'],
    ["acr", "back\\slash"],
    ["acr", "größer"],
    ["acr", "a\r\nb"],
    ["acr", "x".repeat(256)],
    ["acr", 2],
    ["amr", []],
    ["amr", "pwd"],
    ["amr", ["pwd", ""]],
    ["amr", [1]],
    ["amr", Array.from({ length: 17 }, (_, i) => `m${i}`)],
  ])("refuses %s %j at every place, and says what it must be", async (name, value) => {
    const { sessions, api } = createWorld();
    const wrong = { [name]: value } as object;
    const message = new RegExp(`^${name} must be `);
    await expect(sessions.issue({ userId: "alice", ...wrong })).rejects.toThrow(message);
    const { tokens } = await sessions.issue({ userId: "alice" });
    const bearer = tokens.accessToken;
    const again = await api.call({ bearer }, (ctx) => sessions.reauthenticate(ctx, wrong));
    expect(again.error?.rawMessage).toMatch(message);
    const misspelt = { arc: "phr" } as object;
    const typo = await api.call({ bearer }, (ctx) => sessions.reauthenticate(ctx, misspelt));
    expect(typo.error?.rawMessage).toMatch(/^unknown option "arc" for sessions\.reauthenticate/);
    expect((await api.call({ bearer }, () => {})).error).toBeUndefined();
  });
});

describe("feat:A15 claims named acr and amr", () => {
  it.each(["acr", "amr"])("are refused by name: %s", async (name) => {
    const { sessions, api } = createWorld();
    const message = `claims.${name}: the name is reserved for how the user authenticated; pass ${name} beside the claims`;
    const claims = { [name]: "x" };
    await expect(sessions.issue({ userId: "alice", claims })).rejects.toThrow(message);
    const { tokens } = await sessions.issue({ userId: "alice" });
    const { error } = await api.call({ bearer: tokens.accessToken }, (ctx) =>
      sessions.require(ctx).updateClaims(claims),
    );
    expect(error?.rawMessage).toContain(message);
  });

  it.each<JsonObject>([
    { acr: "phr", amr: ["hwk"] },
    { acr: 2, amr: "pwd" },
  ])("of a session of an older version stay claims, and prove nothing: %j", async (older) => {
    const clientClaims = (claims: object) => ({ ...claims });
    const { sessions, api, bearer, renewed } = await olderSession(older, { clientClaims });
    expect(renewed.error).toBeUndefined();
    expect(renewed.notice?.claims).toEqual(older);
    const read = await api.call({ bearer }, (ctx) => {
      const session = sessions.require(ctx);
      return [session.claims, of(session)];
    });
    expect(read.result).toEqual([older, none]);
    const demanded = await api.call({ bearer }, (ctx) =>
      sessions.requireFresh(ctx, { acr: ["phr"] }),
    );
    expect(demanded.hint?.action).toBe(Action.STEP_UP);
    // Other claims can still be changed.
    const changed = await api.call({ bearer }, async (ctx) => {
      const session = sessions.require(ctx);
      await session.updateClaims({ role: "admin" });
      await session.updateClaims((claims) => ({ ...claims, level: 2 }));
      return session.claims;
    });
    expect(changed.result).toEqual({ ...older, role: "admin", level: 2 });
    const next = accessOf(changed) ?? "";
    // The session itself takes the place of these claims once it knows how the user authenticated.
    const again = await api.call({ bearer: next }, async (ctx) => {
      const session = await sessions.reauthenticate(ctx, { acr: "pwd" });
      return of(session);
    });
    expect(again.result).toEqual({ acr: "pwd", amr: [] });
    expect(payloadOf(accessOf(again))).toMatchObject({ acr: "pwd", role: "admin" });
    expect(payloadOf(accessOf(again))).not.toHaveProperty("amr");
  });

  it("of a session of an older version still match the schema that requires them", async () => {
    const claims = z.strictObject({ acr: z.string().optional() });
    const { sessions, api, bearer } = await olderSession({ acr: "old" }, { claims } as object);
    const { result } = await api.call({ bearer }, (ctx) => sessions.require(ctx).claims);
    expect(result).toEqual({ acr: "old" });
    // In a session that knows its acr, the schema does not see it.
    const { tokens } = await sessions.issue({ userId: "bob", ...phr });
    const fine = await api.call({ bearer: tokens.accessToken }, (ctx) => {
      const session = sessions.require(ctx);
      return [session.claims, session.acr];
    });
    expect(fine.result).toEqual([{}, "phr"]);
  });
});

describe("feat:A15 feat:D14 a class that a method demands", () => {
  function serve(options: TestSessionsOptions = {}) {
    const sessions = testSessions(options);
    const server = wireServer(sessions.protect({ routes }));
    const bearerOf = async (given: object) =>
      (await sessions.issue({ userId: "alice", ...given })).tokens.accessToken;
    return { sessions, server, bearerOf };
  }

  it.each([
    [{ acr: "phr" }, true],
    [{ acr: "phrh" }, true],
    [{ acr: "PHR" }, false],
    [{ acr: "ph" }, false],
    [{ amr: ["phr"] }, false],
    [{}, false],
  ])("in the schema: %j is accepted: %s", async (given, isAccepted) => {
    const { server, bearerOf } = serve();
    const { error, hint, headers } = await server.call(
      classed,
      {},
      { bearer: await bearerOf(given) },
    );
    if (isAccepted) {
      expect(error).toBeUndefined();
      return;
    }
    expect(error?.code).toBe(Code.PermissionDenied);
    expect(hint).toMatchObject({
      action: Action.STEP_UP,
      reason: Reason.STEP_UP_REQUIRED,
      tokens: Tokens.KEEP,
      acrValues: ["phr", "phrh"],
      procedure: "policytest.v1.StrongService/Classed",
    });
    expect(hint?.maxAge).toBeUndefined();
    const { violations } = error?.findDetails(PolicyViolationsSchema)[0] ?? {};
    expect(violations).toMatchObject([{ claim: "acr", requirement: "one of phr, phrh" }]);
    expect(headers.get("rpcsession-hint")).toBe("step-up");
    expect(headers.get("www-authenticate")).toBe(
      'Bearer realm="https://test.example", error="insufficient_user_authentication", acr_values="phr phrh"',
    );
  });

  it("the hint names all demands, because the next authentication replaces the last one", async () => {
    const { sessions, server, bearerOf } = serve();
    const [strong, weak] = [await bearerOf({ acr: "phrh" }), await bearerOf({ acr: "pwd" })];
    expect((await server.call(freshClassed, {}, { bearer: strong })).error).toBeUndefined();
    const asked = { acrValues: ["phrh"], maxAge: { seconds: 600n, nanos: 0 } };
    const young = await server.call(freshClassed, {}, { bearer: weak });
    expect(young.hint).toMatchObject(asked);
    sessions.clock.advance("11m");
    for (const [bearer, unmet] of [
      [strong, ["auth_time"]],
      [weak, ["auth_time", "acr"]],
    ] as const) {
      const late = await server.call(freshClassed, {}, { bearer });
      expect(late.hint).toMatchObject(asked);
      const { violations } = late.error?.findDetails(PolicyViolationsSchema)[0] ?? {};
      expect(violations?.map(({ claim }) => claim)).toEqual(unmet);
      expect(late.headers.get("www-authenticate")).toContain(', acr_values="phrh", max_age="600"');
    }
  });

  it("code overrides the schema, and an empty list accepts any session", async () => {
    const name = "policytest.v1.StrongService/Classed";
    const other = serve({ methods: { [name]: { acr: ["mfa"] } } });
    const bearer = await other.bearerOf({ acr: "phr" });
    const refused = await other.server.call(classed, {}, { bearer });
    expect(refused.hint?.acrValues).toEqual(["mfa"]);
    const any = serve({ methods: { [name]: { acr: [] } } });
    const plain = await any.bearerOf({});
    expect((await any.server.call(classed, {}, { bearer: plain })).error).toBeUndefined();
  });

  it("a service that only verifies enforces it too", async () => {
    const { sessions, bearerOf } = serve();
    const verifying = verifySessions({
      issuer: "https://test.example",
      jwks: await sessions.jwks(),
      clock: sessions.clock,
    });
    const server = wireServer(verifying.protect({ routes }));
    const strong = await server.call(classed, {}, { bearer: await bearerOf({ acr: "phr" }) });
    expect(strong.error).toBeUndefined();
    const weak = await server.call(classed, {}, { bearer: await bearerOf({}) });
    expect(weak.hint?.action).toBe(Action.STEP_UP);
  });

  it.each([
    [{ acr: "phr" }, /the acr of .*Classed must be a list of strings, such as \["phr"\]/],
    [{ acr: ["a b"] }, /the acr of .*Classed must be 1 to 255 printable ASCII characters/],
    [{ auth: "none", acr: ["phr"] }, /but its auth is "none", which ignores sessions/],
  ])("feat:N4 %j is refused before the first call", (policy, message) => {
    const methods = { "policytest.v1.StrongService/Classed": policy as object };
    expect(() => {
      const router = wireServer(testSessions({ methods }).protect({ routes }));
      return router;
    }).toThrow(message);
  });

  it("requireFresh in a handler demands a class, a time or both", async () => {
    const { sessions, api } = createWorld();
    const { tokens } = await sessions.issue({ userId: "alice", ...phr });
    const bearer = tokens.accessToken;
    const both = { freshWithin: "10m", acr: ["phr"] } as const;
    const fine = await api.call({ bearer }, (ctx) => [
      sessions.requireFresh(ctx, both).acr,
      sessions.requireFresh(ctx, { acr: ["x", "phr"] }).acr,
      sessions.requireFresh(ctx, { freshWithin: "10m" }).acr,
    ]);
    expect(fine.result).toEqual(["phr", "phr", "phr"]);
    const other = await api.call({ bearer }, (ctx) =>
      sessions.requireFresh(ctx, { ...both, acr: ["mfa"] }),
    );
    expect(other.hint).toMatchObject({ acrValues: ["mfa"], maxAge: { seconds: 600n } });
    sessions.clock.advance("11m");
    const late = await api.call({ bearer }, (ctx) => sessions.requireFresh(ctx, both));
    expect(late.hint).toMatchObject({ acrValues: ["phr"], maxAge: { seconds: 600n } });
    for (const wrong of [{}, { within: "10m" }, { acr: "phr" }, { acr: [] }, null]) {
      const { error } = await api.call({ bearer }, (ctx) =>
        sessions.requireFresh(ctx, wrong as never),
      );
      expect([error?.code, error?.rawMessage]).toEqual([
        Code.Internal,
        expect.stringMatching(/requireFresh/),
      ]);
    }
  });

  it("an error of the service asks for a class in its own words", async () => {
    const { sessions, api } = createWorld();
    const { tokens } = await sessions.issue({ userId: "alice" });
    const { hint } = await api.call({ bearer: tokens.accessToken }, () => {
      throw new SessionError("forbidden", "STEP_UP_REQUIRED", {
        message: "a transfer of this size requires a passkey",
        stepUp: { maxAge: 60_500, acrValues: ["phr"] },
      });
    });
    expect(hint).toMatchObject({ action: Action.STEP_UP, acrValues: ["phr"] });
    expect(hint?.maxAge).toMatchObject({ seconds: 60n, nanos: 0 });
  });
});
