import { Code } from "@connectrpc/connect";
import { type } from "arktype";
import type { ClaimsSchema, SessionEvent } from "rpc-session";
import { memoryStore } from "rpc-session/stores/memory";
import { createFakeClock, testSessions } from "rpc-session/testing";
import { verifySessions } from "rpc-session/verify";
import * as v from "valibot";
import { describe, expect, it, onTestFinished } from "vitest";
import { z } from "zod";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { Action, PolicyViolationsSchema, Reason, Tokens } from "../../gen/rpcsession/v1/hint_pb.ts";
import { SessionService } from "../../gen/rpcsession/v1/service_pb.ts";
import { accessOf, apiOf, payloadOf } from "../helpers/api.ts";
import { cookieEffects, exchangeOf, sessionErrorOf } from "../helpers/exchanges.ts";
import { watchedStore } from "../helpers/watched-store.ts";
import { createSqlite } from "../stores/sqlite-fixture.ts";

interface UserClaims {
  readonly role: "reader" | "admin";
  readonly teams: readonly string[];
}

/** The same claims schema in every library, and one that validates asynchronously. */
const schemas: Readonly<Record<string, ClaimsSchema<UserClaims>>> = {
  zod: z.object({
    role: z.enum(["reader", "admin"]).default("reader"),
    teams: z.array(z.string()).default([]),
  }),
  valibot: v.object({
    role: v.optional(v.picklist(["reader", "admin"]), "reader"),
    teams: v.optional(v.array(v.string()), () => []),
  }),
  arktype: type({
    role: "'reader' | 'admin' = 'reader'",
    teams: type("string[]").default(() => []),
  }) as unknown as ClaimsSchema<UserClaims>,
  "zod, async": z.object({
    role: z.enum(["reader", "admin"]).default("reader"),
    teams: z
      .array(z.string())
      .default([])
      .refine(async (teams) => {
        await new Promise((resolve) => setImmediate(resolve));
        return teams.length < 5;
      }),
  }),
};

const open = { public: [NotesService.method.signIn] };

/** The same sessions before and after a schema change, on one store and one clock. */
function deployment() {
  const store = memoryStore();
  const clock = createFakeClock();
  const events: SessionEvent[] = [];
  const onEvent = (event: SessionEvent): void => void events.push(event);
  const before = testSessions({ ...open, store, clock, onEvent });
  const withSchema = <S extends ClaimsSchema>(claims: S) =>
    testSessions({ ...open, store, clock, onEvent, claims });
  return { before, withSchema, events, clock };
}

