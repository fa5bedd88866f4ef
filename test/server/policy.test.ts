import type { DescMethod } from "@bufbuild/protobuf";
import { create, type MessageInitShape, setExtension } from "@bufbuild/protobuf";
import { MethodOptionsSchema, ServiceOptionsSchema } from "@bufbuild/protobuf/wkt";
import {
  Code,
  ConnectError,
  type ConnectRouter,
  createConnectRouter,
  type HandlerContext,
  type Interceptor,
} from "@connectrpc/connect";
import {
  composeGates,
  type MethodPolicyOptions,
  SessionError,
  type SessionsOptions,
} from "rpc-session";
import { type TestSessions, testSessions } from "rpc-session/testing";
import { describe, expect, it } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { Action, Reason, Tokens } from "../../gen/rpcsession/v1/hint_pb.ts";
import {
  Auth,
  Check,
  ForeignBearer,
  method_policy,
  PolicySchema,
  Stream,
  service_policy,
} from "../../gen/rpcsession/v1/options_pb.ts";
import { SessionService } from "../../gen/rpcsession/v1/service_pb.ts";
import { Policies } from "../../src/server/policy/policy.ts";
import { OpenService } from "../gen/policytest/v1/policytest_pb.ts";
import type { Presented } from "../helpers/exchanges.ts";
import { issueOn } from "../helpers/refreshing.ts";
import { wireServer } from "../helpers/wire-server.ts";

type Options = Partial<Pick<SessionsOptions, "public" | "methods">>;

const { inherited, required, optional } = OpenService.method;
const { listNotes, addNote, signIn, watchNotes } = NotesService.method;

/** Returns the caller, or "" if there is none. */
function openRoutes(sessions: TestSessions) {
  const who = (_: unknown, context: HandlerContext) => ({
    userId: sessions.current(context)?.userId ?? "",
  });
  return (router: ConnectRouter): void => {
    router.service(OpenService, { inherited: who, required: who, optional: who });
  };
}

const noRoutes = (): void => {};

/** Builds the routes as an adapter does at start. */
function start(options: Options, routes: (router: ConnectRouter) => unknown = noRoutes): void {
  wireServer(testSessions(options).protect({ routes }));
}

