import { Code, type ConnectRouter } from "@connectrpc/connect";
import { type ClaimRule, type ClaimRules, createSessions, type JsonObject } from "rpc-session";
import { memoryStore } from "rpc-session/stores/memory";
import { type TestSessionsOptions, testSessions } from "rpc-session/testing";
import { describe, expect, it } from "vitest";
import { z } from "zod";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { PolicyViolationsSchema, Reason } from "../../gen/rpcsession/v1/hint_pb.ts";
import { RulesService } from "../gen/policytest/v1/policytest_pb.ts";
import { wireServer } from "../helpers/wire-server.ts";

const { listNotes } = NotesService.method;
const procedure = "notes.v1.NotesService/ListNotes";

function routes(router: ConnectRouter): void {
  router.service(NotesService, { listNotes: () => ({}) });
  router.service(RulesService, { ruled: () => ({}) });
}

/** A service whose ListNotes has a policy, and the answer to a call with some claims. */
function serve(
  policy: NonNullable<TestSessionsOptions["methods"]>[string],
  more: TestSessionsOptions = {},
) {
  const sessions = testSessions({ methods: { [procedure]: policy }, ...more });
  const server = wireServer(sessions.protect({ routes }));
  const call = async (claims: JsonObject) => {
    const { tokens } = await sessions.issue({ userId: "alice", claims });
    const answer = await server.call(listNotes, {}, { bearer: tokens.accessToken });
    const [details] = answer.error?.findDetails(PolicyViolationsSchema) ?? [];
    return { ...answer, violations: details?.violations ?? [] };
  };
  return { sessions, server, call };
}

// The fake clock begins at 2026-01-01T00:00:00Z.
const start = Date.UTC(2026, 0, 1) / 1000;

interface Row {
  readonly rule: ClaimRule;
  readonly met: readonly (JsonObject[string] | undefined)[];
  readonly unmet: readonly (JsonObject[string] | undefined)[];
  readonly says: string;
}

const rows: readonly Row[] = [
  {
    rule: { equals: "pro" },
    met: ["pro"],
    unmet: ["Pro", "", ["pro"], null, undefined, {}],
    says: "equals pro",
  },
  {
    rule: { equals: true },
    met: [true, "true"],
    unmet: [false, 1, undefined],
    says: "equals true",
  },
  { rule: { equals: 3 }, met: [3, "3"], unmet: [3.5, "03", undefined], says: "equals 3" },
  {
    rule: { anyOf: ["a", "b"] },
    met: ["a", ["x", "b"]],
    unmet: ["c", [], undefined],
    says: "one of a, b",
  },
  {
    rule: { allOf: ["a", "b"] },
    met: [["b", "a", "c"]],
    unmet: ["a", ["a"], [], undefined],
    says: "all of a, b",
  },
  {
    rule: { noneOf: ["x"] },
    met: ["a", ["a"], []],
    unmet: ["x", ["a", "x"], undefined],
    says: "none of x",
  },
  {
    rule: { noneOf: ["x"], allowMissing: true },
    met: [undefined, null, "a"],
    unmet: ["x"],
    says: "none of x",
  },
  { rule: { has: true }, met: ["", 0, false, [], {}], unmet: [null, undefined], says: "present" },
  { rule: { has: false }, met: [null, undefined], unmet: ["", 0, false], says: "absent" },
  { rule: { gt: 3 }, met: [4, 3.1], unmet: [3, "4", true, [4], undefined], says: "greater than 3" },
  { rule: { gte: 3 }, met: [3], unmet: [2.9, "3", undefined], says: "at least 3" },
  { rule: { lt: 3 }, met: [2], unmet: [3, "2", undefined], says: "less than 3" },
  { rule: { lte: 3 }, met: [3], unmet: [3.1, null], says: "at most 3" },
  {
    rule: { before: "now" },
    met: [start - 1, "2025-12-31T23:59:59Z"],
    unmet: [start + 60, "2026-01-01T00:01:00Z", "soon", true, undefined],
    says: "before now",
  },
  {
    rule: { after: "2027-01-01T00:00:00Z" },
    met: ["2027-01-01T00:00:01Z", Date.UTC(2027, 0, 2) / 1000],
    unmet: ["2027-01-01T00:00:00Z", start, "later", undefined],
    says: "after 2027-01-01T00:00:00.000Z",
  },
  {
    rule: { after: new Date(Date.UTC(2027, 0, 1)) },
    met: ["2027-01-01T00:00:01Z"],
    unmet: [start],
    says: "after 2027-01-01T00:00:00.000Z",
  },
];

