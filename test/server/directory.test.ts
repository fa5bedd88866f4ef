import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ConnectError } from "@connectrpc/connect";
import { createSessions, type SessionError, type SessionEvent } from "rpc-session";
import { sqliteStore } from "rpc-session/stores/sqlite";
import { createFakeClock, type TestSessionsOptions, testSessions } from "rpc-session/testing";
import { describe, expect, it, onTestFinished } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { apiOf, presentedBy } from "../helpers/api.ts";
import { clearsCookies, cookieEffects, exchangeOf, sessionErrorOf } from "../helpers/exchanges.ts";
import { sorted } from "../helpers/sorted.ts";
import { watchedStore } from "../helpers/watched-store.ts";

function createWorld(options: Partial<TestSessionsOptions> = {}) {
  const events: SessionEvent[] = [];
  const sessions = testSessions({
    public: [NotesService.method.signIn],
    ...options,
    onEvent: (event) => void events.push(event),
  });
  const api = apiOf(sessions);
  const add = async (userId: string, tenantId?: string) => {
    const given = { userId, ...(tenantId === undefined ? {} : { tenantId }) };
    const { session, tokens } = await sessions.issue(given);
    // Time passes between sign-ins, so that lists have a defined order.
    sessions.clock.advance("1s");
    return { id: session.id, session, bearer: tokens.accessToken };
  };
  const reasonOf = (bearer: string): Promise<string | undefined> =>
    sessions.getSession(exchangeOf({ bearer })).then(
      () => undefined,
      (error: SessionError) => error.reason,
    );
  return { sessions, api, events, add, reasonOf };
}

