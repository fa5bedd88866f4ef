import { create, createFileRegistry, type DescMethod } from "@bufbuild/protobuf";
import {
  Edition,
  FieldDescriptorProto_Label,
  FieldDescriptorProto_Type,
  FileDescriptorProtoSchema,
  FileDescriptorSetSchema,
} from "@bufbuild/protobuf/wkt";
import {
  Code,
  ConnectError,
  type ConnectRouter,
  createClient,
  createRouterTransport,
  type HandlerContext,
} from "@connectrpc/connect";
import type { AuthorizeOptions, JsonObject, VerifiedSession } from "rpc-session";
import { cel } from "rpc-session/cel";
import { signedIn, type TestSessionsOptions, testSessions } from "rpc-session/testing";
import { describe, expect, it } from "vitest";
import { PolicyViolationsSchema } from "../../gen/rpcsession/v1/hint_pb.ts";
import { ConditionService, EditRequestSchema } from "../gen/policytest/v1/policytest_pb.ts";
import { wireServer } from "../helpers/wire-server.ts";

const { edit, read } = ConditionService.method;

const session: VerifiedSession = {
  ...{ id: "session-1", userId: "alice", tenantId: undefined, claims: {}, acr: undefined },
  ...{ amr: ["pwd"], boundKey: undefined },
  tokenTransport: "cookie",
  createdAt: new Date("2026-01-01T00:00:00Z"),
  authTime: new Date("2026-01-01T00:00:00Z"),
  expiresAt: new Date("2026-02-01T00:00:00Z"),
  accessExpiresAt: new Date("2026-01-01T00:15:00Z"),
};

function compile(source: string, claims?: object, method: DescMethod = edit) {
  const language = cel(claims === undefined ? {} : { claims });
  const condition = language.compile(source, { method, claims: undefined });
  return (given: JsonObject, request?: Parameters<typeof condition.holds>[0]["request"]) =>
    condition.holds({ session: { ...session, claims: given }, now: Date.UTC(2026, 0), request });
}

describe("sec:A01 feat:L8 a request that is made to slip through a condition", () => {
  it.each([
    ["as far as a Timestamp of 64 bits reaches", 2n ** 62n, 0],
    ["before the year 1", -62_135_596_801n, 0],
    ["with nanoseconds that are none", 0n, -1],
  ])("feat:L8 a time %s does not pass as not in the future", (_, seconds, nanos) => {
    const holds = compile("!(request.document.published_at > now)");
    const at = (given: bigint, rest = 0) =>
      create(EditRequestSchema, { document: { publishedAt: { seconds: given, nanos: rest } } });
    expect(() => holds({}, at(seconds, nanos))).toThrow("outside of the years 1 to 9999");
    expect([holds({}, at(0n)), holds({}, at(253_402_300_799n))]).toEqual([true, false]);
  });

  it("feat:L8 a field that is not set is not there, in each edition of Protobuf", () => {
    const field = (name: string, number: number) => ({
      ...{ name, number, jsonName: name, type: FieldDescriptorProto_Type.STRING },
      label: FieldDescriptorProto_Label.OPTIONAL,
    });
    const file = create(FileDescriptorProtoSchema, {
      ...{ name: "edition.proto", package: "edition.v1", syntax: "editions" },
      edition: Edition.EDITION_2023,
      messageType: [{ name: "Asked", field: [field("owner", 1)] }],
      service: [
        {
          name: "EditionService",
          method: [
            { name: "Ask", inputType: ".edition.v1.Asked", outputType: ".edition.v1.Asked" },
          ],
        },
      ],
    });
    const registry = createFileRegistry(create(FileDescriptorSetSchema, { file: [file] }));
    const method = registry.getService("edition.v1.EditionService")?.methods[0] as DescMethod;
    const holds = compile("!has(request.owner)", undefined, method);
    expect(holds({}, create(method.input, {}))).toBe(true);
    expect(holds({}, create(method.input, { owner: "bob" }))).toBe(false);
    const compares = compile("request.owner == ''", undefined, method);
    expect(() => compares({}, create(method.input, {}))).toThrow("No such key: owner");
  });

  it("feat:L8 what is not a number is neither more nor less", () => {
    const request = create(EditRequestSchema, { document: { price: Number.NaN } });
    for (const source of ["< 1.0", "> 1.0", "== request.document.price"]) {
      expect(compile(`request.document.price ${source}`)({}, request)).toBe(false);
    }
  });
});

