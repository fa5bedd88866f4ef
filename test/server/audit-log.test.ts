import {
  type AuditEntry,
  createSessions,
  type EndedBy,
  type SessionEvent,
  type SessionStore,
} from "rpc-session";
import { fromFetch } from "rpc-session/http";
import { memoryStore } from "rpc-session/stores/memory";
import { type TestSessions, testSessions } from "rpc-session/testing";
import { describe, expect, it } from "vitest";
import { SessionService } from "../../gen/rpcsession/v1/service_pb.ts";
import { exchangeOf } from "../helpers/exchanges.ts";
import { advanced, issueOn, refreshed } from "../helpers/refreshing.ts";
import { watchedStore } from "../helpers/watched-store.ts";
import { wireServer } from "../helpers/wire-server.ts";

function audited(options: Parameters<typeof testSessions>[0] = {}): TestSessions {
  return testSessions({ auditLog: {}, ...options });
}

async function entriesOf(sessions: TestSessions, userId = "alice"): Promise<readonly AuditEntry[]> {
  return (await sessions.auditLog.list({ userId })).entries;
}

/** The entries, newest first, without what is undefined and without ids and times. */
async function shown(sessions: TestSessions, userId?: string) {
  return (await entriesOf(sessions, userId)).map((entry) =>
    Object.fromEntries(
      Object.entries(entry).filter(
        ([name, value]) => value !== undefined && !["id", "at", "userId"].includes(name),
      ),
    ),
  );
}