describe("sessions by id", () => {
  it("feat:F2 feat:F4 feat:E4 find returns the stored facts and no secrets", async () => {
    const { sessions } = createWorld();
    const { session, tokens } = await sessions.issue({
      userId: "alice",
      tenantId: "acme",
      claims: { role: "admin" },
      data: { cart: ["CANARY"] },
      label: "laptop",
      transport: "cookie",
    });
    const began = sessions.clock.now();
    sessions.clock.advance("1h");
    const info = await sessions.find(session.id);
    expect(info).toEqual({
      id: session.id,
      userId: "alice",
      tenantId: "acme",
      claims: { role: "admin" },
      createdAt: new Date(began),
      authTime: new Date(began),
      lastSeenAt: new Date(began),
      idleExpiresAt: new Date(began + 14 * 86_400_000),
      expiresAt: new Date(began + 90 * 86_400_000),
      tokenTransport: "cookie",
      device: { label: "laptop" },
      amr: [],
    });
    expect(await session.info()).toEqual(info);
    const [access, refresh] = [tokens.accessToken, tokens.refreshToken];
    const said = JSON.stringify(info);
    expect([access, refresh, "CANARY", "salt"].filter((s) => said.includes(s))).toEqual([]);
  });

  it("feat:F4 the session of a call has its start and its end", async () => {
    const { sessions, api, add } = createWorld();
    const began = sessions.clock.now();
    const { bearer } = await add("alice");
    const { result } = await api.call({ bearer }, (ctx) => sessions.require(ctx));
    expect(result?.createdAt).toEqual(new Date(began));
    expect(result?.authTime).toEqual(new Date(began));
    expect(result?.expiresAt).toEqual(new Date(began + 90 * 86_400_000));
    expect(result?.accessExpiresAt.getTime()).toBeLessThanOrEqual(began + 900_000);
  });

  it("feat:E2 feat:E4 feat:F1 claims and private data can be read and written by id; the next token has the claims", async () => {
    const { sessions, api, events } = createWorld();
    const { session, tokens } = await sessions.issue({ userId: "a", data: { n: 1 } });
    expect(await sessions.updateClaims(session.id, { role: "admin" })).toMatchObject({
      id: session.id,
      claims: { role: "admin" },
    });
    expect(await sessions.data(session.id)).toEqual({ n: 1 });
    expect(await sessions.updateData(session.id, { m: 2, n: undefined })).toEqual({ m: 2 });
    expect(await sessions.updateData(session.id, (data) => ({ ...data, k: 3 }))).toEqual({
      m: 2,
      k: 3,
    });
    expect(await sessions.data(session.id)).toEqual({ m: 2, k: 3 });
    const refreshed = await api.refresh("header", tokens.refreshToken);
    const bearer = refreshed.headers.get("rpcsession-access-token") ?? "";
    const { result } = await api.call({ bearer }, async (ctx) => {
      const live = sessions.require(ctx);
      await live.updateData({ seen: true });
      return [live.claims, await live.data()];
    });
    expect(result).toEqual([{ role: "admin" }, { m: 2, k: 3, seen: true }]);
    // Private data never appears in a token and does not cause a new one.
    expect(bearer).not.toContain(Buffer.from('"k":3').toString("base64url").slice(0, 4));
    expect(events.map(({ type }) => type)).toEqual([
      ...["created", "claimsChanged", "dataChanged", "dataChanged", "refreshed", "dataChanged"],
    ]);
  });

  it("feat:F1 data that is not a JSON object or is too large is refused and changes nothing", async () => {
    const { sessions } = createWorld();
    const { session } = await sessions.issue({ userId: "a", data: { n: 1 } });
    const cyclic: Record<string, unknown> = {};
    cyclic.self = cyclic;
    for (const [data, message] of [
      [[1], /^updateData: data must be a JSON object/],
      ["CANARY", /^updateData: data must be a JSON object/],
      [null, /^updateData: data must be a JSON object/],
      [{ big: "CANARY".repeat(12_000) }, /^updateData: data must be at most 65536 bytes/],
      [{ n: 1n }, /^updateData: data must be a JSON object/],
      [cyclic, /^updateData: data must be a JSON object/],
    ] as const) {
      const error = await sessions
        .updateData(session.id, () => data as never)
        .catch((e: Error) => e);
      const { rawMessage } = ConnectError.from(error);
      expect(rawMessage).toMatch(message);
      expect(rawMessage).not.toContain("CANARY");
      expect(await sessions.data(session.id)).toEqual({ n: 1 });
    }
    for (const data of [[1], "x", 7, null, { big: "x".repeat(70_000) }, cyclic, { n: 1n }]) {
      await expect(sessions.issue({ userId: "a", data: data as never })).rejects.toThrow(
        /^data must /,
      );
    }
    expect((await sessions.list({ userId: "a" })).sessions).toHaveLength(1);
  });

  it("feat:E2 feat:F1 feat:F2 an unknown, expired or ended session: undefined, and nothing happens", async () => {
    const { sessions, add, events } = createWorld({ lifetimes: { idle: "1h" } });
    const ended = await add("alice");
    await sessions.revoke(ended.id);
    const expired = await add("alice");
    sessions.clock.advance("2h");
    events.length = 0;
    for (const id of [ended.id, expired.id, "nobody", "x".repeat(300), "\u0000"]) {
      expect(await sessions.find(id)).toBeUndefined();
      expect(await sessions.data(id)).toBeUndefined();
      expect(await sessions.updateClaims(id, { role: "admin" })).toBeUndefined();
      expect(await sessions.updateData(id, () => expect.unreachable())).toBeUndefined();
    }
    for (const id of [ended.id, "nobody"]) {
      expect(await sessions.revoke(id)).toBe(false);
    }
    expect(events).toEqual([]);
  });

  it("feat:N4 a missing owner or id is a TypeError and never selects everybody's sessions", async () => {
    const { sessions } = createWorld();
    for (const id of [undefined, "", 7, null, {}]) {
      await expect(sessions.find(id as never)).rejects.toThrow(
        /^the id of a session must be a non-empty string/,
      );
      await expect(sessions.data(id as never)).rejects.toThrow(TypeError);
      await expect(sessions.updateClaims(id as never, {})).rejects.toThrow(TypeError);
      await expect(sessions.updateData(id as never, {})).rejects.toThrow(TypeError);
      await expect(sessions.revoke(id as never)).rejects.toThrow(TypeError);
    }
    await expect(sessions.revoke([""])).rejects.toThrow(TypeError);
    for (const owner of [
      {},
      { userId: undefined },
      undefined,
      // An undefined userId must not select the whole tenant.
      { userId: undefined, tenantId: "t" },
      { userId: "" },
      { tenantId: "" },
      { userId: 7 },
    ]) {
      await expect(sessions.list(owner as never)).rejects.toThrow(TypeError);
      await expect(sessions.revokeAll(owner as never)).rejects.toThrow(TypeError);
    }
    await expect(sessions.list({} as never)).rejects.toThrow(
      "list: specify userId, tenantId or both",
    );
    await expect(sessions.revokeAll({ userId: undefined, tenantId: "t" } as never)).rejects.toThrow(
      /^revokeAll: userId is undefined; omit it to select every user/,
    );
    await expect(sessions.list({ userId: "a", pageSize: 0 })).rejects.toThrow(
      /pageSize must be an integer from 1 to 1000, got 0/,
    );
    await expect(sessions.list({ userId: "a", pageSize: 1001 })).rejects.toThrow(TypeError);
    for (const pageToken of [
      `${"9".repeat(16)}.a`,
      `${"9".repeat(40)}.a`,
      "",
      "1.\u0000",
      `1.${"x".repeat(99)}`,
    ]) {
      await expect(sessions.list({ userId: "a", pageToken })).rejects.toThrow(TypeError);
    }
    await expect(sessions.list({ userId: "a", pageToken: "junk" })).rejects.toThrow(
      /pageToken must be the nextPageToken/,
    );
    await expect(sessions.revokeAll({ userId: "a", except: "" })).rejects.toThrow(TypeError);
    // A misspelt option must not end the session that is meant to stay.
    await expect(sessions.revokeAll({ userId: "a", expect: "s" } as never)).rejects.toThrow(
      /^unknown option "expect" for sessions\.revokeAll; the options are userId, tenantId, except$/,
    );
    await expect(sessions.list({ userId: "a", limit: 5 } as never)).rejects.toThrow(
      /^unknown option "limit" for sessions\.list/,
    );
  });
});

