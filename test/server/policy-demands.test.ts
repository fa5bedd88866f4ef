import { fromBinary } from "@bufbuild/protobuf";
import { Code, type ConnectRouter } from "@connectrpc/connect";
import type { Duration, JsonObject, MethodPolicyOptions } from "rpc-session";
import { type TestSessionsOptions, testSessions } from "rpc-session/testing";
import { verifySessions } from "rpc-session/verify";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import {
  Action,
  PolicyViolationsSchema,
  Reason,
  RefreshHintSchema,
  Tokens,
} from "../../gen/rpcsession/v1/hint_pb.ts";
import { DemandingService } from "../gen/policytest/v1/policytest_pb.ts";
import { apiOf } from "../helpers/api.ts";
import { cookieEffects } from "../helpers/exchanges.ts";
import { cells } from "../helpers/kinds.ts";
import { byCookie, byHeader } from "../helpers/presented.ts";
import { type NotesServer, startNotes } from "../helpers/server.ts";
import { callWire, wireName } from "../helpers/wire.ts";
import { wireServer } from "../helpers/wire-server.ts";

const { fresh, claimed, inheritedDemand, guest } = DemandingService.method;
const procedureOf = (name: string) => `policytest.v1.DemandingService/${name}`;

function routes(router: ConnectRouter): void {
  const fine = () => ({});
  router.service(DemandingService, {
    fresh: fine,
    claimed: fine,
    inheritedDemand: fine,
    guest: fine,
  });
}

function serve(options: TestSessionsOptions = {}) {
  const sessions = testSessions(options);
  const server = wireServer(sessions.protect({ routes }));
  const bearerOf = async (claims: JsonObject) =>
    (await sessions.issue({ userId: "alice", claims })).tokens.accessToken;
  return { sessions, server, bearerOf };
}

describe("feat:L5 feat:K6 claims that a method demands in the schema", () => {
  interface Row {
    readonly claims: JsonObject;
    readonly unmet: readonly string[];
  }
  it.each<Row>([
    { claims: { role: "admin", plan: "free" }, unmet: [] },
    { claims: { role: "owner", plan: 0 }, unmet: [] },
    { claims: { role: ["reader", "owner"], plan: false }, unmet: [] },
    { claims: { role: "reader", plan: "free" }, unmet: ["role one of admin, owner"] },
    { claims: { role: [], plan: [] }, unmet: ["role one of admin, owner"] },
    { claims: { role: "Admin", plan: "x" }, unmet: ["role one of admin, owner"] },
    { claims: { role: { admin: true }, plan: "x" }, unmet: ["role one of admin, owner"] },
    { claims: { role: "admin" }, unmet: ["plan present"] },
    { claims: { role: "admin", plan: null }, unmet: ["plan present"] },
    { claims: {}, unmet: ["role one of admin, owner", "plan present"] },
  ])("feat:L5 $claims: unmet $unmet", async ({ claims, unmet }) => {
    const { sessions, server, bearerOf } = serve();
    const bearer = await bearerOf(claims);
    const { error, hint, headers, body } = await server.call(claimed, {}, { bearer });
    if (unmet.length === 0) {
      expect(error).toBeUndefined();
      return;
    }
    expect(error?.code).toBe(Code.PermissionDenied);
    expect(hint).toMatchObject({
      action: Action.UNSPECIFIED,
      reason: Reason.CLAIM_REJECTED,
      tokens: Tokens.KEEP,
      procedure: procedureOf("Claimed"),
    });
    const { violations } = error?.findDetails(PolicyViolationsSchema)[0] ?? {};
    expect(violations?.map((v) => `${v.claim} ${v.requirement}`)).toEqual(unmet);
    expect(headers.has("www-authenticate")).toBe(false);
    expect(body).not.toContain("reader");
    expect((await sessions.list({ userId: "alice" })).sessions).toHaveLength(1);
  });

  it("feat:L5 the demands of the service apply to methods without their own", async () => {
    const { server, bearerOf } = serve();
    const without = await server.call(inheritedDemand, {}, { bearer: await bearerOf({}) });
    expect(without.hint?.reason).toBe(Reason.CLAIM_REJECTED);
    const withIt = await server.call(
      inheritedDemand,
      {},
      { bearer: await bearerOf({ verified: true }) },
    );
    expect(withIt.error).toBeUndefined();
    // A method's own claims replace those of the service.
    const own = await server.call(
      claimed,
      {},
      { bearer: await bearerOf({ role: "admin", plan: 1 }) },
    );
    expect(own.error).toBeUndefined();
    // A method without claims has the service's claims and its own freshness.
    const both = await server.call(fresh, {}, { bearer: await bearerOf({}) });
    expect(both.hint?.reason).toBe(Reason.CLAIM_REJECTED);
  });

  it("feat:L5 feat:B2 with optional auth, only calls with a session must meet the demands", async () => {
    const { server, bearerOf } = serve();
    expect((await server.call(guest, {}, {})).error).toBeUndefined();
    const refused = await server.call(guest, {}, { bearer: await bearerOf({ role: "reader" }) });
    expect(refused.hint?.reason).toBe(Reason.CLAIM_REJECTED);
    expect(
      (await server.call(guest, {}, { bearer: await bearerOf({ role: "admin" }) })).error,
    ).toBeUndefined();
  });

  it("feat:L5 feat:L6 feat:B6 claims changed by id apply to the next call, whatever its token contains", async () => {
    const { sessions, server } = serve();
    const { session, tokens } = await sessions.issue({
      userId: "alice",
      claims: { role: "admin", plan: 1 },
    });
    const bearer = tokens.accessToken;
    expect((await server.call(claimed, {}, { bearer })).error).toBeUndefined();
    await sessions.updateClaims(session.id, { role: "reader" });
    const demoted = await server.call(claimed, {}, { bearer });
    expect(demoted.hint?.reason).toBe(Reason.CLAIM_REJECTED);
    // The refusal carries the token with the new claims.
    expect(demoted.headers.has("rpcsession-access-token")).toBe(true);
    await sessions.updateClaims(session.id, { role: "owner" });
    expect((await server.call(claimed, {}, { bearer })).error).toBeUndefined();
  });

  it("feat:L5 names that every object inherits are not claims", async () => {
    const methods = { [procedureOf("Claimed")]: { claims: { constructor: [], toString: [] } } };
    const { server, bearerOf } = serve({ methods });
    const { hint } = await server.call(
      claimed,
      {},
      { bearer: await bearerOf({ role: "admin", plan: 1 }) },
    );
    expect(hint?.reason).toBe(Reason.CLAIM_REJECTED);
  });
});