describe("feat:N13 the audit log", () => {
  it("says who signed in, when and from what", async () => {
    const sessions = audited({ clientIp: () => "192.0.2.7" });
    const request = new Request("https://test.example/login", {
      method: "POST",
      headers: { "user-agent": "Agent/1.0", "rpcsession-transport": "header" },
    });
    const at = new Date(sessions.clock.now());
    const { id } = await sessions.create(fromFetch(request), {
      ...{ userId: "alice", tenantId: "acme", label: "Ada's phone" },
    });
    sessions.clock.advance("1h");
    expect(await entriesOf(sessions)).toEqual([
      {
        ...{ id: expect.any(String), at, event: "signedIn", sessionId: id, userId: "alice" },
        ...{ tenantId: "acme", from: undefined, claims: undefined, endedBy: undefined },
        ...{ by: undefined, reason: undefined },
        device: { userAgent: "Agent/1.0", ip: "192.0.2.7", label: "Ada's phone" },
      },
    ]);
  });

  it("says who ended a session and why, by each way to end one", async () => {
    const sessions = audited();
    const cause = { by: "admin:7", reason: "laptop reported as stolen" };
    const issue = async () => (await sessions.issue({ userId: "alice", tenantId: "acme" })).session;
    const [one, two, three] = [await issue(), await issue(), await issue()];
    const [four, five] = [await issue(), await issue()];
    await sessions.revoke(one.id, cause);
    await sessions.revoke([two.id], { by: "job" });
    await three.revoke(cause);
    await sessions.revokeAll({ tenantId: "acme", except: five.id }, { reason: "tenant closed" });
    await sessions.revokeAll({ userId: "alice" });
    const ended = { event: "ended", tenantId: "acme", endedBy: "revoked" };
    expect((await shown(sessions)).filter(({ event }) => event === "ended")).toEqual([
      ...[
        { ...ended, sessionId: five.id },
        { ...ended, sessionId: four.id, reason: "tenant closed" },
        { ...ended, sessionId: three.id, ...cause },
        { ...ended, sessionId: two.id, by: "job" },
        { ...ended, sessionId: one.id, ...cause },
      ].sort(byEntryOrder(await entriesOf(sessions))),
    ]);
  });

  it("names the session of the user that ended others", async () => {
    const sessions = audited({ sessionsPerUser: { max: 2 } });
    const server = wireServer(sessions.protect({ routes: () => {} }));
    const first = await issueOn(sessions, "header");
    // Of sessions that began at the same time, any may count as the oldest.
    sessions.clock.advance("1s");
    const second = await issueOn(sessions, "header");
    sessions.clock.advance("1s");
    // 1. A third sign-in evicts the oldest.
    const third = await issueOn(sessions, "header");
    // 2. Another device of the user ends one.
    const { revokeSession, revokeOtherSessions } = SessionService.method;
    const bearer = third.access;
    await server.call(revokeSession, { sessionId: second.id }, { bearer });
    // 3. And all others.
    const fourth = await issueOn(sessions, "header");
    await server.call(revokeOtherSessions, {}, { bearer });
    const ends = (await entriesOf(sessions)).filter(({ event }) => event === "ended");
    const found = ends.map(({ sessionId, endedBy, from }) => ({ sessionId, endedBy, from }));
    expect(found).toHaveLength(3);
    expect(found).toEqual(
      expect.arrayContaining([
        { sessionId: first.id, endedBy: "evicted", from: third.id },
        { sessionId: second.id, endedBy: "revoked", from: third.id },
        { sessionId: fourth.id, endedBy: "revoked", from: third.id },
      ]),
    );
  });

  it("records a replaced session under its own user", async () => {
    const sessions = audited();
    const sign = async (userId: string, cookie = "") => {
      const request = new Request("https://test.example/login", {
        method: "POST",
        headers: { origin: "https://test.example", "rpcsession-transport": "cookie", cookie },
      });
      const exchange = fromFetch(request);
      const { id } = await sessions.create(exchange, { userId });
      const cookies = exchange.responseHeader.getSetCookie().map((line) => line.split(";")[0]);
      return { id, cookie: cookies.join("; ") };
    };
    const bob = await sign("bob");
    const alice = await sign("alice", bob.cookie);
    expect(await shown(sessions, "bob")).toContainEqual({
      ...{ event: "ended", sessionId: bob.id, endedBy: "replaced", from: alice.id },
    });
  });

  it("says that a session was refreshed, unless that is switched off", async () => {
    for (const refreshes of [true, false]) {
      const sessions = audited({ auditLog: { refreshes } });
      const { id, refresh } = await issueOn(sessions, "cookie");
      await advanced(sessions, refresh);
      const events = (await entriesOf(sessions)).map(({ event }) => event);
      expect(events.filter((event) => event === "refreshed").length > 0).toBe(refreshes);
      expect(events.at(-1)).toBe("signedIn");
      expect((await entriesOf(sessions)).every(({ sessionId }) => sessionId === id)).toBe(true);
    }
  });

  it("says that a refresh token was stolen, and that the forks ended with it", async () => {
    const sessions = audited();
    const { id, refresh, access } = await issueOn(sessions, "cookie");
    const fork = await sessions.fork(exchangeOf({ access }));
    const next = await advanced(sessions, refresh);
    await advanced(sessions, next.refresh);
    await expect(refreshed(sessions, refresh)).rejects.toThrow();
    expect(await shown(sessions)).toContainEqual({
      ...{ event: "ended", sessionId: id, endedBy: "theft" satisfies EndedBy },
    });
    expect(await shown(sessions)).toContainEqual({
      ...{ event: "ended", sessionId: fork.session.id, endedBy: "theft", from: id },
    });
  });

  it("sec:A04 names the claims that changed, never their values", async () => {
    const store = memoryStore();
    const sessions = audited({ store });
    const claims = { role: "CANARY-a", plan: "CANARY-b", kept: "CANARY-c" };
    const data = { x: "CANARY-d" };
    const { session, tokens } = await sessions.issue({ userId: "alice", claims, data });
    await session.updateClaims({ role: "CANARY-e", plan: undefined, extra: "CANARY-f" });
    await sessions.updateClaims(session.id, { extra: "CANARY-f" });
    const found = await shown(sessions);
    expect(found.map(({ claims: names }) => names)).toEqual(
      expect.arrayContaining([["role", "plan", "extra"], []]),
    );
    const kept = await store.listAudit?.(
      { userId: "alice", tenantId: null },
      { cursor: undefined, limit: 100 },
    );
    for (const secret of ["CANARY", tokens.accessToken, tokens.refreshToken]) {
      expect(JSON.stringify([found, kept])).not.toContain(secret);
    }
  });

  it("says which session a fork came from, and that a user authenticated again", async () => {
    const sessions = audited();
    const { tokens, session } = await sessions.issue({ userId: "alice", transport: "header" });
    const exchange = () =>
      fromFetch(
        new Request("https://test.example/x", {
          method: "POST",
          headers: { authorization: `Bearer ${tokens.accessToken}` },
        }),
      );
    const fork = await sessions.fork(exchange());
    const again = await sessions.reauthenticate(exchange());
    const found = (await entriesOf(sessions)).map(({ event, sessionId, from }) => ({
      ...{ event, sessionId, from },
    }));
    expect(found).toEqual(
      expect.arrayContaining([
        { event: "forked", sessionId: fork.session.id, from: session.id },
        { event: "reauthenticated", sessionId: again.id, from: session.id },
        { event: "ended", sessionId: session.id, from: again.id },
      ]),
    );
  });

  it("is there when the call that it is about has returned, also for another server", async () => {
    const store = memoryStore();
    const sessions = audited({ store });
    const other = testSessions({ store, clock: sessions.clock });
    const { session } = await sessions.issue({ userId: "alice" });
    expect((await entriesOf(other)).map(({ event }) => event)).toEqual(["signedIn"]);
    await sessions.revoke(session.id);
    expect((await entriesOf(other)).map(({ event }) => event).toSorted()).toEqual([
      ...["ended", "signedIn"],
    ]);
  });

  it("keeps entries for the given time, then the sweeper removes them", async () => {
    const pruned = Promise.withResolvers<number>();
    const inner = memoryStore();
    const prune: SessionStore["prune"] = async (limit) => {
      const rows = await inner.prune(limit);
      if (rows > 0) {
        pruned.resolve(rows);
      }
      return rows;
    };
    const store: SessionStore = { ...inner, prune };
    const sessions = audited({ store, auditLog: { keep: "2h" } });
    await sessions.issue({ userId: "alice" });
    sessions.clock.advance("119m");
    expect(await entriesOf(sessions)).toHaveLength(1);
    sessions.clock.advance("1m");
    expect(await entriesOf(sessions)).toHaveLength(0);
    sessions.clock.advance("2m");
    await sessions.ready();
    sessions.clock.advance("2m");
    expect(await pruned.promise).toBe(1);
    expect(await store.prune(10)).toBe(0);
  });

  it("forgets a user", async () => {
    const sessions = audited();
    await sessions.issue({ userId: "alice" });
    await sessions.issue({ userId: "bob" });
    await sessions.auditLog.forget({ userId: "alice" });
    expect(await entriesOf(sessions)).toEqual([]);
    expect(await entriesOf(sessions, "bob")).toHaveLength(1);
  });

  it("is read in pages", async () => {
    const sessions = audited();
    for (let i = 0; i < 25; i++) {
      await sessions.issue({ userId: "alice" });
      sessions.clock.advance("1s");
    }
    const seen: string[] = [];
    let pageToken: string | undefined;
    do {
      const page = await sessions.auditLog.list({
        ...{ userId: "alice", pageSize: 10 },
        ...(pageToken === undefined ? {} : { pageToken }),
      });
      seen.push(...page.entries.map(({ id }) => id));
      pageToken = page.nextPageToken;
    } while (pageToken !== undefined);
    expect(new Set(seen).size).toBe(25);
  });
});

