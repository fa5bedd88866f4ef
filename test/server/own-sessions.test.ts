import { Code } from "@connectrpc/connect";
import { type TestSessionsOptions, testSessions } from "rpc-session/testing";
import { describe, expect, it } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { Action, Reason, Tokens } from "../../gen/rpcsession/v1/hint_pb.ts";
import { SessionService } from "../../gen/rpcsession/v1/service_pb.ts";
import { apiOf, presentedBy } from "../helpers/api.ts";
import { clearsCookies, cookieEffects, type Presented } from "../helpers/exchanges.ts";
import { watchedStore } from "../helpers/watched-store.ts";

const { listSessions, revokeSession, revokeOtherSessions } = SessionService.method;

function createWorld(options: Partial<TestSessionsOptions> = {}) {
  const sessions = testSessions({ public: [NotesService.method.signIn], ...options });
  const api = apiOf(sessions);
  const add = async (
    userId: string,
    { tenantId, transport = "header" }: { tenantId?: string; transport?: "cookie" | "header" } = {},
  ) => {
    const given = { userId, transport, ...(tenantId === undefined ? {} : { tenantId }) };
    const { session, tokens } = await sessions.issue(given);
    sessions.clock.advance("1s");
    return { id: session.id, presented: presentedBy(transport, tokens.accessToken), tokens };
  };
  const list = async (presented: Presented, page: { pageSize?: number; pageToken?: string } = {}) =>
    api.server.call(listSessions, page, presented);
  const idsSeen = async (presented: Presented) =>
    (await list(presented)).message?.sessions.map(({ id }) => id);
  const revoke = (presented: Presented, sessionId: string) =>
    api.server.call(revokeSession, { sessionId }, presented);
  const lives = async (id: string) => (await sessions.find(id)) !== undefined;
  return { sessions, api, add, list, idsSeen, revoke, lives };
}

describe("SessionService.ListSessions", () => {
  it("feat:F2 feat:F3 feat:A11 returns what a list of devices needs, and no secrets", async () => {
    const { sessions, api, list } = createWorld({
      clientIp: (ctx) => ctx.requestHeader.get("x-real-ip") ?? undefined,
      clientClaims: ({ role = null }) => ({ role }),
    });
    const headers = { "user-agent": "Browser/1", "x-real-ip": "2001:db8::1" };
    const began = sessions.clock.now();
    const answer = await api.open({ headers }, (ctx) =>
      sessions.create(ctx, {
        userId: "alice",
        tenantId: "acme",
        label: "laptop",
        claims: { role: "admin", hidden: "CANARY" },
        data: { hidden: "CANARY" },
      }),
    );
    const bearer = answer.headers.get("rpcsession-access-token") ?? "";
    sessions.clock.advance("5m");
    const refresh = answer.headers.get("rpcsession-refresh-token") ?? "";
    await api.refresh("header", refresh);
    const { message, body, headers: told } = await list({ bearer });
    const [session, ...more] = message?.sessions ?? [];
    expect(more).toEqual([]);
    expect(session).toMatchObject({
      id: answer.result?.id,
      userId: "alice",
      tenantId: "acme",
      current: true,
      device: { userAgent: "Browser/1", ip: "2001:db8::1", label: "laptop" },
      claims: { role: "admin" },
    });
    expect(session?.accessExpiresIn).toBeUndefined();
    const seconds = (at?: { readonly seconds: bigint }) => Number(at?.seconds) * 1000 - began;
    expect(
      [session?.createdAt, session?.authenticatedAt, session?.lastSeenAt].map(seconds),
    ).toEqual([0, 0, 300_000]);
    expect(body + [...told].join()).not.toContain("CANARY");
    for (const secret of [bearer, refresh]) {
      expect(body).not.toContain(secret);
    }
  });

  it("feat:F3 feat:M1 never returns sessions of another user or tenant", async () => {
    const { add, idsSeen } = createWorld();
    const acme = await add("alice", { tenantId: "acme" });
    const acme2 = await add("alice", { tenantId: "acme" });
    const other = await add("alice", { tenantId: "other" });
    const none = await add("alice");
    await add("bob", { tenantId: "acme" });
    await add("bob");
    expect(await idsSeen(acme.presented)).toEqual([acme2.id, acme.id]);
    expect(await idsSeen(other.presented)).toEqual([other.id]);
    expect(await idsSeen(none.presented)).toEqual([none.id, other.id, acme2.id, acme.id]);
  });

  it("feat:F3 returns pages of 50, or of the requested size up to 200; a malformed token starts from the beginning", async () => {
    const { sessions, add, list } = createWorld();
    const me = await add("alice");
    await Promise.all(Array.from({ length: 230 }, () => sessions.issue({ userId: "alice" })));
    const sizes = [0, 7, 200, 1000, -3];
    const got = await Promise.all(
      sizes.map(
        async (pageSize) => (await list(me.presented, { pageSize })).message?.sessions.length,
      ),
    );
    expect(got).toEqual([50, 7, 200, 200, 50]);
    const seen = new Set<string>();
    let pageToken = "";
    do {
      const { message } = await list(me.presented, { pageSize: 100, pageToken });
      for (const { id } of message?.sessions ?? []) {
        expect(seen.has(id)).toBe(false);
        seen.add(id);
      }
      pageToken = message?.nextPageToken ?? "";
    } while (pageToken !== "");
    expect(seen.size).toBe(231);
    for (const junk of [
      "junk",
      "1.",
      "\u0000",
      "9".repeat(500),
      `${"9".repeat(16)}.a`,
      "1'; drop table",
      "-1.abc",
    ]) {
      const { message, error } = await list(me.presented, { pageSize: 1, pageToken: junk });
      expect([error, message?.sessions.length]).toEqual([undefined, 1]);
    }
  });
});