describe("feat:K6, feat:Q7 the policy of a method", () => {
  interface Row {
    readonly row: string;
    readonly method: DescMethod;
    readonly options?: Options;
    readonly auth: "required" | "optional" | "none";
    readonly source: string;
  }
  const rows: readonly Row[] = [
    { row: "no policy", method: addNote, auth: "required", source: "default" },
    { row: "service option", method: inherited, auth: "none", source: "service option" },
    {
      row: "method overrides service",
      method: required,
      auth: "required",
      source: "method option",
    },
    {
      row: "method overrides service",
      method: optional,
      auth: "optional",
      source: "method option",
    },
    {
      row: "code overrides method",
      method: required,
      options: { methods: { "policytest.v1.OpenService/Required": { auth: "none" } } },
      auth: "none",
      source: "code",
    },
    {
      row: "code overrides service",
      method: inherited,
      options: { methods: { "policytest.v1.OpenService/Inherited": { auth: "required" } } },
      auth: "required",
      source: "code",
    },
    {
      row: "code without auth changes nothing",
      method: inherited,
      options: { methods: { "policytest.v1.OpenService/Inherited": { doAntiCsrfCheck: false } } },
      auth: "none",
      source: "service option",
    },
    {
      row: "public lists the method",
      method: addNote,
      options: { public: [addNote] },
      auth: "none",
      source: "code",
    },
    {
      row: "public lists the service",
      method: addNote,
      options: { public: [NotesService] },
      auth: "none",
      source: "code",
    },
    {
      row: "public lists the service and overrides its method options",
      method: required,
      options: { public: [OpenService] },
      auth: "none",
      source: "code",
    },
    {
      row: "public lists another method",
      method: addNote,
      options: { public: [signIn] },
      auth: "required",
      source: "default",
    },
    {
      row: "code for SessionService",
      method: SessionService.method.getSession,
      options: { methods: { "rpcsession.v1.SessionService/GetSession": { auth: "optional" } } },
      auth: "optional",
      source: "code",
    },
  ];
  it.each(rows)("$row: auth is $auth, from $source", ({ method, options = {}, auth, source }) => {
    const policies = new Policies({ public: [], methods: {}, ...options });
    expect(policies.of(method)).toMatchObject({ auth, source });
    expect(policies.of(method)).toBe(policies.of(method));
  });

  it("SessionService itself: Refresh and SignOut are public", () => {
    const policies = new Policies({ public: [], methods: {} });
    const described = policies.describe(SessionService.methods);
    expect(described.map(({ procedure, auth }) => `${procedure} ${auth}`)).toEqual([
      "rpcsession.v1.SessionService/Refresh none",
      "rpcsession.v1.SessionService/SignOut none",
      "rpcsession.v1.SessionService/GetSession required",
      "rpcsession.v1.SessionService/ListSessions required",
      "rpcsession.v1.SessionService/RevokeSession required",
      "rpcsession.v1.SessionService/RevokeOtherSessions required",
    ]);
  });

  it("feat:Q7 describe lists every method of a router", () => {
    const sessions = testSessions({ public: [signIn] });
    const router = createConnectRouter()
      .service(OpenService, {})
      .rpc(signIn, () => ({}));
    expect(sessions.describe(router)).toEqual([
      ...[
        ["policytest.v1.OpenService/Inherited", "none", "service option"],
        ["policytest.v1.OpenService/Required", "required", "method option"],
        ["policytest.v1.OpenService/Optional", "optional", "method option"],
        ["notes.v1.NotesService/SignIn", "none", "code"],
      ].map(([procedure, auth, source]) => ({
        procedure,
        auth,
        source,
        check: "feed",
        doAntiCsrfCheck: undefined,
        freshWithin: undefined,
        acr: [],
        claims: [],
        foreignBearer: "refuse",
      })),
    ]);
  });
});

describe("the stream policy of a method", () => {
  type StreamWord = "endOnExpiry" | "endOnRevoke" | "never";
  const method = (ofMethod: Stream, ofService: Stream): DescMethod => {
    const options = create(MethodOptionsSchema);
    setExtension(options, method_policy, create(PolicySchema, { stream: ofMethod }));
    const serviceOptions = create(ServiceOptionsSchema);
    setExtension(serviceOptions, service_policy, create(PolicySchema, { stream: ofService }));
    const { parent, proto } = watchNotes;
    return {
      ...watchNotes,
      proto: { ...proto, options },
      parent: { ...parent, proto: { ...parent.proto, options: serviceOptions } },
    };
  };
  const { UNSPECIFIED, END_ON_EXPIRY, END_ON_REVOKE, NEVER } = Stream;

  it.each<[StreamWord | undefined, Stream, Stream, StreamWord]>([
    [undefined, UNSPECIFIED, UNSPECIFIED, "endOnExpiry"],
    [undefined, UNSPECIFIED, NEVER, "never"],
    [undefined, UNSPECIFIED, END_ON_REVOKE, "endOnRevoke"],
    [undefined, END_ON_EXPIRY, NEVER, "endOnExpiry"],
    [undefined, END_ON_REVOKE, NEVER, "endOnRevoke"],
    ["endOnExpiry", NEVER, NEVER, "endOnExpiry"],
    ["never", END_ON_REVOKE, END_ON_EXPIRY, "never"],
    ["endOnRevoke", UNSPECIFIED, NEVER, "endOnRevoke"],
  ])("code %s, method %s, service %s: %s", (code, ofMethod, ofService, stream) => {
    const methods = code && { "notes.v1.NotesService/WatchNotes": { stream: code } };
    const policies = new Policies({ public: [], methods: methods ?? {} });
    const desc = method(ofMethod, ofService);
    expect(policies.of(desc)).toMatchObject({ stream, auth: "required", source: "default" });
    expect(policies.describe([desc])[0]?.stream).toBe(stream);
  });

  it("describe shows it for streaming methods only, whatever the service option says", () => {
    const methods = { "notes.v1.NotesService/SyncNotes": { stream: "never" } } as const;
    const sessions = testSessions({ methods });
    const router = createConnectRouter().service(NotesService, {});
    expect(sessions.describe(router).map(({ stream }) => stream)).toEqual([
      ...[undefined, undefined, undefined, undefined],
      ...["endOnExpiry", "endOnExpiry", "never"],
    ]);
    const unary: DescMethod = { ...addNote, parent: method(UNSPECIFIED, NEVER).parent };
    expect(new Policies({ public: [], methods: {} }).of(unary).stream).toBeUndefined();
  });
});

