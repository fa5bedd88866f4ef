import { createRouterTransport, type HandlerContext } from "@connectrpc/connect";
import { type } from "arktype";
import {
  type ClaimsOf,
  type ClaimsSchema,
  createSessions,
  type JsonObject,
  type Session,
  type SessionInfo,
  type Sessions,
  type SessionsOptions,
} from "rpc-session";
import { createSessionClient } from "rpc-session/client";
import { memoryStore } from "rpc-session/stores/memory";
import { signedIn, type TestSessions, testSessions } from "rpc-session/testing";
import { verifySessions } from "rpc-session/verify";
import * as v from "valibot";
import { describe, expectTypeOf, it } from "vitest";
import { z } from "zod";

declare const context: HandlerContext;
const base = { issuer: "https://api.example.com", store: memoryStore() };

interface Read {
  role: "reader" | "admin";
  visits: number;
  team?: string | undefined;
}

const Zod = z.object({
  role: z.enum(["reader", "admin"]).default("reader"),
  visits: z.number().default(0),
  team: z.string().optional(),
});
const Required = z.object({ role: z.enum(["reader", "admin"]), team: z.string().optional() });
const Valibot = v.object({
  role: v.optional(v.picklist(["reader", "admin"]), "reader"),
  visits: v.optional(v.number(), 0),
  team: v.optional(v.string()),
});
const Arktype = type({ role: "'reader' | 'admin'", visits: "number", "team?": "string" });