describe.each(Object.entries(schemas))("claims validated by %s", (_, claims) => {
  it("feat:A5 the token carries the output of the schema", async () => {
    const sessions = testSessions({ ...open, claims });
    const api = apiOf(sessions);
    const answer = await api.open({}, (ctx) => sessions.create(ctx, { userId: "a", claims: {} }));
    expect(answer.error).toBeUndefined();
    expect(answer.result?.claims).toEqual({ role: "reader", teams: [] });
    const bearer = accessOf(answer) ?? "";
    expect(payloadOf(bearer)).toMatchObject({ role: "reader", teams: [] });
    const next = await api.call({ bearer }, (ctx) => sessions.require(ctx).claims);
    expect(next.result).toEqual({ role: "reader", teams: [] });
    expect((await sessions.find(answer.result?.id ?? ""))?.claims).toEqual(next.result);
  });

  it("feat:A4 feat:A5 feat:N4 invalid claims are refused at issue, by a TypeError with the name but not the value", async () => {
    const store = watchedStore();
    const sessions = testSessions({ ...open, store: store.store, claims });
    const bad = { userId: "a", claims: { role: "CANARY", teams: ["CANARY", 7] } };
    const wrong = async (error: unknown) => {
      expect(error).toBeInstanceOf(TypeError);
      expect(String(error)).toMatch(
        /^TypeError: the claims do not match the schema: (role|teams\.1)(, (role|teams\.1))?$/,
      );
    };
    await sessions.issue(bad as never).then(() => expect.unreachable(), wrong);
    const api = apiOf(sessions);
    const { error, body, headers } = await api.open({}, (ctx) =>
      sessions.create(ctx, bad as never),
    );
    expect(error?.code).toBe(Code.Internal);
    expect(error?.rawMessage).toMatch(
      /^the claims do not match the schema: (role|teams\.1)(, (role|teams\.1))?$/,
    );
    expect(body + [...headers].join()).not.toContain("CANARY");
    expect(store.inserted).toEqual([]);
  });

  it("feat:L5 sessions from before a schema change: PermissionDenied with violations, tokens kept", async () => {
    const { before, withSchema } = deployment();
    const { tokens, session } = await before.issue({
      userId: "a",
      claims: { role: "CANARY", teams: ["x"] },
      transport: "cookie",
    });
    const sessions = withSchema(claims);
    const api = apiOf(sessions);
    const answer = await api.call({ access: tokens.accessToken }, () => {});
    expect(answer.error?.code).toBe(Code.PermissionDenied);
    expect(answer.hint).toMatchObject({ reason: Reason.CLAIM_REJECTED, tokens: Tokens.KEEP });
    expect(answer.hint?.action).toBe(Action.UNSPECIFIED);
    expect(cookieEffects(answer.headers)).toEqual([]);
    const [detail] = answer.error?.findDetails(PolicyViolationsSchema) ?? [];
    expect(detail?.violations).toEqual([
      expect.objectContaining({
        claim: "role",
        requirement: "schema",
        message: "does not match the schema",
      }),
    ]);
    expect(answer.body + [...answer.headers].join()).not.toContain("CANARY");
    // The session can still be refreshed and repaired.
    const refreshed = await api.refresh("cookie", tokens.refreshToken);
    expect(refreshed.error).toBeUndefined();
    const other = await sessions.issue({ userId: "a", claims: { role: "admin" } });
    const seen = await api.server.call(
      SessionService.method.listSessions,
      {},
      { bearer: other.tokens.accessToken },
    );
    expect(seen.message?.sessions.map(({ id }) => id).sort()).toEqual(
      [session.id, other.session.id].sort(),
    );
    await sessions.revoke(other.session.id);
    const listed = await sessions.list({ userId: "a" });
    expect(listed.sessions).toMatchObject([{ id: session.id, claims: undefined }]);
    await sessions.updateClaims(session.id, { role: "admin" });
    const mended = await api.refresh("cookie", tokens.refreshToken);
    const next = await api.call(
      { access: accessOf(mended) ?? "" },
      (ctx) => sessions.require(ctx).claims,
    );
    expect(next.result).toEqual({ role: "admin", teams: ["x"] });
  });

  it("feat:L5 feat:B8 getSession outside of an RPC and a verify-only service refuse them too", async () => {
    const { before, withSchema, clock } = deployment();
    const { tokens } = await before.issue({ userId: "a", claims: { role: "CANARY" } });
    const jwks = await before.jwks();
    const verifying = verifySessions({ issuer: "https://test.example", jwks, claims, clock });
    for (const sessions of [withSchema(claims), verifying]) {
      const error = await sessionErrorOf(
        sessions.getSession(exchangeOf({ bearer: tokens.accessToken })),
      );
      expect(error).toMatchObject({
        kind: "forbidden",
        reason: "CLAIM_REJECTED",
        clearTokens: false,
      });
      expect(error.violations.map(({ claim }) => claim)).toContain("role");
      expect(JSON.stringify([error, error.message, error.cause])).not.toContain("CANARY");
    }
    const good = await before.issue({ userId: "a", claims: { role: "admin" } });
    const session = await verifying.getSession(exchangeOf({ bearer: good.tokens.accessToken }));
    expect(session.claims).toEqual({ role: "admin", teams: [] });
  });
});