describe("policies that are refused at startup", () => {
  const notes = (router: ConnectRouter) => router.service(NotesService, {});

  it.each<[string, Options, RegExp]>([
    [
      "a method in public that is not served",
      { public: [signIn] },
      /names notes\.v1\.NotesService\/SignIn, but the router serves no such method; remove/,
    ],
    [
      "a service in public that is not served",
      { public: [OpenService] },
      /OpenService\/Inherited, .*\/Required, .*\/Optional, but/,
    ],
    ["a method in methods that is not served", { methods: { "a.B/C": {} } }, /names a\.B\/C, but/],
    [
      "a method with a leading slash",
      { methods: { "/rpcsession.v1.SessionService/Refresh": {} } },
      /names \/rpcsession\.v1\.SessionService\/Refresh, but/,
    ],
  ])("%s", (_, options, message) => {
    expect(() => start(options)).toThrow(TypeError);
    expect(() => start(options)).toThrow(message);
  });

  it("are accepted once the method is served", () => {
    expect(() => start({ public: [NotesService] }, notes)).not.toThrow();
    const methods = { "rpcsession.v1.SessionService/Refresh": {} };
    expect(() => start({ methods })).not.toThrow();
  });

  it.each<[string, Options]>([
    ["twice in public", { public: [signIn, signIn] }],
    ["a method and its service", { public: [NotesService, signIn] }],
    ["public and methods", { public: [signIn], methods: { "notes.v1.NotesService/SignIn": {} } }],
  ])("a method that is named twice: %s", (_, options) => {
    expect(() => testSessions(options)).toThrow(TypeError);
    expect(() => testSessions(options)).toThrow(
      /^notes\.v1\.NotesService\/SignIn is named twice; keep it in "public" or in "methods"$/,
    );
  });

  it("an unknown auth, which must not make a method public", () => {
    const typo = { auth: "requierd" } as unknown as MethodPolicyOptions;
    const options = { methods: { "notes.v1.NotesService/AddNote": typo } };
    expect(() => testSessions(options)).toThrow(TypeError);
    expect(() => testSessions(options)).toThrow(
      /^methods: the auth of notes\.v1\.NotesService\/AddNote must be "required", "optional" or "none", got "requierd"$/,
    );
  });

  const withPolicy = (policy: MessageInitShape<typeof PolicySchema>): DescMethod => {
    const options = create(MethodOptionsSchema);
    setExtension(options, method_policy, create(PolicySchema, policy));
    return { ...addNote, proto: { ...addNote.proto, options } };
  };

  it("a check from a newer schema", () => {
    const policies = new Policies({ public: [], methods: {} });
    expect(() => policies.assertServed([withPolicy({ check: 99 as 0 })])).toThrow(
      /sets check to the unknown value 99/,
    );
  });

  it("an unknown check", () => {
    const typo = { check: "strikt" } as unknown as MethodPolicyOptions;
    const options = { methods: { "notes.v1.NotesService/AddNote": typo } };
    expect(() => testSessions(options)).toThrow(
      /^methods: the check of notes\.v1\.NotesService\/AddNote must be "feed", "strict" or "none", got "strikt"$/,
    );
    expect(() => testSessions({ revocation: "strikt" as "strict" })).toThrow(
      /^revocation must be one of .*, got "strikt"$/,
    );
  });

  it("the check in code overrides the method option, which overrides the service option", () => {
    const strict = withPolicy({ check: Check.STRICT });
    const { signOut } = NotesService.method;
    const policies = new Policies({ public: [], methods: {}, check: "none" });
    expect(policies.of(strict).check).toBe("strict");
    expect(policies.of(signOut).check).toBe("none");
    const methods = { "notes.v1.NotesService/AddNote": { check: "feed" } } as const;
    expect(new Policies({ public: [], methods, check: "none" }).of(strict).check).toBe("feed");
    const options = create(ServiceOptionsSchema);
    setExtension(options, service_policy, create(PolicySchema, { check: Check.FEED }));
    const parent = { ...addNote.parent, proto: { ...addNote.parent.proto, options } };
    expect(policies.of({ ...signOut, parent }).check).toBe("feed");
    expect(policies.of({ ...strict, parent }).check).toBe("strict");
  });

  it("a stream policy of a unary method, in code and in the schema", () => {
    const code = { "notes.v1.NotesService/AddNote": { stream: "never" } } as const;
    for (const [methods, policy] of [
      [code, {}] as const,
      [{}, { stream: Stream.NEVER }] as const,
    ]) {
      const policies = new Policies({ public: [], methods });
      expect(() => policies.assertServed([withPolicy(policy)])).toThrow(
        "the policy of notes.v1.NotesService/AddNote sets stream, but the method does not stream",
      );
    }
  });

  it("a stream policy from a newer schema", () => {
    const policies = new Policies({ public: [], methods: {} });
    const method = { ...withPolicy({ stream: 99 as 0 }), methodKind: "server_streaming" } as never;
    expect(() => policies.assertServed([method])).toThrow(/sets stream to the unknown value 99/);
  });

  it("an unknown stream policy", () => {
    const typo = { stream: "endOnRevok" } as unknown as MethodPolicyOptions;
    const options = { methods: { "notes.v1.NotesService/WatchNotes": typo } };
    expect(() => testSessions(options)).toThrow(TypeError);
    expect(() => testSessions(options)).toThrow(
      /^methods: the stream of notes\.v1\.NotesService\/WatchNotes must be "endOnExpiry", .*, got "endOnRevok"$/,
    );
  });

  it("a foreign_bearer from a newer schema, and an unknown one in code", () => {
    const policies = new Policies({ public: [], methods: {} });
    expect(() => policies.assertServed([withPolicy({ foreignBearer: 99 as 0 })])).toThrow(
      /sets foreign_bearer to the unknown value 99/,
    );
    const typo = { foreignBearer: "ignored" } as unknown as MethodPolicyOptions;
    const options = { methods: { "notes.v1.NotesService/AddNote": typo } };
    expect(() => testSessions(options)).toThrow(
      /^methods: the foreignBearer of notes\.v1\.NotesService\/AddNote must be "refuse" or "ignore", got "ignored"$/,
    );
  });

  it("an auth from a newer schema", () => {
    const policies = new Policies({ public: [], methods: {} });
    expect(() => policies.assertServed([withPolicy({ auth: 99 as 0 })])).toThrow(
      /sets auth to the unknown value 99/,
    );
  });

  it("feat:K5 routes that are a factory, or asynchronous", () => {
    const asFactory = (): unknown => noRoutes;
    expect(() => start({}, asFactory)).toThrow(
      /^routes returned a function, so it seems to be a factory; call it/,
    );
    const later = async (): Promise<void> => {};
    expect(() => start({}, later)).toThrow(/^routes returned a promise, but adapters read/);
    // A router that is returned for chaining is fine.
    start({}, (router) => router.service(NotesService, {}));
  });

  it("protect without routes", () => {
    const sessions = testSessions();
    expect(() => sessions.protect({} as never)).toThrow(
      /^sessions\.protect requires the options of an adapter/,
    );
  });
});