describe("types of claims on the server", () => {
  const sessions = createSessions({ ...base, claims: Zod });

  it("feat:E4 handlers read the output of the schema", () => {
    expectTypeOf(sessions.require(context).claims).toEqualTypeOf<Read>();
    expectTypeOf(sessions.current(context)).toEqualTypeOf<Session<Read> | undefined>();
    expectTypeOf(sessions.requireFresh(context, "10m").claims.role).toEqualTypeOf<
      "reader" | "admin"
    >();
    expectTypeOf(sessions.getSession(context)).resolves.toEqualTypeOf<Session<Read>>();
    expectTypeOf(sessions.getSession(context, { required: false })).resolves.toEqualTypeOf<
      Session<Read> | undefined
    >();
    expectTypeOf(sessions.reauthenticate(context)).resolves.toEqualTypeOf<Session<Read>>();
    expectTypeOf(sessions.fork(context))
      .resolves.toHaveProperty("session")
      .toEqualTypeOf<Session<Read>>();
    // @ts-expect-error no such claim
    void sessions.require(context).claims.rôle;
  });

  it("feat:E2 feat:E4 feat:F2 feat:F3 find and list return them too, or undefined if they no longer match", () => {
    expectTypeOf(sessions.find("id")).resolves.toEqualTypeOf<SessionInfo<Read> | undefined>();
    expectTypeOf<SessionInfo<Read>["claims"]>().toEqualTypeOf<Read | undefined>();
    expectTypeOf(sessions.list({ userId: "a" }))
      .resolves.toHaveProperty("sessions")
      .toEqualTypeOf<readonly SessionInfo<Read>[]>();
    expectTypeOf(sessions.updateClaims("id", { visits: 1 })).resolves.toEqualTypeOf<
      SessionInfo<Read> | undefined
    >();
    // @ts-expect-error must be a number
    void sessions.updateClaims("id", { visits: "1" });
    // @ts-expect-error the user is missing
    void sessions.list({ pageSize: 5 });
    // @ts-expect-error the user is missing
    void sessions.revokeAll({ except: "id" });
    expectTypeOf(sessions.revoke("id")).resolves.toEqualTypeOf<boolean>();
    expectTypeOf(sessions.revoke(["id"])).resolves.toEqualTypeOf<readonly string[]>();
  });

  it("feat:E1 a patch contains known claims, or undefined to remove one; a function returns all claims", () => {
    const session = sessions.require(context);
    void session.updateClaims({ visits: 1 });
    void session.updateClaims({ team: undefined, role: undefined });
    void session.updateClaims({});
    void session.updateClaims((claims) => {
      expectTypeOf(claims).toEqualTypeOf<Read>();
      return { ...claims, visits: claims.visits + 1 };
    });
    void session.updateClaims(async (claims) => claims);
    // @ts-expect-error no such claim
    void session.updateClaims({ visit: 1 });
    // @ts-expect-error no such role
    void session.updateClaims({ role: "owner" });
    // @ts-expect-error a function must return all claims
    void session.updateClaims(() => ({ visits: 1 }));
    void session.updateData({ anything: [1] });
    expectTypeOf(session.data()).resolves.toEqualTypeOf<JsonObject>();
  });

  it("feat:A1 feat:A5 a sign-in may omit claims with a default, or all claims", () => {
    void sessions.create(context, { userId: "a" });
    void sessions.create(context, { userId: "a", claims: {} });
    void sessions.create(context, { userId: "a", claims: { role: "admin" } });
    void sessions.issue({ userId: "a", claims: { visits: 1 }, transport: "cookie" });
    // @ts-expect-error no such role
    void sessions.create(context, { userId: "a", claims: { role: "owner" } });
    // @ts-expect-error no such claim
    void sessions.issue({ userId: "a", claims: { visit: 1 } });
    expectTypeOf(sessions.create(context, { userId: "a" })).resolves.toEqualTypeOf<Session<Read>>();
  });

  it("feat:A1 feat:A5 a sign-in must pass required claims", () => {
    const strict = createSessions({ ...base, claims: Required });
    void strict.create(context, { userId: "a", claims: { role: "admin" } });
    // @ts-expect-error required claims are missing
    void strict.create(context, { userId: "a" });
    expectTypeOf<Parameters<(typeof strict)["create"]>[1]>().toHaveProperty("claims");
    // @ts-expect-error required claims are missing
    void strict.issue({ userId: "a" });
    // @ts-expect-error the role is required
    void strict.create(context, { userId: "a", claims: { team: "x" } });
    type Given = Parameters<typeof strict.create>[1];
    expectTypeOf<undefined>().not.toExtend<Given["claims"]>();
    expectTypeOf<{ role: "admin" }>().toExtend<Given["claims"]>();
  });

  it("feat:E4 valibot and arktype work as well", () => {
    const valibot = createSessions({ ...base, claims: Valibot });
    expectTypeOf(valibot.require(context).claims).toEqualTypeOf<Read>();
    void valibot.create(context, { userId: "a" });
    // @ts-expect-error no such role
    void valibot.create(context, { userId: "a", claims: { role: "owner" } });
    const arktype = createSessions({ ...base, claims: Arktype });
    expectTypeOf(arktype.require(context).claims.role).toEqualTypeOf<"reader" | "admin">();
    expectTypeOf(arktype.require(context).claims.visits).toEqualTypeOf<number>();
    // @ts-expect-error required claims are missing
    void arktype.create(context, { userId: "a" });
    // @ts-expect-error no such role
    void arktype.create(context, { userId: "a", claims: { role: "owner", visits: 1 } });
  });

  it("feat:E4 without a schema, claims are any JSON object", () => {
    const untyped = createSessions(base);
    expectTypeOf(untyped).toEqualTypeOf<Sessions>();
    expectTypeOf(untyped.require(context).claims).toEqualTypeOf<JsonObject>();
    void untyped.create(context, { userId: "a" });
    void untyped.create(context, { userId: "a", claims: { anything: [1, { x: null }] } });
    void untyped.require(context).updateClaims({ anything: 1, other: undefined });
    void untyped.require(context).updateClaims((claims) => ({ ...claims, n: 1 }));
    // @ts-expect-error not an object
    void untyped.create(context, { userId: "a", claims: "x" });
  });

  it("feat:E6 clientClaims receives the same type that handlers read", () => {
    createSessions({
      ...base,
      claims: Zod,
      clientClaims(claims) {
        expectTypeOf(claims).toEqualTypeOf<Read>();
        return { role: claims.role };
      },
    });
    createSessions({
      ...base,
      clientClaims(claims) {
        expectTypeOf(claims).toEqualTypeOf<JsonObject>();
        return claims;
      },
    });
    // @ts-expect-error not an object
    createSessions({ ...base, claims: Zod, clientClaims: ({ role }) => role });
    expectTypeOf<ClaimsOf<typeof Zod>>().toEqualTypeOf<Read>();
    expectTypeOf<SessionsOptions<typeof Zod>["clientClaims"]>().toEqualTypeOf<
      ((claims: Read) => object) | undefined
    >();
  });

  it("feat:E4 a schema whose output is not an object is rejected", () => {
    // @ts-expect-error not an object
    createSessions({ ...base, claims: z.string() });
    // @ts-expect-error not a schema
    createSessions({ ...base, claims: { role: "string" } });
    expectTypeOf(z.string()).not.toExtend<ClaimsSchema>();
  });

  it("feat:B8 a service that only verifies reads them as well", () => {
    const verifying = verifySessions({ issuer: base.issuer, jwks: { keys: [] }, claims: Zod });
    expectTypeOf(verifying.require(context).claims).toEqualTypeOf<Read>();
    expectTypeOf(verifying.getSession(context))
      .resolves.toHaveProperty("claims")
      .toEqualTypeOf<Read>();
    // @ts-expect-error a verified session cannot be changed
    void verifying.require(context).updateClaims;
    const untyped = verifySessions({ issuer: base.issuer, jwks: { keys: [] } });
    expectTypeOf(untyped.require(context).claims).toEqualTypeOf<JsonObject>();
  });

  it("feat:N7 testSessions has typed claims too", () => {
    const typed = testSessions({ claims: Required });
    expectTypeOf(typed.require(context).claims.role).toEqualTypeOf<"reader" | "admin">();
    void signedIn(typed, { userId: "a", claims: { role: "admin" } });
    // @ts-expect-error required claims are missing
    void signedIn(typed, { userId: "a" });
    expectTypeOf(testSessions()).toEqualTypeOf<TestSessions>();
    void signedIn(testSessions(), { userId: "a" });
  });
});