describe("feat:L5 feat:K6 demands in code", () => {
  const withCode = (policy: MethodPolicyOptions, name = "Claimed") =>
    serve({ methods: { [procedureOf(name)]: policy } });

  it("feat:L5 code overrides the schema, even with an empty list of claims", async () => {
    const other = withCode({ claims: { team: ["red"] } });
    const bearer = await other.bearerOf({ team: ["blue", "red"] });
    expect((await other.server.call(claimed, {}, { bearer })).error).toBeUndefined();
    const none = withCode({ claims: {} });
    expect(
      (await none.server.call(claimed, {}, { bearer: await none.bearerOf({}) })).error,
    ).toBeUndefined();
    const silent = withCode({ auth: "required" });
    const refused = await silent.server.call(claimed, {}, { bearer: await silent.bearerOf({}) });
    expect(refused.hint?.reason).toBe(Reason.CLAIM_REJECTED);
  });

  it("feat:L5 feat:D14 freshWithin in code overrides the schema", async () => {
    const { sessions, server, bearerOf } = withCode({ freshWithin: "1m", claims: {} }, "Fresh");
    const bearer = await bearerOf({});
    sessions.clock.advance("50s");
    expect((await server.call(fresh, {}, { bearer })).error).toBeUndefined();
    sessions.clock.advance("12s");
    expect((await server.call(fresh, {}, { bearer })).hint?.action).toBe(Action.STEP_UP);
  });

  it("feat:L5 describe shows them", () => {
    const sessions = testSessions({ methods: { [procedureOf("Claimed")]: { freshWithin: "5m" } } });
    let described: ReturnType<typeof sessions.describe> = [];
    wireServer(
      sessions.protect({
        routes: (router) => {
          routes(router);
          described = sessions.describe(router);
        },
      }),
    );
    expect(
      described.map(({ procedure, freshWithin, claims }) => [
        procedure.split("/")[1],
        freshWithin,
        claims,
      ]),
    ).toEqual([
      ["Fresh", 600_000, [{ claim: "verified", anyOf: [] }]],
      [
        "Claimed",
        300_000,
        [
          { claim: "role", anyOf: ["admin", "owner"] },
          { claim: "plan", anyOf: [] },
        ],
      ],
      ["InheritedDemand", undefined, [{ claim: "verified", anyOf: [] }]],
      ["Guest", undefined, [{ claim: "role", anyOf: ["admin"] }]],
    ]);
  });

  it.each<[object, RegExp]>([
    [
      { freshWithin: "soon" },
      /^methods: the freshWithin of .*Claimed: "soon" is not a valid duration/,
    ],
    [
      { claims: { role: "admin" } },
      /^methods: the claim "role" of .*Claimed must have a list of strings/,
    ],
    [
      { claims: { role: [7] } },
      /^methods: the claim "role" of .*Claimed must have a list of strings/,
    ],
  ])("feat:L5 feat:N4 %o is refused at construction", (policy, message) => {
    const methods = { [procedureOf("Claimed")]: policy as MethodPolicyOptions };
    expect(() => testSessions({ methods })).toThrow(TypeError);
    expect(() => testSessions({ methods })).toThrow(message);
  });

  it.each<[string, MethodPolicyOptions]>([
    ["claims", { auth: "none", claims: { role: ["admin"] } }],
    ["a fresh sign-in", { auth: "none", freshWithin: "5m" }],
  ])("feat:L5 feat:N4 a public method cannot demand %s", (_, policy) => {
    const sessions = testSessions({ methods: { [procedureOf("InheritedDemand")]: policy } });
    expect(() => wireServer(sessions.protect({ routes }))).toThrow(
      /demands claims, a recent sign-in or an acr, but its auth is "none", which ignores sessions; set its auth to "required"/,
    );
  });

  it("feat:L5 a public method of a service that demands claims stays public", async () => {
    const { server } = serve({ public: [inheritedDemand] });
    expect((await server.call(inheritedDemand, {}, {})).error).toBeUndefined();
    // The method's own demands are not dropped by a setting elsewhere.
    const sessions = testSessions({ public: [claimed] });
    expect(() => wireServer(sessions.protect({ routes }))).toThrow(
      /its auth is "none", which ignores sessions/,
    );
  });
});