describe("feat:B9 a bearer token that is not one of this service's", () => {
  const { UNSPECIFIED, REFUSE, IGNORE } = ForeignBearer;
  const ofSchema = (ofMethod: ForeignBearer, ofService: ForeignBearer): DescMethod => {
    const options = create(MethodOptionsSchema);
    const policy = { auth: Auth.OPTIONAL, foreignBearer: ofMethod };
    setExtension(options, method_policy, create(PolicySchema, policy));
    const serviceOptions = create(ServiceOptionsSchema);
    setExtension(
      serviceOptions,
      service_policy,
      create(PolicySchema, { foreignBearer: ofService }),
    );
    const { parent, proto } = addNote;
    return {
      ...addNote,
      proto: { ...proto, options },
      parent: { ...parent, proto: { ...parent.proto, options: serviceOptions } },
    };
  };

  it.each<["refuse" | "ignore" | undefined, ForeignBearer, ForeignBearer, "refuse" | "ignore"]>([
    [undefined, UNSPECIFIED, UNSPECIFIED, "refuse"],
    [undefined, UNSPECIFIED, IGNORE, "ignore"],
    [undefined, REFUSE, IGNORE, "refuse"],
    [undefined, IGNORE, REFUSE, "ignore"],
    ["refuse", IGNORE, IGNORE, "refuse"],
    ["ignore", UNSPECIFIED, UNSPECIFIED, "ignore"],
  ])("in code %s, on the method %s, on the service %s: %s", (code, ofMethod, ofService, result) => {
    const methods = code && { "notes.v1.NotesService/AddNote": { foreignBearer: code } };
    const policies = new Policies({ public: [], methods: methods ?? {} });
    expect(policies.of(ofSchema(ofMethod, ofService)).foreignBearer).toBe(result);
  });

  it("is left to the handlers of a method and of a stream, without a session", async () => {
    const ignore = { foreignBearer: "ignore" } as const;
    const sessions = testSessions({
      methods: {
        "notes.v1.NotesService/ListNotes": { ...ignore, auth: "optional" },
        "notes.v1.NotesService/WatchNotes": { ...ignore, auth: "optional" },
        "notes.v1.NotesService/AddNote": ignore,
      },
    });
    const seen: (string | null)[] = [];
    const handle = (context: HandlerContext) => {
      expect(sessions.current(context)).toBeUndefined();
      seen.push(context.requestHeader.get("authorization"));
    };
    const server = wireServer(
      sessions.protect({
        routes: (router) =>
          router.service(NotesService, {
            listNotes(_, context) {
              handle(context);
              return {};
            },
            async *watchNotes(_, context) {
              handle(context);
              yield {};
            },
          }),
      }),
    );
    const { access, refresh } = await issueOn(sessions, "cookie");
    const key = { bearer: "sk_live_51H8", access, refresh };
    expect((await server.call(listNotes, {}, key)).error).toBeUndefined();
    expect((await server.stream(watchNotes, {}, key)).error).toBeUndefined();
    expect(seen).toEqual(["Bearer sk_live_51H8", "Bearer sk_live_51H8"]);
    const refused = await server.call(addNote, {}, key);
    expect(refused.hint).toMatchObject({
      action: Action.SIGN_IN,
      reason: Reason.SESSION_MISSING,
      tokens: Tokens.KEEP,
    });
    expect(refused.headers.get("www-authenticate")).toBe('Bearer realm="https://test.example"');
    expect(refused.headers.getSetCookie()).toEqual([]);
  });
});