describe("types of claims on the client", () => {
  const transport = () => createRouterTransport(() => {});

  it("feat:E6 feat:L7 have the output type of the schema, or are undefined", () => {
    const session = createSessionClient({ transport, claims: z.object({ role: z.string() }) });
    expectTypeOf(session.claims).toEqualTypeOf<{ role: string } | undefined>();
    const valibot = createSessionClient({ transport, claims: v.object({ role: v.string() }) });
    expectTypeOf(valibot.claims).toEqualTypeOf<{ role: string } | undefined>();
    const arktype = createSessionClient({ transport, claims: type({ role: "string" }) });
    expectTypeOf(arktype.claims).toEqualTypeOf<{ role: string } | undefined>();
  });

  it("feat:E6 feat:L7 have the type that the caller asserts", () => {
    const session = createSessionClient<{ readonly role: "reader" | "admin" }>({ transport });
    expectTypeOf(session.claims).toEqualTypeOf<{ readonly role: "reader" | "admin" } | undefined>();
    // @ts-expect-error the schema has a different output type
    createSessionClient<{ role: number }>({ transport, claims: z.object({ role: z.string() }) });
  });

  it("feat:E6 feat:L7 are any JSON object otherwise", () => {
    const session = createSessionClient({ transport });
    expectTypeOf(session.claims).toEqualTypeOf<JsonObject | undefined>();
    expectTypeOf(session.state.claims).toEqualTypeOf<JsonObject | undefined>();
  });
});
