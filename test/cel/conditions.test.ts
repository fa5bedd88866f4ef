import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import {
  Code,
  ConnectError,
  type ConnectRouter,
  createClient,
  createRouterTransport,
} from "@connectrpc/connect";
import type { JsonObject } from "rpc-session";
import { cel } from "rpc-session/cel";
import { signedIn, type TestSessionsOptions, testSessions } from "rpc-session/testing";
import { verifySessions } from "rpc-session/verify";
import { describe, expect, it } from "vitest";
import { z } from "zod";
import { PolicyViolationsSchema, Reason } from "../../gen/rpcsession/v1/hint_pb.ts";
import {
  ConditionService,
  Document_State,
  EditRequestSchema,
} from "../gen/policytest/v1/policytest_pb.ts";
import { wireServer } from "../helpers/wire-server.ts";

const { edit, read } = ConditionService.method;

const Claims = z.object({
  role: z.string().optional(),
  level: z.int().optional(),
  score: z.number().optional(),
  verified: z.boolean().optional(),
  groups: z.array(z.string()).optional(),
  team: z.object({ name: z.string() }).optional(),
  suspended: z.string().optional(),
  anything: z.unknown().optional(),
});

const session = {
  id: "session-1",
  userId: "alice",
  tenantId: undefined,
  claims: {
    ...{ role: "editor", level: 3, score: 0.5, verified: true, groups: ["staff", "ops"] },
    ...{ team: { name: "apollo" }, anything: { deep: [1, 2] } },
  },
  createdAt: new Date("2026-01-01T00:00:00Z"),
  authTime: new Date("2026-01-01T00:00:00Z"),
  acr: undefined,
  amr: ["pwd"],
  expiresAt: new Date("2026-02-01T00:00:00Z"),
  accessExpiresAt: new Date("2026-01-01T00:15:00Z"),
  tokenTransport: "cookie",
  boundKey: undefined,
} as const;

const request = create(EditRequestSchema, {
  document: {
    ...{ owner: "bob", tags: ["draft", "big"], pages: 7, bytes: 2n ** 40n },
    publishedAt: timestampFromDate(new Date("2025-06-01T00:00:00Z")),
    labels: { color: "red" },
    kind: { case: "book", value: "978" },
    state: Document_State.PUBLISHED,
    parent: { owner: "alice" },
    parts: [{ owner: "carol" }, { owner: "alice" }],
  },
} satisfies MessageInitShape<typeof EditRequestSchema>);

function compile(source: string, claims: typeof Claims | undefined = Claims) {
  return cel().compile(source, { method: edit, claims: claims as never });
}

const facts = { session, now: Date.UTC(2026, 0, 1, 0, 10), request };

describe("feat:L8 conditions that are right", () => {
  it.each<readonly [string, boolean]>([
    ["session.claims.role == 'editor'", true],
    ["session.claims.role in ['admin', 'owner']", false],
    ["session.claims.level >= 3", true],
    ["session.claims.level == 3", true],
    ["session.claims.score > 0.4", true],
    ["session.claims.verified", true],
    ["'staff' in session.claims.groups && !('out' in session.claims.groups)", true],
    ["session.claims.team.name == 'apollo'", true],
    ["session.claims.anything.deep[1] == 2", true],
    ["has(session.claims.suspended)", false],
    ["has(session.tenant_id) || session.user_id == 'alice'", true],
    ["session.amr.exists(m, m == 'pwd')", true],
    ["now - session.auth_time < duration('15m')", true],
    ["now > timestamp('2026-01-01T00:10:01Z')", false],
    ["request.document.owner == session.user_id", false],
    ["session.claims.role == 'admin' || request.document.parent.owner == session.user_id", true],
    ["request.document.tags.all(t, t != 'secret') && size(request.document.tags) < 3", true],
    ["request.document.pages > 5 && request.document.bytes > 1000000", true],
    ["request.document.published_at < now", true],
    ["request.document.labels['color'] == 'red'", true],
    ["has(request.document.book) && !has(request.document.page)", true],
    ["request.document.state == 1", true],
    ["request.document.parts.exists(p, p.owner == session.user_id)", true],
    ["has(request.document.price)", false],
    ["request.document.owner.startsWith('b') ? session.id != '' : false", true],
  ])("feat:L8 %s", (source, holds) => {
    expect(compile(source).holds(facts)).toBe(holds);
  });
});