describe("feat:D14 how long ago the user authenticated", () => {
  const given = { methods: { [procedureOf("Fresh")]: { claims: {} } } };

  it("feat:D14 in the schema: ten minutes after the sign-in, only signing in again helps, not a refresh", async () => {
    const { sessions, server } = serve(given);
    const { tokens } = await sessions.issue({ userId: "alice" });
    sessions.clock.advance("10m");
    const { accessToken: bearer } = tokens;
    expect((await server.call(fresh, {}, { bearer })).error).toBeUndefined();
    sessions.clock.advance("1s");
    const late = await server.call(fresh, {}, { bearer });
    expect(late.error?.code).toBe(Code.PermissionDenied);
    expect(late.hint).toMatchObject({
      action: Action.STEP_UP,
      reason: Reason.STEP_UP_REQUIRED,
      tokens: Tokens.KEEP,
    });
    const { violations } = late.error?.findDetails(PolicyViolationsSchema)[0] ?? {};
    expect(violations).toMatchObject([{ claim: "auth_time", requirement: "within 600s" }]);
    expect(late.headers.get("rpcsession-hint")).toBe("step-up");
    expect(late.headers.get("www-authenticate")).toBe(
      'Bearer realm="https://test.example", error="insufficient_user_authentication", max_age="600"',
    );
  });

  it("feat:D14 a service that only verifies enforces it too", async () => {
    const issuer = testSessions();
    const { tokens } = await issuer.issue({ userId: "alice" });
    const verifying = verifySessions({
      issuer: "https://test.example",
      jwks: await issuer.jwks(),
      clock: issuer.clock,
      ...given,
    });
    const server = wireServer(verifying.protect({ routes }));
    const bearer = tokens.accessToken;
    expect((await server.call(fresh, {}, { bearer })).error).toBeUndefined();
    issuer.clock.advance("11m");
    expect((await server.call(fresh, {}, { bearer })).hint?.action).toBe(Action.STEP_UP);
  });

  it("feat:D14 requireFresh in a handler: refused, then reauthenticated, then admitted", async () => {
    const sessions = testSessions({ public: [NotesService.method.signIn] });
    const api = apiOf(sessions);
    const { tokens } = await sessions.issue({ userId: "alice", transport: "cookie" });
    const { accessToken: access, refreshToken } = tokens;
    sessions.clock.advance("9m");
    const early = await api.call({ access }, (ctx) => sessions.requireFresh(ctx, "10m").userId);
    expect(early.result).toBe("alice");
    sessions.clock.advance("2m");
    const late = await api.call({ access }, (ctx) => sessions.requireFresh(ctx, "10m"));
    expect(late.error?.code).toBe(Code.PermissionDenied);
    expect(late.hint).toMatchObject({ action: Action.STEP_UP, reason: Reason.STEP_UP_REQUIRED });
    expect(late.hint?.procedure).toBe("notes.v1.NotesService/AddNote");
    expect(late.headers.get("www-authenticate")).toContain("insufficient_user_authentication");
    expect(cookieEffects(late.headers)).toEqual([]);
    // A refresh does not prove the identity of the user.
    const refreshed = await api.refresh("cookie", refreshToken);
    const newer = refreshed.headers.getSetCookie()[0]?.replace(/^[^=]*=([^;]*);.*$/, "$1") ?? "";
    const still = await api.call({ access: newer }, (ctx) => sessions.requireFresh(ctx, "10m"));
    expect(still.hint?.action).toBe(Action.STEP_UP);
    const anew = await api.call({ access: newer }, async (ctx) => {
      await sessions.reauthenticate(ctx);
      return sessions.requireFresh(ctx, "10m").id;
    });
    expect(anew.error).toBeUndefined();
    expect(anew.result).toBe(anew.notice?.session);
  });

  it("feat:D14 a fork keeps the time of authentication of its parent", async () => {
    const sessions = testSessions({ public: [NotesService.method.signIn] });
    const api = apiOf(sessions);
    const { tokens } = await sessions.issue({ userId: "alice" });
    sessions.clock.advance("11m");
    const { result } = await api.call({ bearer: tokens.accessToken }, (ctx) => sessions.fork(ctx));
    const bearer = result?.tokens.accessToken ?? "";
    const { hint } = await api.call({ bearer }, (ctx) => sessions.requireFresh(ctx, "10m"));
    expect(hint?.action).toBe(Action.STEP_UP);
  });

  it("feat:D14 feat:N4 an invalid duration: Internal, with an example of a valid one", async () => {
    const sessions = testSessions({ public: [NotesService.method.signIn] });
    const api = apiOf(sessions);
    const { tokens } = await sessions.issue({ userId: "alice" });
    const bearer = tokens.accessToken;
    const { error } = await api.call({ bearer }, (ctx) =>
      sessions.requireFresh(ctx, "soon" as Duration),
    );
    expect(error?.code).toBe(Code.Internal);
    expect(error?.rawMessage).toBe(
      'requireFresh: "soon" is not a valid duration; use a value such as "15m" or "30s"',
    );
    const none = await api.open({}, (ctx) => sessions.requireFresh(ctx, "10m"));
    expect(none.error?.code).toBe(Code.Internal);
    expect(none.error?.rawMessage).toMatch(/which is public, so its calls have no session/);
  });
});