describe("lists of sessions", () => {
  it("feat:F3 feat:M1 contain the live sessions of a user, a tenant, or a user within a tenant, newest first", async () => {
    const { sessions, add } = createWorld();
    const a1 = await add("alice", "acme");
    const a2 = await add("alice", "other");
    const a3 = await add("alice");
    const b1 = await add("bob", "acme");
    const gone = await add("alice", "acme");
    await sessions.revoke(gone.id);
    const idsOf = async (owner: Parameters<typeof sessions.list>[0]) =>
      (await sessions.list(owner)).sessions.map(({ id }) => id);
    expect(await idsOf({ userId: "alice" })).toEqual([a3.id, a2.id, a1.id]);
    expect(await idsOf({ tenantId: "acme" })).toEqual([b1.id, a1.id]);
    expect(await idsOf({ userId: "alice", tenantId: "acme" })).toEqual([a1.id]);
    expect(await idsOf({ userId: "acme" })).toEqual([]);
  });

  it("feat:F3 pages contain every session once, even while others begin and end", async () => {
    const { sessions, add } = createWorld();
    const ids: string[] = [];
    for (let i = 0; i < 23; i++) {
      ids.unshift((await add("alice")).id);
    }
    const seen: string[] = [];
    let pageToken: string | undefined;
    let pages = 0;
    do {
      const page = await sessions.list({
        userId: "alice",
        pageSize: 5,
        ...(pageToken === undefined ? {} : { pageToken }),
      });
      expect(page.sessions.length).toBeLessThanOrEqual(5);
      seen.push(...page.sessions.map(({ id }) => id));
      pageToken = page.nextPageToken;
      pages++;
      await sessions.revoke(seen[0] ?? "");
      await add("alice");
    } while (pageToken !== undefined);
    expect(seen).toEqual(ids);
    expect(pages).toBe(5);
    expect((await sessions.list({ userId: "alice" })).sessions).toHaveLength(23 - 1 + 5);
  });

  it("feat:F3 a page token of one user reveals nothing about another", async () => {
    const { sessions, add } = createWorld();
    for (let i = 0; i < 3; i++) {
      await add("alice");
      await add("bob");
    }
    const { nextPageToken = "" } = await sessions.list({ userId: "alice", pageSize: 1 });
    const page = await sessions.list({ userId: "bob", pageToken: nextPageToken });
    expect(page.sessions.every(({ userId }) => userId === "bob")).toBe(true);
  });
});