describe("sec:A05 feat:L8 a request that is made to take long", () => {
  const request = (owner: string, tags: readonly string[]) =>
    create(EditRequestSchema, { document: { owner, tags: [...tags] } });
  const tags = Array.from({ length: 1_000 }, (_, i) => `tag${i}`);

  it.each([
    "request.document.tags.exists(t, size(request.document.owner) < 0)",
    "request.document.tags.exists(t, request.document.owner.contains(t))",
    "request.document.tags.exists(t, t in request.document.labels)",
  ])("feat:L8 %s does not hold", (source) => {
    const holds = compile(source);
    const long = request("x".repeat(100_000), tags);
    const labels = Object.fromEntries(
      tags.map((tag) => [`${tag}${"x".repeat(10)}`, "y".repeat(10)]),
    );
    Object.assign(long.document?.labels ?? {}, labels);
    expect(() => holds({}, long)).toThrow(/looks at 4194304 characters and items at most/);
  });

  it("feat:L8 long texts, and all pairs of long lists, are still looked at", () => {
    expect(
      compile("size(request.document.owner) == 4000000")({}, request("x".repeat(4e6), [])),
    ).toBe(true);
    // Each evaluation has the whole limit.
    const pairs = compile("request.document.tags.all(t, t in request.document.tags)");
    const some = request("", tags.slice(0, 500));
    for (let i = 0; i < 5; i++) {
      expect(pairs({}, some)).toBe(true);
    }
  });
});

describe("sec:A01 feat:L8 claims with names and types that nobody expects", () => {
  it.each(["constructor", "__proto__", "toString", "hasOwnProperty", "valueOf"])(
    "feat:L8 the name %s finds no member of an object",
    (name) => {
      expect(compile(`has(session.claims.${name})`)({})).toBe(false);
      expect(() => compile(`session.claims.${name} == 'x'`)({})).toThrow(`No such key: ${name}`);
      const own = JSON.parse(`{"${name}":"x"}`) as JsonObject;
      expect(compile(`session.claims.${name} == 'x'`)(own)).toBe(true);
      const typed = { properties: { role: { type: "string" } } };
      expect(() => compile(`session.claims.${name} == 'x'`, typed)).toThrow(`No such key: ${name}`);
    },
  );

  it.each(["constructor", "__proto__"])(
    "feat:L8 a schema that types a claim named %s does not disturb the others",
    (name) => {
      const properties = JSON.parse(
        `{"${name}":{"type":"string"},"role":{"type":"string"}}`,
      ) as object;
      expect(compile("session.claims.role == 'x'", { properties })({ role: "x" })).toBe(true);
      expect(() => compile(`session.claims.${name} == 'x'`, { properties })).toThrow(
        `No such key: ${name}`,
      );
    },
  );

  it.each<readonly [string, object, JsonObject]>([
    ["!session.claims.suspended", { type: "boolean" }, { suspended: "true" }],
    ["session.claims.level < 3", { type: "integer" }, { level: "" }],
    ["session.claims.level < 3", { type: "integer" }, { level: 0.5 }],
    ["session.claims.level < 3.0", { type: "number" }, { level: "x" }],
    ["session.claims.role != 'guest'", { type: "string" }, { role: ["guest"] }],
    ["!('guest' in session.claims.roles)", { type: "array" }, { roles: "guest" }],
  ])("feat:L8 %s does not hold for a value of another type than %j", (source, type, claims) => {
    const [name = ""] = Object.keys(claims);
    const holds = compile(source, { properties: { [name]: type } });
    expect(() => holds(claims)).toThrow();
  });
});

function serve(options: TestSessionsOptions = {}) {
  const ran: string[] = [];
  const sessions = testSessions({ conditions: cel(), ...options });
  const routes = (router: ConnectRouter) => {
    router.service(ConditionService, {
      edit: () => ({}),
      read: () => ({}),
      async *editAll() {
        // It answers without a look at a message.
        ran.push("editAll");
        yield { edited: 1 };
      },
    });
  };
  const bearerOf = async (claims: JsonObject = {}) =>
    (await sessions.issue({ userId: "alice", claims })).tokens.accessToken;
  return { sessions, routes, bearerOf, ran };
}