describe("feat:D14 feat:L5 unmet demands over every protocol", () => {
  let server: NotesServer;
  const methods = Object.fromEntries(
    NotesService.methods
      .filter(({ name }) => !name.startsWith("Sign"))
      .map(({ name }) => [`notes.v1.NotesService/${name}`, { freshWithin: "10m" }] as const),
  );
  beforeAll(async () => {
    server = await startNotes({ sessions: { methods } });
  });
  afterAll(() => server.close());

  for (const { kind, wire } of cells) {
    it(`feat:D14 are reported as STEP_UP with a violation: ${kind.name}, ${wireName(wire)}`, async () => {
      const { session, tokens } = await server.sessions.issue({
        userId: "alice",
        transport: "cookie",
      });
      const old = byCookie(session.id, { access: tokens.accessToken });
      server.sessions.clock.advance("11m");
      const result = await callWire(server, wire, { ...kind, headers: old.headers });
      expect(result.code).toBe("permission_denied");
      expect(result.headers.get("www-authenticate")).toBe(
        'Bearer realm="https://test.example", error="insufficient_user_authentication", max_age="600"',
      );
      expect(result.headers.get("rpcsession-hint")).toBe("step-up");
      expect(result.setCookie).toEqual([]);
      const bytes = (type: string) =>
        Buffer.from(result.details.find((d) => d.type === type)?.value ?? "", "hex");
      expect(fromBinary(RefreshHintSchema, bytes("rpcsession.v1.RefreshHint"))).toMatchObject({
        action: Action.STEP_UP,
        tokens: Tokens.KEEP,
        session: session.id,
      });
      expect(
        fromBinary(PolicyViolationsSchema, bytes("rpcsession.v1.PolicyViolations")).violations,
      ).toMatchObject([{ claim: "auth_time", requirement: "within 600s" }]);
      const fine = await server.sessions.issue({ userId: "alice" });
      const { headers } = byHeader(fine.session.id, fine.tokens.accessToken);
      expect((await callWire(server, wire, { ...kind, headers })).code).toBe("ok");
    });
  }
});