describe("feat:L8 conditions that are wrong are refused at the start, with the column", () => {
  it.each<readonly [string, string]>([
    ["session.claims.rol == 'x'", "column 16: No such key: rol"],
    ["session.user == 'x'", "column 9: No such key: user"],
    ["request.note.owner == 'x'", "column 9: No such key: note"],
    ["request.document.author == 'x'", "column 18: No such key: author"],
    ["true &&\n  request.document.author == 'x'", "line 2, column 20: No such key: author"],
    ["request.document.age > duration('1h')", "column 18: No such key: age"],
    ["user.role == 'admin'", "column 1: Unknown variable: user"],
    ["session.claims.role == 3", "column 1: no such overload: string == int"],
    ["session.claims.level > '3'", "column 1: no such overload: int > string"],
    ["session.claims.role", "column 1: It is string, and must be bool"],
    ["session.claims.anything", "column 1: It is dyn, and must be bool"],
    ["session.claims.role ==", "column 23: Unexpected token: EOF"],
    ["session.claims.role = 'x'", "column 21: "],
    ["", "column 1: "],
    ["session.claims.role.matches('(a+)+$')", "matches is not available"],
    [
      "session.claims.groups.all(a, session.claims.groups.exists(b, a == b))",
      "A loop within a loop",
    ],
    [Array.from({ length: 150 }, () => "true").join(" && "), "Exceeded max"],
    [`${"(".repeat(60)}true${")".repeat(60)}`, "Exceeded max"],
    ["session.claims.team == 'apollo'", "no such overload"],
    ["isAdmin(session)", "isAdmin"],
  ])("feat:L8 %s", (source, message) => {
    expect(() => compile(source)).toThrow(TypeError);
    expect(() => compile(source)).toThrow(message);
  });

  it("feat:L8 without a schema, any claim may be named, and one that is missing refuses", () => {
    const condition = cel().compile("session.claims.plan == 'pro'", {
      method: edit,
      claims: undefined,
    });
    const holds = (claims: JsonObject) =>
      condition.holds({ ...facts, session: { ...session, claims } });
    expect(holds({ plan: "pro" })).toBe(true);
    expect(holds({ plan: ["pro"] })).toBe(false);
    expect(() => holds({})).toThrow("No such key: plan");
    expect(() => holds(Object.setPrototypeOf({}, { plan: "pro" }) as JsonObject)).toThrow();
  });

  it("feat:L8 says which claims it reads, and whether it reads the request", () => {
    const { claims, readsRequest } = compile(
      "session.claims.role == 'x' && session.claims['level'] > 1",
    );
    expect([claims, readsRequest]).toEqual([["role", "level"], false]);
    expect(compile("has(request.document)").readsRequest).toBe(true);
  });

  it("feat:L8 reads a claim of any name", () => {
    const schema = { properties: { value: { type: "string" }, "#value": { type: "string" } } };
    const condition = cel({ claims: schema }).compile("session.claims.value == 'x'", {
      ...{ method: edit, claims: undefined },
    });
    const holds = (claims: JsonObject) =>
      condition.holds({ ...facts, session: { ...session, claims } });
    expect([holds({ value: "x" }), holds({ value: "y" })]).toEqual([true, false]);
    expect(() => holds({})).toThrow("No such key: value");
  });

  it("sec:A05 feat:L8 looks at 1,000 items of a list at most", () => {
    const condition = compile("request.document.tags.exists(t, t == 'x')");
    const withTags = (length: number) => ({
      ...facts,
      request: create(EditRequestSchema, { document: { tags: Array.from({ length }, () => "x") } }),
    });
    expect(condition.holds(withTags(1_000))).toBe(true);
    expect(() => condition.holds(withTags(1_001))).toThrow();
  });
});