describe("SessionService.RevokeSession", () => {
  it.each(["cookie", "header"] as const)(
    "feat:G2 ends another session of the caller once: %s",
    async (transport) => {
      const { add, api, revoke, lives } = createWorld();
      const me = await add("alice", { transport });
      const phone = await add("alice");
      const { message, headers } = await revoke(me.presented, phone.id);
      expect(message?.revoked).toBe(true);
      expect(cookieEffects(headers)).toEqual([]);
      expect(headers.has("rpcsession-session")).toBe(false);
      const late = await api.call(phone.presented, () => {});
      expect(late.hint).toMatchObject({ reason: Reason.SESSION_REVOKED, tokens: Tokens.CLEAR });
      expect((await revoke(me.presented, phone.id)).message?.revoked).toBe(false);
      expect(await lives(me.id)).toBe(true);
    },
  );

  it("feat:G2 feat:M1 never ends or reveals a session of another user or tenant", async () => {
    const { add, revoke, lives } = createWorld();
    const me = await add("alice", { tenantId: "acme" });
    const others = [
      await add("bob", { tenantId: "acme" }),
      await add("alice", { tenantId: "other" }),
      await add("alice"),
      await add("bob"),
    ];
    const unknown = await revoke(me.presented, "x".repeat(22));
    for (const { id } of others) {
      const answer = await revoke(me.presented, id);
      expect([answer.error, answer.body]).toEqual([undefined, unknown.body]);
      expect(await lives(id)).toBe(true);
    }
    const free = others[2];
    // A session without a tenant sees all sessions of its user.
    expect((await revoke(free?.presented ?? {}, me.id)).message?.revoked).toBe(true);
  });

  it.each(["cookie", "header"] as const)(
    "feat:G1 ends the caller's own session and clears its tokens: %s",
    async (transport) => {
      const { add, api, revoke, lives } = createWorld();
      const me = await add("alice", { transport });
      const { message, headers } = await revoke(me.presented, me.id);
      expect(message?.revoked).toBe(true);
      expect(cookieEffects(headers)).toEqual(transport === "cookie" ? clearsCookies : []);
      expect(headers.get("rpcsession-session")).toContain("event=ended");
      expect(await lives(me.id)).toBe(false);
      expect((await api.call(me.presented, () => {})).hint?.tokens).toBe(Tokens.KEEP);
    },
  );

  it("feat:G2 a malformed id: false, without asking the store", async () => {
    const store = watchedStore();
    const { add, revoke } = createWorld({ store: store.store });
    const me = await add("alice");
    store.take();
    for (const id of ["", "\u0000", "x".repeat(4000), "a b", "../x", me.tokens.refreshToken]) {
      const { message, error } = await revoke(me.presented, id);
      expect([error, message?.revoked]).toEqual([undefined, false]);
    }
    expect(store.take().filter((name) => name !== "changes")).toEqual([]);
  });
});