describe("feat:L3 rules on a claim", () => {
  it.each(rows)("feat:L3 $rule", async ({ rule, met, unmet, says }) => {
    const { call } = serve({ claims: { plan: rule } });
    const claimsWith = (value: JsonObject[string] | undefined): JsonObject =>
      value === undefined ? {} : { plan: value };
    for (const value of met) {
      expect((await call(claimsWith(value))).error, JSON.stringify(value)).toBeUndefined();
    }
    const name = Object.keys(rule)[0];
    for (const value of unmet) {
      const { error, hint, violations } = await call(claimsWith(value));
      expect(error?.code, JSON.stringify(value)).toBe(Code.PermissionDenied);
      expect(hint?.reason).toBe(Reason.CLAIM_REJECTED);
      expect(violations).toMatchObject([
        { claim: "plan", requirement: says, rule: name, value: "" },
      ]);
    }
  });

  it("feat:L3 names one violation for each claim, and the first rule of it that does not hold", async () => {
    const { call } = serve({
      claims: { level: { gte: 3, lt: 10 }, groups: { allOf: ["staff"], noneOf: ["out"] } },
    });
    const { violations } = await call({ level: 11, groups: ["staff", "out"] });
    expect(violations.map((v) => `${v.claim}: ${v.requirement} (${v.rule})`)).toEqual([
      "level: less than 10 (lt)",
      "groups: none of out (noneOf)",
    ]);
  });

  it("feat:L3 times are compared with the store's clock as it goes on", async () => {
    const { call, sessions } = serve({ claims: { trialEnds: { after: "now" } } });
    const claims = { trialEnds: start + 60 };
    expect((await call(claims)).error).toBeUndefined();
    sessions.clock.advance("61s");
    expect((await call(claims)).violations).toMatchObject([{ requirement: "after now" }]);
  });

  it("feat:L3 the rules of the schema are those of code", async () => {
    const sessions = testSessions();
    const server = wireServer(sessions.protect({ routes }));
    const call = async (claims: JsonObject) => {
      const { tokens } = await sessions.issue({ userId: "alice", claims });
      const { error } = await server.call(
        RulesService.method.ruled,
        {},
        { bearer: tokens.accessToken },
      );
      const [details] = error?.findDetails(PolicyViolationsSchema) ?? [];
      return details?.violations.map((v) => `${v.claim}: ${v.requirement}`) ?? "fine";
    };
    const good = { verified: true, groups: ["staff"], level: 3 };
    expect(await call(good)).toBe("fine");
    expect(await call({ ...good, trialEnds: start + 60 })).toBe("fine");
    expect(await call({ ...good, trialEnds: start - 60 })).toEqual(["trialEnds: after now"]);
    expect(await call({ ...good, trialEnds: "2031-01-01T00:00:00Z" })).toEqual([
      "trialEnds: before 2030-01-01T00:00:00.000Z",
    ]);
    expect(await call({ blocked: 1, groups: ["staff", "suspended"], level: 10 })).toEqual([
      "verified: equals true",
      "groups: none of suspended",
      "level: less than 10",
      "blocked: absent",
    ]);
  });

  it("sec:A04 feat:L5 a violation has the value of a claim only where the client may read it", async () => {
    const { call } = serve(
      { claims: { role: ["admin"], plan: ["pro"], note: { equals: "x" } } },
      { clientClaims: ({ role, note }) => ({ role: role ?? null, note: note ?? null }) },
    );
    const secret = "a-claim-that-the-client-must-not-see";
    const answer = await call({ role: "reader", plan: secret, note: "n".repeat(100) });
    expect(answer.violations.map((v) => [v.claim, v.value])).toEqual([
      ["role", '"reader"'],
      ["plan", ""],
      ["note", ""],
    ]);
    expect(answer.body).not.toContain(secret);
    expect(JSON.stringify([...answer.headers])).not.toContain(secret);
  });

  it("feat:L5 clientClaims that fails later hides the value, and the call is refused all the same", async () => {
    let isBroken = false;
    const { sessions, server } = serve(
      { claims: { role: ["admin"] } },
      {
        clientClaims({ role }) {
          if (isBroken) {
            throw new Error("broken");
          }
          return { role: role ?? null };
        },
      },
    );
    const { tokens } = await sessions.issue({ userId: "alice", claims: { role: "reader" } });
    isBroken = true;
    const { error } = await server.call(listNotes, {}, { bearer: tokens.accessToken });
    expect(error?.code).toBe(Code.PermissionDenied);
    expect(error?.findDetails(PolicyViolationsSchema)[0]?.violations).toMatchObject([
      { claim: "role", requirement: "one of admin", value: "" },
    ]);
  });
});