describe("unusable schemas", () => {
  it("feat:N4 a value that is not a schema: a TypeError at construction that says what to pass", () => {
    for (const claims of [{}, "zod", null, z.object, 7]) {
      expect(() => testSessions({ claims: claims as never })).toThrow(
        /^claims must be a schema from zod, valibot, arktype/,
      );
    }
    expect(() => testSessions({ clientClaims: {} as never })).toThrow(
      "clientClaims must be a function, got an object",
    );
  });

  it.each<[string, ClaimsSchema]>([
    ["turns a string into a number", z.object({ n: z.string().transform(Number) })],
    [
      "adds something on every run",
      v.object({
        n: v.pipe(
          v.number(),
          v.transform((n) => n + 1),
        ),
      }),
    ],
  ])("feat:A5 a schema that %s is refused at issue, with an explanation", async (_, claims) => {
    const store = watchedStore();
    const sessions = testSessions({ store: store.store, claims });
    for (const n of ["4711", 4711]) {
      const error = await sessions.issue({ userId: "a", claims: { n } }).catch((e: unknown) => e);
      expect(error).toBeInstanceOf(TypeError);
      expect(String(error)).not.toContain("4711");
    }
    const fits = _.startsWith("turns") ? "4711" : 4711;
    await expect(sessions.issue({ userId: "a", claims: { n: fits } })).rejects.toThrow(
      /the schema of the option claims changes its own output; .* do not transform/,
    );
    expect(store.inserted).toEqual([]);
  });

  it("feat:A5 a schema with idempotent transforms, such as trim and lower case, is accepted", async () => {
    const claims = z.object({ name: z.string().trim().toLowerCase() });
    const { session } = await testSessions({ claims }).issue({
      userId: "a",
      claims: { name: " ADA " },
    });
    expect(session.claims).toEqual({ name: "ada" });
  });

  it("feat:A5 a handler cannot change the claims of other calls, even if the schema froze only the outer object", async () => {
    const roles = z.array(z.string());
    const inValibot = v.object({ roles: v.array(v.string()) });
    for (const claims of [
      z.object({ roles }),
      z.object({ roles }).readonly(),
      v.pipe(inValibot, v.readonly()),
    ] as ClaimsSchema<{ roles: readonly string[] }>[]) {
      const sessions = testSessions({ claims });
      const { tokens } = await sessions.issue({ userId: "a", claims: { roles: ["reader"] } });
      const read = async () =>
        (await sessions.getSession(exchangeOf({ bearer: tokens.accessToken }))).claims;
      const { roles: first } = (await read()) as { roles: string[] };
      expect(() => first.push("admin")).toThrow(TypeError);
      expect(await read()).toEqual({ roles: ["reader"] });
    }
  });

  it("feat:A5 no handler can change the claims of a session, without a schema and without a cache either", async () => {
    // Unlike the memory store, SQLite returns new objects.
    const sqlite = await createSqlite();
    onTestFinished(() => sqlite.close());
    const { store } = sqlite;
    const sessions = testSessions({ ...open, store, verifiedCache: { entries: 0 } });
    const api = apiOf(sessions);
    const claims = { plan: { seats: 3 }, teams: [{ name: "red" }] };
    const answer = await api.open({}, (ctx) => sessions.create(ctx, { userId: "a", claims }));
    const bearer = accessOf(answer) ?? "";
    const next = await api.call({ bearer }, (ctx) => sessions.require(ctx));
    const found = await sessions.find(answer.result?.id ?? "");
    for (const session of [answer.result, next.result, found]) {
      const seen = session?.claims as { plan: { seats: number }; teams: { name: string }[] };
      expect(() => {
        seen.plan.seats = 4;
      }).toThrow(TypeError);
      expect(() => {
        (seen.teams[0] as { name: string }).name = "blue";
      }).toThrow(TypeError);
      expect(seen).toEqual(claims);
    }
  });

  it("feat:A5 members that are undefined are dropped", async () => {
    const claims = z.object({
      team: z.string().optional(),
      in: z.object({ x: z.number().optional() }),
    });
    const { session } = await testSessions({ claims }).issue({
      userId: "a",
      claims: { team: undefined, in: { x: undefined } },
    });
    expect(Object.keys(session.claims)).toEqual(["in"]);
  });

  it.each<[string, (value: unknown) => never]>([
    [
      "an Error",
      (value) => {
        throw new Error(JSON.stringify(value));
      },
    ],
    [
      "a TypeError",
      (value) => {
        throw new TypeError(JSON.stringify(value));
      },
    ],
  ])(
    "feat:A5 feat:N6 a schema that throws %s: Internal, and only events contain its message",
    async (_, refuse) => {
      const events: SessionEvent[] = [];
      let broken = false;
      const claims = z.looseObject({}).refine((value) => (broken ? refuse(value) : true));
      const sessions = testSessions({
        ...open,
        claims,
        onEvent: (event) => void events.push(event),
      });
      const api = apiOf(sessions);
      const good = await api.open({}, (ctx) =>
        sessions.create(ctx, { userId: "a", claims: { x: "CANARY" } }),
      );
      broken = true;
      const created = await api.open({}, (ctx) =>
        sessions.create(ctx, { userId: "a", claims: { x: "CANARY" } }),
      );
      const { error, body, hint } = await api.call({ bearer: accessOf(good) ?? "" }, () => {});
      for (const answer of [created.error, error]) {
        expect(answer?.code).toBe(Code.Internal);
        expect(answer?.rawMessage).not.toContain("CANARY");
      }
      expect(created.body + body).not.toContain("CANARY");
      expect(hint?.tokens).not.toBe(Tokens.CLEAR);
      expect(events.filter(({ type }) => type === "failed")).toHaveLength(2);
    },
  );

  it("feat:A4 reserved claim names are refused, with and without a schema", async () => {
    const claims = z.looseObject({});
    const sessions = testSessions({ claims });
    for (const name of ["sub", "sid", "cv", "auth_time", "session_exp", "cnf"]) {
      await expect(sessions.issue({ userId: "a", claims: { [name]: 1 } })).rejects.toThrow(
        `claims.${name}: the name is reserved; choose another`,
      );
    }
  });
});