describe("feat:K1 required, optional, none", () => {
  type Answer = "alice" | "" | readonly [Action, Reason];
  const refresh = (reason: Reason): Answer => [Action.REFRESH, reason];
  const missing: Answer = [Action.SIGN_IN, Reason.SESSION_MISSING];
  const invalid: Answer = [Action.REFRESH, Reason.TOKEN_INVALID];
  const revoked: Answer = [Action.SIGN_IN, Reason.SESSION_REVOKED];

  const presented: Readonly<Record<string, (sessions: TestSessions) => Promise<Presented>>> = {
    nothing: async () => ({}),
    "another scheme": async () => ({ headers: { authorization: "Basic x" } }),
    "a session": async (sessions) => ({ bearer: (await issueOn(sessions, "header")).access }),
    junk: async () => ({ bearer: "junk" }),
    expired: async (sessions) => {
      const { access } = await issueOn(sessions, "header");
      sessions.clock.advance("16m");
      return { bearer: access };
    },
    revoked: async (sessions) => {
      const { access, revoke } = await issueOn(sessions, "header");
      await revoke();
      return { bearer: access };
    },
    "a refresh cookie": async (sessions) => ({
      refresh: (await issueOn(sessions, "cookie")).refresh,
    }),
  };

  it.each<[string, Answer, Answer]>([
    ["nothing", missing, ""],
    ["another scheme", missing, ""],
    ["a session", "alice", "alice"],
    ["junk", invalid, invalid],
    ["expired", refresh(Reason.TOKEN_EXPIRED), refresh(Reason.TOKEN_EXPIRED)],
    ["revoked", revoked, revoked],
    [
      "a refresh cookie",
      refresh(Reason.ACCESS_TOKEN_MISSING),
      refresh(Reason.ACCESS_TOKEN_MISSING),
    ],
  ])("feat:B2 %s", async (name, ofRequired, ofOptional) => {
    const expected = [
      [required, ofRequired],
      [optional, ofOptional],
      // Tokens are ignored.
      [inherited, ""],
    ] as const;
    for (const [method, answer] of expected) {
      const sessions = testSessions();
      const server = wireServer(sessions.protect({ routes: openRoutes(sessions) }));
      const given = await presented[name]?.(sessions);
      const { message, hint, error } = await server.call<typeof method.input, typeof method.output>(
        method as never,
        {},
        given,
      );
      if (typeof answer === "string") {
        expect([method.name, message?.userId]).toEqual([method.name, answer]);
      } else {
        expect([method.name, hint?.action, hint?.reason]).toEqual([method.name, ...answer]);
        expect(error?.code).toBe(Code.Unauthenticated);
      }
    }
  });

  it("require distinguishes a public method from an optional one", async () => {
    const sessions = testSessions();
    const routes = (router: ConnectRouter) => {
      const needs = (_: unknown, context: HandlerContext) => ({
        userId: sessions.require(context).userId,
      });
      router.service(OpenService, { inherited: needs, required: needs, optional: needs });
    };
    const server = wireServer(sessions.protect({ routes }));
    const ofPublic = await server.call(inherited, {});
    expect(ofPublic.error?.code).toBe(Code.Internal);
    expect(ofPublic.error?.rawMessage).toMatch(
      /Inherited, which is public, so its calls have no session; set its auth/,
    );
    const ofOptional = await server.call(optional, {});
    expect(ofOptional.error?.code).toBe(Code.Unauthenticated);
    expect(ofOptional.hint).toMatchObject({
      action: Action.SIGN_IN,
      reason: Reason.SESSION_MISSING,
      procedure: "policytest.v1.OpenService/Optional",
    });
  });

  it("require fails closed if nothing authenticates the method", async () => {
    const sessions = testSessions();
    const bare = wireServer({ routes: openRoutes(sessions) });
    const { error } = await bare.call(required, {});
    expect(error?.code).toBe(Code.Internal);
    expect(error?.rawMessage).toMatch(
      /nothing authenticates .*Required; wrap .* sessions\.protect\(\)/,
    );
  });

  it("the interceptor authenticates without the gate, too", async () => {
    const sessions = testSessions();
    const routes = openRoutes(sessions);
    const server = wireServer({ routes, interceptors: [sessions.interceptor] });
    const { access } = await issueOn(sessions, "header");
    expect((await server.call(required, {}, { bearer: access })).message?.userId).toBe("alice");
    const ended = await issueOn(sessions, "cookie");
    await ended.revoke();
    const refused = await server.call(required, {}, { access: ended.access });
    expect(refused.hint?.reason).toBe(Reason.SESSION_REVOKED);
    // It can clear cookies only on unary calls of the Connect protocol.
    expect(refused.headers.getSetCookie()).toHaveLength(4);
  });
});