describe("feat:L3 rules that can never hold are refused at the start", () => {
  it.each<readonly [ClaimRules, string]>([
    [{ role: { anyOf: "admin" } as never }, "anyOf must be a list"],
    [{ role: { noneOf: [] } }, "noneOf must name at least one value"],
    [{ role: { allOf: [{}] } as never }, "each must be a string, a number or a boolean"],
    [{ role: { gt: "3" } as never }, "gt must be a finite number, got string"],
    [{ role: { lt: Number.NaN } }, "lt must be a finite number, got NaN"],
    [{ role: { before: "soon" } }, 'before must be "now" or a time'],
    [{ role: { has: "yes" } as never }, "has must be true or false"],
    [{ role: { has: false, gt: 3 } }, "has: false says that the claim must not exist"],
    [{ role: { has: true, allowMissing: true } }, "contradict each other"],
    [{ role: { equal: "x" } as never }, "equal"],
    [{ role: "admin" as never }, "must have a list of strings"],
    [{ role: [1] as never }, "must have a list of strings"],
    [{ "": ["admin"] }, "must have a name"],
    // An object literal takes this name for its prototype, and the rule would be lost.
    [{ __proto__: ["admin"] } as never, 'the claim "__proto__"'],
    [{ role: { gte: 4, lte: 3 } }, "no number is at least 4 and at most 3"],
    [{ role: { gt: 3, lte: 3 } }, "no number is greater than 3 and at most 3"],
    [
      { role: { after: "2030", before: "2029" } },
      "no time is before 2029-01-01T00:00:00.000Z and after 2030",
    ],
  ])("feat:L3 %j", (claims, message) => {
    const create = () =>
      createSessions({
        issuer: "https://test.example",
        store: memoryStore(),
        methods: { [procedure]: { claims } },
      });
    expect(create).toThrow(TypeError);
    expect(create).toThrow(message);
    expect(create).toThrow(procedure);
  });

  it("feat:L3 a public method cannot have validate", () => {
    const sessions = testSessions({
      methods: { [procedure]: { auth: "none", validate: () => undefined } },
    });
    expect(() => wireServer(sessions.protect({ routes }))).toThrow('its auth is "none"');
  });

  it("feat:L3 validate must be a function", () => {
    expect(() => testSessions({ methods: { [procedure]: { validate: true as never } } })).toThrow(
      "must be a function, got boolean",
    );
  });
});