describe("sec:A03 feat:L8 feat:L2 a condition that does not name its claim", () => {
  it.each([
    "[session].all(s, !has(s.claims.suspended))",
    "session.claims.all(name, name != 'suspended')",
    "!('suspended' in session.claims)",
    "session.claims[session.user_id == 'alice' ? 'suspended' : 'role'] == ''",
    "size(session.claims) == 0",
  ])("feat:L2 sees the value of the source, too: %s", async (allow) => {
    const asked: string[] = [];
    const { sessions, routes, bearerOf } = serve({
      methods: { "policytest.v1.ConditionService/Read": { allow } },
      claimSources: {
        suspended: {
          maxAge: "1m",
          fetch({ userId }) {
            asked.push(userId);
            return "yes";
          },
        },
      },
    });
    const server = wireServer(sessions.protect({ routes }));
    const { error } = await server.call(read, {}, { bearer: await bearerOf() });
    expect(error?.code).toBe(Code.PermissionDenied);
    expect(asked).toEqual(["alice"]);
  });

  it("feat:L2 feat:L3 code of a policy may read any claim, so all with a source are fetched", async () => {
    const { sessions, routes, bearerOf } = serve({
      methods: {
        "policytest.v1.ConditionService/Read": {
          allow: "true",
          validate: ({ suspended }) =>
            suspended === "yes" ? { claim: "suspended", requirement: "absent" } : undefined,
        },
      },
      claimSources: { suspended: { maxAge: "1m", fetch: () => "yes" } },
    });
    const server = wireServer(sessions.protect({ routes }));
    const { error } = await server.call(read, {}, { bearer: await bearerOf() });
    expect(error?.code).toBe(Code.PermissionDenied);
  });
});

describe("sec:A02 feat:L8 feat:L9 a stream whose handler does not wait for messages", () => {
  const readsRequest = {
    readsRequest: true,
    async decide(_session, _procedure, { request }) {
      const { document } = request as unknown as { document?: { owner: string } };
      return document?.owner === "alice" ? "allow" : { deny: "it is not yours" };
    },
  } as const satisfies AuthorizeOptions;
  const points: readonly (readonly [string, TestSessionsOptions])[] = [
    ["allow", {}],
    [
      "authorize",
      {
        authorize: readsRequest,
        methods: { "policytest.v1.ConditionService/EditAll": { allow: "true" } },
      },
    ],
  ];

  it.each(points)(
    "feat:L8 starts it when its first message has passed: %s",
    async (rule, options) => {
      const { sessions, routes, ran } = serve(options);
      const { routes: guarded, ...router } = sessions.protect({ routes });
      const interceptors = [await signedIn(sessions, { userId: "alice" })];
      const transport = createRouterTransport(guarded as typeof routes, {
        router,
        transport: { interceptors },
      });
      const client = createClient(ConditionService, transport);
      const run = async (owners: readonly string[]) => {
        async function* documents() {
          for (const owner of owners) {
            yield { document: { owner } };
          }
        }
        let answers = 0;
        try {
          for await (const _answer of client.editAll(documents())) {
            answers += 1;
          }
          return answers;
        } catch (thrown) {
          const error = ConnectError.from(thrown);
          expect(error.code).toBe(Code.PermissionDenied);
          return error.findDetails(PolicyViolationsSchema)[0]?.violations[0];
        }
      };
      expect(await run([])).toMatchObject({
        rule,
        message: "the stream has no message, and the messages decide",
      });
      expect(await run(["bob"])).toMatchObject({ rule });
      expect(ran).toEqual([]);
      expect(await run(["alice"])).toBe(1);
      expect(ran).toEqual(["editAll"]);
    },
  );
});

describe("sec:A02 feat:L8 a router that has the gate alone", () => {
  it("feat:L8 no method gives a session, or another one, to a handler whose condition nobody checks", async () => {
    const { sessions, bearerOf } = serve();
    const { requestGate } = sessions;
    type Use = (context: HandlerContext) => unknown;
    const uses: Readonly<Record<string, Use>> = {
      require: (context) => sessions.require(context),
      current: (context) => sessions.current(context),
      requireFresh: (context) => sessions.requireFresh(context, "1h"),
      requireClaims: (context) => sessions.requireClaims(context, { role: [] }),
      getSession: (context) => sessions.getSession(context),
      fork: (context) => sessions.fork(context),
      reauthenticate: (context) => sessions.reauthenticate(context),
    };
    const bearer = await bearerOf({ role: "reader" });
    for (const [name, use] of Object.entries(uses)) {
      const server = wireServer({
        requestGate,
        routes: (router: ConnectRouter) =>
          router.service(ConditionService, {
            async edit(_, context) {
              await use(context);
              return {};
            },
          }),
      });
      const { error } = await server.call(edit, { document: { owner: "bob" } }, { bearer });
      expect([name, error?.rawMessage]).toEqual([
        name,
        expect.stringContaining("add sessions.interceptor to the router"),
      ]);
    }
  });
});