describe("feat:N13 an outage of the audit log", () => {
  it("fails no call, is reported, and the entries follow with their own time", async () => {
    const { store, failing } = watchedStore();
    const events: SessionEvent[] = [];
    const sessions = audited({ store, onEvent: (event) => events.push(event) });
    await sessions.ready();
    failing.add("appendAudit");
    const at = sessions.clock.now();
    const { session } = await sessions.issue({ userId: "alice" });
    await sessions.revoke(session.id);
    expect(events).toContainEqual(
      expect.objectContaining({
        type: "failed",
        error: expect.objectContaining({
          message: "the audit log could not be written; it is tried again",
        }),
      }),
    );
    sessions.clock.advance("30s");
    failing.clear();
    sessions.clock.advance("1s");
    const entries = await entriesOf(sessions);
    expect(entries.map((entry) => entry.at.getTime())).toEqual([at, at]);
  });

  it("doubles no entry whose write was lost on its way back", async () => {
    const inner = memoryStore();
    let isLost = true;
    const store: SessionStore = {
      ...inner,
      appendAudit: async (entries) => {
        await inner.appendAudit?.(entries);
        if (isLost) {
          throw new Error("the answer was lost");
        }
      },
    };
    const sessions = audited({ store });
    await sessions.issue({ userId: "alice" });
    isLost = false;
    expect(await entriesOf(sessions)).toHaveLength(1);
  });

  it("makes no call wait: only the timer tries again, and whoever reads the log", async () => {
    const { store, failing, take } = watchedStore();
    const sessions = audited({ store });
    await sessions.ready();
    failing.add("appendAudit");
    await sessions.issue({ userId: "alice" });
    take();
    await sessions.issue({ userId: "alice" });
    expect(take()).not.toContain("appendAudit");
    sessions.clock.advance("1s");
    expect(take()).toContain("appendAudit");
    failing.clear();
    expect(await entriesOf(sessions)).toHaveLength(2);
  });

  it("keeps nothing for later about a user who is forgotten meanwhile", async () => {
    const { store, failing } = watchedStore();
    const sessions = audited({ store });
    await sessions.ready();
    failing.add("appendAudit");
    await sessions.issue({ userId: "alice" });
    await sessions.issue({ userId: "bob" });
    await sessions.auditLog.forget({ userId: "alice" });
    failing.clear();
    expect(await entriesOf(sessions)).toEqual([]);
    expect(await entriesOf(sessions, "bob")).toHaveLength(1);
  });

  it("lets a call return although other calls go on adding entries", async () => {
    const inner = memoryStore();
    let writes = 0;
    let isBusy = false;
    let created = (): void => {};
    const store: SessionStore = {
      ...inner,
      appendAudit: async (entries) => {
        await inner.appendAudit?.(entries);
        writes += 1;
        if (isBusy && writes < 100) {
          // Another call adds its entry before this write has ended.
          const added = Promise.withResolvers<void>();
          created = added.resolve;
          void sessions.issue({ userId: "bob" });
          await added.promise;
        }
      },
    };
    const sessions = audited({ store, onEvent: ({ type }) => type === "created" && created() });
    await sessions.ready();
    isBusy = true;
    await sessions.issue({ userId: "alice" });
    isBusy = false;
    expect(writes).toBeLessThan(5);
  });

  it("loses none of many ends, which are written in batches of 500", async () => {
    const { store, calls } = watchedStore();
    const sessions = audited({ store });
    const ids = await Promise.all(
      Array.from({ length: 1_100 }, async () => {
        return (await sessions.issue({ userId: "alice", tenantId: "acme" })).session.id;
      }),
    );
    calls.splice(0);
    expect(await sessions.revokeAll({ tenantId: "acme" })).toHaveLength(ids.length);
    expect(calls.filter((name) => name === "appendAudit")).toHaveLength(3);
  });

  it("is reported as a loss if it lasts until the server closes", async () => {
    const { store, failing } = watchedStore();
    const events: SessionEvent[] = [];
    const sessions = audited({ store, onEvent: (event) => events.push(event) });
    await sessions.ready();
    failing.add("appendAudit");
    await sessions.issue({ userId: "alice" });
    await sessions.close();
    const messages = events.flatMap((event) =>
      event.type === "failed" ? [event.error.message] : [],
    );
    expect(messages.at(-1)).toMatch(/^entries of the audit log are lost/);
  });

  it("writes what waits when the server closes", async () => {
    const store = memoryStore();
    const sessions = audited({ store });
    const { refresh } = await issueOn(sessions, "cookie");
    sessions.clock.advance("16m");
    await refreshed(sessions, refresh);
    await sessions.close();
    const other = testSessions({ store, clock: sessions.clock });
    expect((await entriesOf(other)).map(({ event }) => event)).toEqual(["refreshed", "signedIn"]);
  });
});