describe("ending sessions", () => {
  it("feat:G2 revoke returns whether this call ended the session; its token is refused at once", async () => {
    const { sessions, add, reasonOf, events } = createWorld();
    const { id, bearer } = await add("alice");
    expect(await sessions.revoke(id)).toBe(true);
    expect(await sessions.revoke(id)).toBe(false);
    expect(await reasonOf(bearer)).toBe("SESSION_REVOKED");
    expect(events.slice(1)).toEqual([
      { type: "revoked", sessionId: id, endedBy: "revoked" },
      expect.objectContaining({ type: "refused", reason: "SESSION_REVOKED", sessionId: id }),
    ]);
  });

  it("feat:G2 revoke of several returns the ids that this call ended", async () => {
    const { sessions, add, reasonOf, events } = createWorld();
    const all = [await add("a"), await add("b"), await add("c")];
    const [a, b, c] = all.map(({ id }) => id) as [string, string, string];
    await sessions.revoke(b);
    events.length = 0;
    expect([...(await sessions.revoke([a, b, c, "nobody", a]))].sort()).toEqual([a, c].sort());
    expect(await Promise.all(all.map(({ bearer }) => reasonOf(bearer)))).toEqual(
      Array(3).fill("SESSION_REVOKED"),
    );
    const ended = events.flatMap((e) => (e.type === "revoked" ? [e.sessionId] : []));
    expect(sorted(ended)).toEqual(sorted([a, c]));
    expect(await sessions.revoke([])).toEqual([]);
  });

  it("feat:G2 revoke handles more ids than one transaction does", async () => {
    const { sessions } = createWorld();
    const ids = await Promise.all(
      Array.from({ length: 1203 }, async () => (await sessions.issue({ userId: "a" })).session.id),
    );
    const revoked = await sessions.revoke(ids);
    expect(new Set(revoked).size).toBe(1203);
    expect((await sessions.list({ userId: "a" })).sessions).toEqual([]);
  });

  it("feat:G3 feat:M1 revokeAll ends the sessions of a user, a user within a tenant, or a tenant", async () => {
    const { sessions, add, reasonOf } = createWorld();
    const acme = await add("alice", "acme");
    const other = await add("alice", "other");
    const none = await add("alice");
    const bob = await add("bob", "acme");
    expect(await sessions.revokeAll({ userId: "alice", tenantId: "acme" })).toEqual([acme.id]);
    expect(await reasonOf(other.bearer)).toBeUndefined();
    expect(await sessions.revokeAll({ tenantId: "acme" })).toEqual([bob.id]);
    expect([...(await sessions.revokeAll({ userId: "alice" }))].sort()).toEqual(
      [other.id, none.id].sort(),
    );
    expect(await sessions.revokeAll({ userId: "alice" })).toEqual([]);
  });

  it("feat:G3 revokeAll with concurrent sign-ins leaves no session that began before", async () => {
    const { sessions } = createWorld();
    const before = await Promise.all(
      Array.from({ length: 20 }, async () => (await sessions.issue({ userId: "a" })).session.id),
    );
    const [late, revoked] = await Promise.all([
      Promise.all(Array.from({ length: 20 }, () => sessions.issue({ userId: "a" }))),
      sessions.revokeAll({ userId: "a" }),
    ]);
    const live = (await sessions.list({ userId: "a" })).sessions.map(({ id }) => id);
    expect(before.filter((id) => live.includes(id))).toEqual([]);
    const ended = new Set(revoked);
    expect(
      late.map(({ session }) => session.id).filter((id) => ended.has(id) === live.includes(id)),
    ).toEqual([]);
  });

  it("feat:G4 all sessions except one: with `except`, and with revokeOthers", async () => {
    const { sessions, api, add, reasonOf } = createWorld();
    const keep = await add("alice", "acme");
    const second = await add("alice", "acme");
    const elsewhere = await add("alice", "other");
    const { result } = await api.call({ bearer: keep.bearer }, (ctx) =>
      sessions.require(ctx).revokeOthers(),
    );
    expect(result).toEqual([second.id]);
    expect(await reasonOf(keep.bearer)).toBeUndefined();
    expect(await sessions.revokeAll({ userId: "alice", except: keep.id })).toEqual([elsewhere.id]);
    expect(await reasonOf(keep.bearer)).toBeUndefined();
    const free = await add("alice");
    const ofNoTenant = await api.call({ bearer: free.bearer }, (ctx) =>
      sessions.require(ctx).revokeOthers(),
    );
    expect(ofNoTenant.result).toEqual([keep.id]);
  });

  it("feat:G5 sessions matching a condition: list them, filter, revoke by id", async () => {
    const { sessions } = createWorld();
    const labels = ["phone", "tv", "laptop", "tv"];
    for (const label of labels) {
      await sessions.issue({ userId: "alice", label });
    }
    const { sessions: all } = await sessions.list({ userId: "alice" });
    const tvs = all.filter(({ device }) => device.label === "tv").map(({ id }) => id);
    expect([...(await sessions.revoke(tvs))].sort()).toEqual([...tvs].sort());
    const left = await sessions.list({ userId: "alice" });
    expect(sorted(left.sessions.map(({ device }) => device.label))).toEqual(["laptop", "phone"]);
  });

  it.each(["cookie", "header"] as const)(
    "feat:G1 the session of a call is cleared at once, even if something else ended it before: %s",
    async (transport) => {
      const { sessions, api, events } = createWorld();
      const { session, tokens } = await sessions.issue({ userId: "alice", transport });
      const { accessToken, refreshToken } = tokens;
      const answer = await api.call(presentedBy(transport, accessToken), async (ctx) => {
        await sessions.revoke(session.id);
        await sessions.require(ctx).revoke();
      });
      expect(answer.error).toBeUndefined();
      expect(cookieEffects(answer.headers)).toEqual(transport === "cookie" ? clearsCookies : []);
      expect(answer.notice).toMatchObject({ event: "ended", session: session.id });
      expect(events.filter(({ type }) => type === "revoked")).toHaveLength(1);
      const refreshed = await api.refresh(transport, refreshToken);
      expect(refreshed.error?.code).toBeDefined();
    },
  );

  it("feat:B11 an outage: Unavailable, and nothing changes", async () => {
    const store = watchedStore();
    const { sessions, add } = createWorld({ store: store.store });
    const { id } = await add("alice");
    const work = {
      load: [() => sessions.find(id), () => sessions.data(id), () => sessions.updateData(id, {})],
      list: [() => sessions.list({ userId: "alice" })],
      update: [() => sessions.updateClaims(id, { a: 1 })],
      revoke: [() => sessions.revoke(id)],
      revokeAll: [() => sessions.revoke([id]), () => sessions.revokeAll({ userId: "alice" })],
    } as const;
    for (const [method, calls] of Object.entries(work)) {
      store.failing.add(method as keyof typeof work);
      for (const call of calls) {
        const error = await sessionErrorOf(call());
        expect([method, error.kind, error.message.includes("CANARY")]).toEqual([
          method,
          "unavailable",
          false,
        ]);
      }
      store.failing.clear();
    }
    expect((await sessions.find(id))?.claims).toEqual({});
  });
});