describe("protect", () => {
  type ServiceOptions = Parameters<ConnectRouter["service"]>[2];
  const passing: Interceptor = (next) => (request) => next(request);
  const perService: readonly (readonly [string, ServiceOptions])[] = [
    ["nothing", undefined],
    ["an empty object", {}],
    ["interceptors", { interceptors: [passing] }],
    ["no interceptors", { interceptors: [] }],
    ["interceptors undefined", { interceptors: undefined as never }],
    ["requestGate", { requestGate: async () => {} }],
    ["requestGate undefined", { requestGate: undefined as never }],
    ["both", { interceptors: [passing], requestGate: async () => {} }],
    ["something else", { jsonOptions: {} }],
  ];

  it.each(perService)("cannot be bypassed by per-service options: %s", async (_, options) => {
    const sessions = testSessions();
    const list = (_: unknown, context: HandlerContext) => {
      if (context.requestHeader.has("x-fail")) {
        throw new SessionError("tryRefreshToken", "TOKEN_EXPIRED", {
          message: "mapped by the interceptor",
        });
      }
      return { notes: [{ text: sessions.require(context).userId }] };
    };
    const server = wireServer(
      sessions.protect({
        routes: (router) => {
          router.rpc(listNotes, list, options);
          router.service(OpenService, {}, options);
        },
      }),
    );
    const { access } = await issueOn(sessions, "header");
    const passed = await server.call(listNotes, {}, { bearer: access });
    expect(passed.message?.notes[0]?.text).toBe("alice");
    expect((await server.call(listNotes, {})).hint?.reason).toBe(Reason.SESSION_MISSING);
    expect((await server.call(required, {})).hint?.reason).toBe(Reason.SESSION_MISSING);
    const failing: Presented = { bearer: access, headers: { "x-fail": "1" } };
    expect((await server.call(listNotes, {}, failing)).hint?.reason).toBe(Reason.TOKEN_EXPIRED);
    // Cookies are cleared, which only the gate can do on every call.
    const ended = await issueOn(sessions, "cookie");
    await ended.revoke();
    const cleared = await server.call(listNotes, {}, { access: ended.access });
    expect(cleared.headers.getSetCookie()).toHaveLength(4);
  });

  it("runs its gate first, then the gates of router and service, then its interceptor, then the others", async () => {
    const sessions = testSessions();
    const seen: string[] = [];
    const note = (name: string) => async (context: HandlerContext) => {
      seen.push(`${name} ${sessions.current(context)?.userId}`);
    };
    const server = wireServer(
      sessions.protect({
        requestGate: composeGates(note("gate 1"), undefined, note("gate 2")),
        interceptors: [
          (next) => (request) => {
            seen.push("interceptor");
            return next(request);
          },
        ],
        routes: (router) => {
          router.rpc(listNotes, () => ({}));
          router.rpc(addNote, () => ({}), { requestGate: note("own gate") });
        },
      }),
    );
    const { access } = await issueOn(sessions, "header");
    await server.call(listNotes, {}, { bearer: access });
    expect(seen.splice(0)).toEqual(["gate 1 alice", "gate 2 alice", "interceptor"]);
    await server.call(addNote, {}, { bearer: access });
    expect(seen.splice(0)).toEqual(["own gate alice", "interceptor"]);
    await server.call(listNotes, {});
    expect(seen).toEqual([]);
  });

  it("runs the gates of composeGates up to the first that throws; there may be none", async () => {
    const seen: string[] = [];
    const gate = composeGates(
      async () => void seen.push("1"),
      async () => {
        throw new ConnectError("no", Code.PermissionDenied);
      },
      async () => void seen.push("3"),
    );
    const context = {} as HandlerContext;
    await expect(gate(context)).rejects.toThrow("no");
    expect(seen).toEqual(["1"]);
    await expect(composeGates()(context)).resolves.toBeUndefined();
  });

  it("adds SessionService once, even if the routes register it too", () => {
    const sessions = testSessions();
    const router = createConnectRouter();
    const own = (r: ConnectRouter) => r.service(SessionService, sessions.service);
    sessions.protect({ routes: own }).routes(router);
    const refreshes = router.handlers.filter(({ method }) => method.name === "Refresh");
    expect(refreshes).toHaveLength(1);
    const added = createConnectRouter();
    const none: (router: ConnectRouter) => void = noRoutes;
    sessions.protect({ routes: none }).routes(added);
    expect(added.handlers.map(({ service }) => service.typeName)).toContain(
      SessionService.typeName,
    );
  });

  it("keeps all other options of the adapter", () => {
    const sessions = testSessions();
    const given = { routes: noRoutes, grpc: false, jsonOptions: { ignoreUnknownFields: false } };
    expect(sessions.protect(given)).toMatchObject({ grpc: false, jsonOptions: given.jsonOptions });
  });
});