describe("feat:N13 the options of the audit log", () => {
  it("without the option nothing is recorded, and the event still says who and why", async () => {
    const { store, calls } = watchedStore();
    const events: SessionEvent[] = [];
    const sessions = testSessions({ store, onEvent: (event) => events.push(event) });
    const { session } = await sessions.issue({ userId: "alice" });
    await sessions.revoke(session.id, { by: "admin:7", reason: "left" });
    expect(calls).not.toContain("appendAudit");
    expect(events).toContainEqual({
      ...{ type: "revoked", sessionId: session.id, endedBy: "revoked" },
      ...{ by: "admin:7", reason: "left" },
    });
  });

  it.each([{ keep: "59m" }, { keep: "11y" }, { keep: 5 }, { refreshes: "no" }, { kep: "90d" }])(
    "refuses %o",
    (auditLog) => {
      expect(() => audited({ auditLog: auditLog as never })).toThrow(TypeError);
    },
  );

  it("refuses a store without an audit log", async () => {
    const { appendAudit: _, listAudit: __, forgetAudit: ___, ...store } = memoryStore();
    const options = { issuer: "https://test.example", store: store as SessionStore };
    expect(() => createSessions({ ...options, auditLog: {} })).toThrow(
      "auditLog is set, but memoryStore has no audit log; remove the option or use another store",
    );
    const without = createSessions(options);
    await expect(without.auditLog.list({ userId: "alice" })).rejects.toThrow(/has no audit log/);
    await expect(without.auditLog.forget({ userId: "alice" })).rejects.toThrow(/has no audit log/);
    await without.close();
  });

  it.each([
    { by: "" },
    { by: "x".repeat(256) },
    { by: 7 },
    { reason: "x".repeat(1_001) },
    { why: "" },
  ])("refuses the cause %o, and ends nothing", async (cause) => {
    const sessions = audited();
    const { session } = await sessions.issue({ userId: "alice" });
    const given = cause as never;
    for (const work of [
      () => sessions.revoke(session.id, given),
      () => sessions.revoke([session.id], given),
      () => sessions.revokeAll({ userId: "alice" }, given),
      () => session.revoke(given),
      () => session.revokeOthers(given),
    ]) {
      await expect(work()).rejects.toThrow(TypeError);
    }
    expect(await sessions.find(session.id)).toBeDefined();
  });

  it.each([
    {},
    { userId: "" },
    { userId: "a", pageSize: 0 },
    { userId: "a", pageToken: "x" },
    { user: "a" },
  ])("refuses to list %o", async (options) => {
    await expect(audited().auditLog.list(options as never)).rejects.toThrow(TypeError);
  });
});

/** Sorts like the entries: several of them have the same time, and random ids. */
function byEntryOrder(entries: readonly AuditEntry[]) {
  const order = entries.filter(({ event }) => event === "ended").map(({ sessionId }) => sessionId);
  return (a: { readonly sessionId: string }, b: { readonly sessionId: string }): number =>
    order.indexOf(a.sessionId) - order.indexOf(b.sessionId);
}