describe("feat:M1 feat:M2 the owner of a session", () => {
  it("feat:M1 every token and every response contains the tenant", async () => {
    const { sessions, api, add } = createWorld();
    const { bearer, id } = await add("alice", "acme");
    const { result } = await api.call({ bearer }, (ctx) => sessions.require(ctx).tenantId);
    expect([result, (await sessions.find(id))?.tenantId]).toEqual(["acme", "acme"]);
    const none = await add("alice");
    const other = await api.call({ bearer: none.bearer }, (ctx) => sessions.require(ctx).tenantId);
    expect([other.result, (await sessions.find(none.id))?.tenantId]).toEqual([
      undefined,
      undefined,
    ]);
  });

  it("feat:M2 a second id of a user is a claim; lists and revokeAll use the user's id", async () => {
    const { sessions, api } = createWorld();
    const { session, tokens } = await sessions.issue({
      userId: "user-1",
      claims: { login: "alice@idp" },
    });
    const { result } = await api.call({ bearer: tokens.accessToken }, (ctx) => {
      const { userId, claims } = sessions.require(ctx);
      return [userId, claims.login];
    });
    expect(result).toEqual(["user-1", "alice@idp"]);
    expect(await sessions.revokeAll({ userId: "alice@idp" })).toEqual([]);
    expect(await sessions.revokeAll({ userId: "user-1" })).toEqual([session.id]);
  });
});

describe("sqliteStore keeps acknowledged changes across processes", () => {
  const open = (file: string, clock = createFakeClock(Date.now())) =>
    createSessions({ issuer: "https://test.example", store: sqliteStore(file), clock });

  it("feat:E2 feat:E3 feat:F1 feat:F3 feat:G2 feat:G4 claims, data, devices and ends survive a restart", async () => {
    const file = join(mkdtempSync(join(tmpdir(), "directory-")), "sessions.db");
    const one = open(file);
    const two = open(file);
    onTestFinished(() => Promise.all([one.close(), two.close()]).then(() => {}));
    const made = await Promise.all(
      ["laptop", "phone", "tv"].map((label) =>
        one.issue({ userId: "alice", tenantId: "acme", label, data: { n: 0 } }),
      ),
    );
    const [laptop = "", phone = "", tv = ""] = made.map(({ session }) => session.id);
    await Promise.all(
      Array.from({ length: 16 }, (_, i) => [
        (i % 2 ? one : two).updateClaims(laptop, (c) => ({ n: Number(c.n ?? 0) + 1 })),
        (i % 2 ? two : one).updateData(laptop, (d) => ({ n: Number(d.n) + 1 })),
      ]).flat(),
    );
    expect(await two.revoke([tv])).toEqual([tv]);
    await one.close();
    await two.close();
    const three = open(file);
    onTestFinished(() => three.close());
    expect((await three.find(laptop))?.claims).toEqual({ n: 16 });
    expect(await three.data(laptop)).toEqual({ n: 16 });
    expect(await three.find(tv)).toBeUndefined();
    const { sessions: listed } = await three.list({ userId: "alice", tenantId: "acme" });
    expect(sorted(listed.map(({ device }) => device.label))).toEqual(["laptop", "phone"]);
    expect(await three.revokeAll({ userId: "alice", except: laptop })).toEqual([phone]);
  });
});