describe("feat:E6 clientClaims: the claims that a client may read", () => {
  const claims = z.object({
    role: z.enum(["reader", "admin"]).default("reader"),
    costCenter: z.string().default("CANARY"),
    name: z.string().optional(),
  });
  const projected = {
    ...open,
    claims,
    clientClaims: ({ role, name }: z.output<typeof claims>) => ({ role, name }),
  };

  it.each(["cookie", "header"] as const)(
    "feat:E6 feat:E5 the notices of sign-in, refresh and change contain only these claims: %s",
    async (transport) => {
      const sessions = testSessions(projected);
      const api = apiOf(sessions);
      const site = transport === "cookie" ? { "sec-fetch-site": "same-origin" } : {};
      const answer = await api.open({ headers: { ...site } }, (ctx) =>
        sessions.create(ctx, { userId: "a", claims: { name: "Ada" } }),
      );
      expect(answer.notice?.claims).toEqual({ role: "reader", name: "Ada" });
      // The page only receives the access token itself if it asked for header transport.
      expect(answer.headers.has("rpcsession-access-token")).toBe(transport === "header");
      const access = accessOf(answer) ?? "";
      const given = transport === "cookie" ? { access } : { bearer: access };
      const changed = await api.call(given, (ctx) =>
        sessions
          .require(ctx)
          .updateClaims({ role: "admin", name: undefined, costCenter: "CANARY" }),
      );
      expect(changed.notice).toMatchObject({ event: "reissued", claims: { role: "admin" } });
      expect(changed.notice?.claims).not.toHaveProperty("name");
      const { tokens } = await sessions.issue({ userId: "a", claims: {}, transport });
      const refreshed = await api.refresh(transport, tokens.refreshToken);
      expect(refreshed.notice?.claims).toEqual({ role: "reader" });
      const message = refreshed.message as { session?: { claims?: unknown } };
      expect(message.session?.claims).toEqual({ role: "reader" });
      const told = await api.server.call(SessionService.method.getSession, {}, given);
      expect(told.message?.session?.claims).toEqual({ role: "admin" });
      const listed = await api.server.call(SessionService.method.listSessions, {}, given);
      const roles = listed.message?.sessions.map((s) => s.claims?.role);
      expect(roles?.sort()).toEqual(["admin", "reader"]);
      for (const { headers, body } of [answer, changed, refreshed, told, listed]) {
        const readable = [...headers].filter(
          ([name]) => !/set-cookie|access-token|refresh-token/.test(name),
        );
        expect(JSON.stringify(readable) + body).not.toContain("CANARY");
      }
    },
  );

  it("feat:E6 without the option, notices contain no claims", async () => {
    const sessions = testSessions({ ...open, claims });
    const api = apiOf(sessions);
    const answer = await api.open({}, (ctx) => sessions.create(ctx, { userId: "a", claims: {} }));
    expect(answer.notice?.event).toBe("created");
    expect(answer.headers.get("rpcsession-session")).not.toMatch(/claims=|reader|CANARY/);
    const told = await api.server.call(
      SessionService.method.getSession,
      {},
      { bearer: accessOf(answer) ?? "" },
    );
    expect(told.message?.session?.id).toBe(answer.result?.id);
    expect(told.message?.session?.claims).toBeUndefined();
  });

  it.each([
    ["letters", "x".repeat(3200)],
    ["characters that a header encodes as three", "'".repeat(1200)],
    ["characters that a header encodes as six", "é".repeat(600)],
  ])(
    "feat:E6 feat:N4 claims too large for a header are refused before anything is stored: %s",
    async (_, name) => {
      const store = watchedStore();
      const sessions = testSessions({ ...projected, store: store.store });
      const api = apiOf(sessions);
      const answer = await api.open({}, (ctx) =>
        sessions.create(ctx, { userId: "a", claims: { name } }),
      );
      expect(answer.error?.code).toBe(Code.Internal);
      expect(answer.error?.rawMessage).toMatch(
        /^clientClaims must return at most 3072 characters after form encoding, got [3-9]\d{3}; select fewer claims$/,
      );
      await expect(sessions.issue({ userId: "a", claims: { name } })).rejects.toThrow(TypeError);
      expect(store.inserted).toEqual([]);
      const { session } = await sessions.issue({ userId: "a", claims: { name: "Ada" } });
      await expect(sessions.updateClaims(session.id, { name })).rejects.toThrow(
        /clientClaims must return at most/,
      );
      expect((await sessions.find(session.id))?.claims?.name).toBe("Ada");
    },
  );

  it("feat:E6 claims of the maximum size arrive complete", async () => {
    const sessions = testSessions(projected);
    const api = apiOf(sessions);
    const name = "'(é)".repeat(160);
    const answer = await api.open({}, (ctx) =>
      sessions.create(ctx, { userId: "a", claims: { name } }),
    );
    expect(answer.notice?.claims).toEqual({ role: "reader", name });
    expect(answer.headers.get("rpcsession-session")?.length).toBeLessThan(8192);
  });

  it("feat:E6 a projection that does not return JSON is refused at sign-in, naming clientClaims", async () => {
    for (const [told, message] of [
      [
        { at: new Date() },
        /^clientClaims: claims\.at: a token cannot contain an instance of a class/,
      ],
      [{ sub: "x" }, /^clientClaims: claims\.sub: the name is reserved/],
      [null, /^clientClaims: claims must be a plain object/],
      [Promise.resolve({}), /^clientClaims: claims must be a plain object/],
    ] as const) {
      const sessions = testSessions({ clientClaims: () => told as never });
      await expect(sessions.issue({ userId: "a" })).rejects.toThrow(message);
    }
  });

  it.each(["cookie", "header"] as const)(
    "feat:E6 feat:N6 a projection that throws later is reported as an event and does not break refreshes: %s",
    async (transport) => {
      let broken = false;
      const events: SessionEvent[] = [];
      const sessions = testSessions({
        ...projected,
        onEvent: (event) => void events.push(event),
        clientClaims({ role }) {
          if (broken) {
            throw new TypeError("CANARY");
          }
          return { role };
        },
      });
      const { tokens, session } = await sessions.issue({ userId: "a", claims: {}, transport });
      const api = apiOf(sessions);
      broken = true;
      const answer = await api.refresh(transport, tokens.refreshToken);
      expect(answer.error).toBeUndefined();
      expect(accessOf(answer)).toBeDefined();
      expect(answer.notice).toMatchObject({ event: "refreshed", session: session.id });
      expect(answer.notice?.claims).toBeUndefined();
      const given =
        transport === "cookie" ? { access: tokens.accessToken } : { bearer: tokens.accessToken };
      const { error, message } = await api.server.call(SessionService.method.getSession, {}, given);
      expect([error, message?.session?.id, message?.session?.claims]).toEqual([
        undefined,
        session.id,
        undefined,
      ]);
      expect(events.some(({ type }) => type === "failed")).toBe(true);
      const signIn = await api.open({}, (ctx) => sessions.create(ctx, { userId: "a", claims: {} }));
      expect(signIn.error?.code).toBe(Code.Internal);
      expect(signIn.body + answer.body).not.toContain("CANARY");
      expect(cookieEffects(signIn.headers)).toEqual([]);
    },
  );
});