function serve(options: TestSessionsOptions = {}) {
  const ran: string[] = [];
  const ends = { quietly: false };
  const sessions = testSessions({ conditions: cel(), ...options });
  const routes = (router: ConnectRouter) => {
    router.service(ConditionService, {
      edit() {
        ran.push("edit");
        return {};
      },
      read: () => ({}),
      async *editAll(messages) {
        let edited = 0;
        try {
          for await (const { document } of messages) {
            ran.push(document?.owner ?? "nobody");
            edited += 1;
            yield { edited };
          }
        } catch {
          // A handler that ignores the refusal does not undo it, whether it goes on or ends.
          if (!ends.quietly) {
            yield { edited: -1 };
          }
        }
      },
    });
  };
  const server = wireServer(sessions.protect({ routes }));
  const bearerOf = async (claims: JsonObject = {}) =>
    (await sessions.issue({ userId: "alice", claims })).tokens.accessToken;
  return { sessions, server, routes, bearerOf, ran, ends };
}

describe("feat:L8 a policy with a condition", () => {
  it("feat:L8 refuses a call whose request does not meet it, and says which condition", async () => {
    const { server, bearerOf, ran } = serve();
    const bearer = await bearerOf({ role: "reader" });
    const own = await server.call(edit, { document: { owner: "alice" } }, { bearer });
    expect(own.error).toBeUndefined();
    const { error, hint, body } = await server.call(
      edit,
      { document: { owner: "bob-secret" } },
      { bearer },
    );
    expect(error?.code).toBe(Code.PermissionDenied);
    expect(hint?.reason).toBe(Reason.CLAIM_REJECTED);
    expect(error?.findDetails(PolicyViolationsSchema)[0]?.violations).toMatchObject([
      {
        rule: "allow",
        requirement: "session.claims.role == 'admin' || request.document.owner == session.user_id",
        message: "the condition does not hold",
      },
    ]);
    expect(body).not.toContain("bob-secret");
    const missing = await server.call(edit, {}, { bearer });
    expect(missing.error?.findDetails(PolicyViolationsSchema)[0]?.violations).toMatchObject([
      { message: "the condition could not be evaluated" },
    ]);
    expect(ran).toEqual(["edit"]);
    const admin = await bearerOf({ role: "admin" });
    expect((await server.call(edit, {}, { bearer: admin })).error).toBeUndefined();
  });

  it("feat:L8 that reads the request gives no session to a router that has the gate alone", async () => {
    const { sessions, bearerOf } = serve();
    const bearer = await bearerOf({ role: "reader" });
    const reached: (string | undefined)[] = [];
    const routes = (router: ConnectRouter) => {
      router.service(ConditionService, {
        edit(_, context) {
          reached.push(sessions.require(context).userId);
          return {};
        },
      });
    };
    const { requestGate, interceptor } = sessions;
    const alone = wireServer({ routes, requestGate });
    const { error } = await alone.call(edit, { document: { owner: "bob" } }, { bearer });
    expect(error?.code).toBe(Code.Internal);
    expect(reached).toEqual([]);
    const both = wireServer({ routes, requestGate, interceptors: [interceptor] });
    const refused = await both.call(edit, { document: { owner: "bob" } }, { bearer });
    expect(refused.error?.code).toBe(Code.PermissionDenied);
    await both.call(edit, { document: { owner: "alice" } }, { bearer });
    expect(reached).toEqual(["alice"]);
  });

  it("feat:L8 on the session alone is checked before the body is parsed", async () => {
    const { server, bearerOf } = serve();
    const send = async (bearer: string) =>
      server.fetch(
        new Request("https://test.example/policytest.v1.ConditionService/Read", {
          method: "POST",
          headers: { authorization: `Bearer ${bearer}`, "content-type": "application/json" },
          body: "this is not JSON",
        }),
      );
    expect((await send(await bearerOf({ suspended: "yes" }))).status).toBe(403);
    expect((await send(await bearerOf({}))).status).toBe(400);
    const bearer = await bearerOf({});
    expect((await server.call(read, {}, { bearer })).error).toBeUndefined();
  });

  it.each([true, false])(
    "feat:L8 is checked for every message of a stream, and its handler cannot ignore it: %s",
    async (quietly) => {
      const { sessions, routes, ran, ends } = serve();
      ends.quietly = quietly;
      const { routes: guarded, ...router } = sessions.protect({ routes });
      const interceptors = [await signedIn(sessions, { userId: "alice" })];
      const transport = createRouterTransport(guarded as typeof routes, {
        router,
        transport: { interceptors },
      });
      const client = createClient(ConditionService, transport);
      const seen: number[] = [];
      const owners = ["alice", "alice", "bob", "alice"];
      async function* documents() {
        for (const owner of owners) {
          yield { document: { owner } };
        }
      }
      const run = async () => {
        for await (const { edited } of client.editAll(documents())) {
          seen.push(edited);
        }
      };
      const error = ConnectError.from(await run().catch((thrown: unknown) => thrown));
      expect(error.code).toBe(Code.PermissionDenied);
      expect(seen).toEqual([1, 2]);
      expect(ran).toEqual(["alice", "alice"]);
    },
  );

  it("feat:L8 feat:L2 whose claim has a source sees the new value", async () => {
    const { sessions, server, bearerOf } = serve({
      claimSources: { suspended: { maxAge: "1m", fetch: () => "yes" } },
    });
    const bearer = await bearerOf({});
    expect((await server.call(read, {}, { bearer })).error?.code).toBe(Code.PermissionDenied);
    const [one] = (await sessions.list({ userId: "alice" })).sessions;
    expect(one?.claims).toEqual({ suspended: "yes" });
  });

  it("feat:L8 in code replaces that of the schema, and works where sessions are only verified", async () => {
    const issuing = testSessions();
    const sessions = verifySessions({
      issuer: "https://test.example",
      jwks: await issuing.jwks(),
      clock: issuing.clock,
      conditions: cel(),
      methods: { "policytest.v1.ConditionService/Edit": { allow: "request.document.pages < 3" } },
    });
    const { routes } = serve();
    const server = wireServer(sessions.protect({ routes, readMaxBytes: 4096 }));
    const { tokens } = await issuing.issue({ userId: "alice" });
    const call = (pages: number) =>
      server.call(edit, { document: { pages } }, { bearer: tokens.accessToken });
    expect((await call(2)).error).toBeUndefined();
    expect((await call(3)).error?.code).toBe(Code.PermissionDenied);
  });

  it("feat:L8 is refused at the start if it is wrong, public, or nothing reads it", () => {
    const start = (options: TestSessionsOptions) => () => serve(options);
    const name = "policytest.v1.ConditionService/Edit";
    expect(start({ methods: { [name]: { allow: "request.nope == 1" } } })).toThrow(
      `the policy of ${name} has a wrong condition allow: column 9: No such key: nope`,
    );
    expect(start({ claims: z.object({}) as never })).toThrow("column 16: No such key: role");
    expect(start({ methods: { [name]: { auth: "none", allow: "true" } } })).toThrow(
      'auth is "none"',
    );
    expect(start({ methods: { [name]: { allow: "" } } })).toThrow("must be a condition");
    expect(start({ conditions: undefined as never })).toThrow("set the option conditions: cel()");
    expect(start({ conditions: {} as never })).toThrow("conditions must be cel()");
  });
});