describe("SessionService.RevokeOtherSessions", () => {
  it("feat:G4 feat:M1 ends all sessions that ListSessions returns, except the caller's", async () => {
    const { add, api, lives } = createWorld();
    const me = await add("alice", { tenantId: "acme" });
    const mine = [
      await add("alice", { tenantId: "acme" }),
      await add("alice", { tenantId: "acme" }),
    ];
    const kept = [
      me,
      await add("alice", { tenantId: "other" }),
      await add("alice"),
      await add("bob", { tenantId: "acme" }),
    ];
    const { message, headers } = await api.server.call(revokeOtherSessions, {}, me.presented);
    expect(message?.revoked).toBe(2);
    expect(cookieEffects(headers)).toEqual([]);
    expect(await Promise.all(mine.map(({ id }) => lives(id)))).toEqual([false, false]);
    expect(await Promise.all(kept.map(({ id }) => lives(id)))).toEqual([true, true, true, true]);
    const again = await api.server.call(revokeOtherSessions, {}, me.presented);
    expect(again.message?.revoked).toBe(0);
  });
});

describe("ListSessions, RevokeSession and RevokeOtherSessions", () => {
  const methods = [listSessions, revokeSession, revokeOtherSessions] as const;

  it.each(methods)(
    "feat:B2 feat:C7 require a session and a trusted page: $name",
    async (method) => {
      const { add, api } = createWorld();
      const me = await add("alice", { transport: "cookie" });
      const other = await add("alice");
      const input = method.name === "RevokeSession" ? { sessionId: other.id } : {};
      const call = (presented: Presented) =>
        api.server.call(method as typeof revokeSession, input, presented);
      const without = await call({});
      expect(without.hint).toMatchObject({
        action: Action.SIGN_IN,
        reason: Reason.SESSION_MISSING,
      });
      const foreign = await call({ ...me.presented, headers: { "sec-fetch-site": "cross-site" } });
      expect([foreign.error?.code, foreign.hint?.reason]).toEqual([
        Code.PermissionDenied,
        Reason.CROSS_SITE,
      ]);
      expect(cookieEffects(foreign.headers)).toEqual([]);
      expect((await api.call(other.presented, () => {})).error).toBeUndefined();
    },
  );

  it("refuse an ended session even if the service does not check revocation", async () => {
    const { sessions, api, add, lives } = createWorld({ revocation: "none" });
    const [thief, victim] = [await add("alice"), await add("alice")];
    await sessions.revoke(thief.id);
    for (const [method, input] of [
      [listSessions, {}],
      [revokeSession, { sessionId: victim.id }],
      [revokeOtherSessions, {}],
    ] as [typeof revokeSession, object][]) {
      const { error, hint, body } = await api.server.call(method, input, thief.presented);
      expect(error?.code, method.name).toBe(Code.Unauthenticated);
      expect(hint).toMatchObject({ reason: Reason.SESSION_REVOKED, session: thief.id });
      expect(body).not.toContain(victim.id);
    }
    const { error } = await api.call(thief.presented, (context) =>
      sessions.require(context).revokeOthers(),
    );
    expect(error?.code).toBe(Code.Unauthenticated);
    expect(await lives(victim.id)).toBe(true);
  });

  it("feat:B11 an outage: Unavailable, tokens kept", async () => {
    const store = watchedStore();
    const { add, api, list, revoke } = createWorld({ store: store.store });
    const me = await add("alice", { transport: "cookie" });
    const other = await add("alice");
    for (const method of ["list", "load", "revoke", "revokeAll"] as const) {
      store.failing.add(method as "load");
    }
    for (const answer of [
      await list(me.presented),
      await revoke(me.presented, other.id),
      await revoke(me.presented, me.id),
      await api.server.call(revokeOtherSessions, {}, me.presented),
    ]) {
      expect(answer.error?.code).toBe(Code.Unavailable);
      expect(answer.hint?.action).toBe(Action.RETRY_LATER);
      expect(cookieEffects(answer.headers)).toEqual([]);
      expect(answer.body).not.toContain("CANARY");
    }
  });
});