describe("feat:L3 validate: code that decides on the claims", () => {
  it("feat:L3 gets typed claims and the session, and its reasons reach the client", async () => {
    const seen: unknown[] = [];
    const sessions = testSessions({
      claims: z.object({ plan: z.enum(["free", "pro"]).default("free"), seats: z.number() }),
      methods: {
        [procedure]: {
          validate({ plan, seats }, session) {
            seen.push(session.userId);
            return plan === "free" && seats > 3
              ? { claim: "seats", requirement: "at most 3 on the free plan" }
              : undefined;
          },
        },
      },
    });
    const server = wireServer(sessions.protect({ routes }));
    const call = async (seats: number) => {
      const { tokens } = await sessions.issue({ userId: "alice", claims: { seats } });
      return server.call(listNotes, {}, { bearer: tokens.accessToken });
    };
    expect((await call(3)).error).toBeUndefined();
    const { error, hint } = await call(4);
    expect(error?.code).toBe(Code.PermissionDenied);
    expect(hint?.reason).toBe(Reason.CLAIM_REJECTED);
    expect(error?.findDetails(PolicyViolationsSchema)[0]?.violations).toMatchObject([
      { claim: "seats", requirement: "at most 3 on the free plan", rule: "validate", value: "" },
    ]);
    expect(seen).toEqual(["alice", "alice"]);
  });

  it.each<readonly [string, () => unknown]>([
    [
      "throws",
      () => {
        throw new Error("secret of the fault");
      },
    ],
    ["returns true", () => true],
    ["returns false", () => false],
    ["returns null", () => null],
    ["is async", async () => undefined],
    [
      "is async and fails",
      async () => {
        throw new Error("secret of the fault");
      },
    ],
    ["returns a reason without a requirement", () => ({ claim: "role" })],
  ])("feat:L3 never allows a call where it %s", async (_how, validate) => {
    const { call } = serve({ validate: validate as never });
    const { error, body } = await call({});
    expect(error?.code).toBe(Code.Internal);
    expect(body).not.toContain("secret of the fault");
  });

  it("feat:L3 runs after the rules, and only for those who have a session", async () => {
    let runs = 0;
    const { server, call } = serve({
      auth: "optional",
      claims: { role: ["admin"] },
      validate: () => {
        runs += 1;
        return undefined;
      },
    });
    expect((await server.call(listNotes, {}, {})).error).toBeUndefined();
    expect((await call({ role: "reader" })).error?.code).toBe(Code.PermissionDenied);
    expect(runs).toBe(0);
    expect((await call({ role: "admin" })).error).toBeUndefined();
    expect(runs).toBe(1);
  });
});

describe("feat:L4 rules outside policies", () => {
  it("feat:L4 requireClaims returns the session, or refuses the call as a policy does", async () => {
    const sessions = testSessions({ clientClaims: ({ role }) => ({ role: role ?? null }) });
    const server = wireServer(
      sessions.protect({
        routes: (router) => {
          router.service(NotesService, {
            async listNotes(_request, ctx) {
              const { userId } = await sessions.requireClaims(ctx, { role: { noneOf: ["guest"] } });
              return { notes: [{ text: userId }] };
            },
            async addNote(_request, ctx) {
              await sessions.requireClaims(ctx, {});
              return {};
            },
          });
        },
      }),
    );
    const bearerOf = async (role: string) =>
      (await sessions.issue({ userId: "alice", claims: { role } })).tokens.accessToken;
    const fine = await server.call(listNotes, {}, { bearer: await bearerOf("editor") });
    expect(fine.message?.notes[0]?.text).toBe("alice");
    const refused = await server.call(listNotes, {}, { bearer: await bearerOf("guest") });
    expect(refused.error?.code).toBe(Code.PermissionDenied);
    expect(refused.hint?.reason).toBe(Reason.CLAIM_REJECTED);
    expect(refused.error?.findDetails(PolicyViolationsSchema)[0]?.violations).toMatchObject([
      { claim: "role", requirement: "none of guest", rule: "noneOf", value: '"guest"' },
    ]);
    const misused = await server.call(
      NotesService.method.addNote,
      {},
      { bearer: await bearerOf("editor") },
    );
    expect(misused.error?.code).toBe(Code.Internal);
    expect(misused.error?.rawMessage).toContain("requires rules by claim");
  });

  it("feat:L4 check tells by id which rules a session does not meet", async () => {
    const sessions = testSessions({ clientClaims: ({ role }) => ({ role: role ?? null }) });
    const { session } = await sessions.issue({
      userId: "alice",
      claims: { role: "reader", level: 2, plan: "pro" },
    });
    const rules: ClaimRules = { role: ["admin"], level: { gte: 3 }, plan: { equals: "pro" } };
    expect(await sessions.check(session.id, rules)).toEqual([
      {
        claim: "role",
        requirement: "one of admin",
        rule: "anyOf",
        message: "does not meet the policy of the method",
        value: '"reader"',
      },
      {
        claim: "level",
        requirement: "at least 3",
        rule: "gte",
        message: "does not meet the policy of the method",
      },
    ]);
    await sessions.updateClaims(session.id, { role: "admin", level: 3 });
    expect(await sessions.check(session.id, rules)).toEqual([]);
    await sessions.revoke(session.id);
    expect(await sessions.check(session.id, rules)).toBeUndefined();
    expect(await sessions.check("no such session", rules)).toBeUndefined();
    await expect(sessions.check(session.id, {})).rejects.toThrow(TypeError);
    await expect(sessions.check("", rules)).rejects.toThrow(TypeError);
  });
});