describe("two instances in one process never meet", () => {
  it("a session of A does not exist for B", async () => {
    const a = testSessions({ issuer: "https://a.example" });
    const b = testSessions({ issuer: "https://b.example" });
    const ofA = await issueOn(a, "header");
    const server = wireServer(
      a.protect({
        routes: (router) =>
          router.rpc(required, (_, context) => ({ userId: b.require(context).userId })),
      }),
    );
    const passed = await server.call(required, {}, { bearer: ofA.access });
    expect(passed.error?.code).toBe(Code.Internal);
    expect(passed.error?.rawMessage).toMatch(/of this instance to the router/);
    const wrong = wireServer(b.protect({ routes: openRoutes(b) }));
    const { hint, body } = await wrong.call(required, {}, { bearer: ofA.access });
    expect(hint).toMatchObject({ realm: "https://b.example", session: "" });
    expect(body).not.toContain(ofA.id);
  });

  it("both may protect one call", async () => {
    const a = testSessions({ issuer: "https://a.example" });
    const b = testSessions({ issuer: "https://b.example" });
    const ofA = await issueOn(a, "header");
    const server = wireServer({
      requestGate: composeGates(a.requestGate, async (context) => {
        await b.getSession(
          {
            requestHeader: new Headers(),
            responseHeader: context.responseHeader,
            requestMethod: "POST",
          },
          { required: false },
        );
        expect(() => b.current(context)).toThrow(/nothing authenticates/);
      }),
      routes: openRoutes(a),
    });
    const { message } = await server.call(required, {}, { bearer: ofA.access });
    expect(message?.userId).toBe("alice");
  });
});

describe("sessions.check", () => {
  it("checks the policies of a router that was built by hand", () => {
    const sessions = testSessions({ public: [signIn] });
    const router = createConnectRouter({ requestGate: sessions.requestGate });
    router.service(OpenService, {});
    expect(() => sessions.check(router)).toThrow(/NotesService\/SignIn, but the router serves no/);
    router.service(NotesService, {});
    expect(() => sessions.check(router)).not.toThrow();
  });
});
