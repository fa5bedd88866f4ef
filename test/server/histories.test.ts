import { expect, it, vi } from "vitest";
import { Action, Tokens } from "../../gen/rpcsession/v1/hint_pb.ts";
import type { SessionStore } from "../../src/engine/store.ts";
import { SessionError } from "../../src/index.ts";
import { memoryStore } from "../../src/stores/memory/index.ts";
import { testSessions } from "../../src/testing/test-sessions.ts";
import { exchangeOf } from "../helpers/exchanges.ts";
import { type Issued, issueOn, refreshCall, refreshed } from "../helpers/refreshing.ts";

/** A store that names histories, of which the test decides. */
function storeWithHistories() {
  const inner = memoryStore();
  const state = {
    /** The history of the rows, and that of the change log. */
    rows: "first",
    log: "first",
    lostAt: undefined as number | undefined,
    /** Whether the rows are those of a primary that never had any. */
    isEmpty: false,
    loads: 0,
  };
  const named = async <T extends object>(work: Promise<T>): Promise<T & { history: string }> => ({
    ...(await work),
    history: state.rows,
  });
  const store: SessionStore = {
    ...inner,
    insert: (session) => named(inner.insert(session)),
    load: async (id) => {
      state.loads += 1;
      const stored = await named(inner.load(id));
      return state.isEmpty ? { ...stored, record: undefined } : stored;
    },
    refresh: (write) => named(inner.refresh(write)),
    advance: async (write) => {
      const advanced = await named(inner.advance?.(write) ?? Promise.reject(new Error("none")));
      return state.isEmpty ? { ...advanced, record: undefined, advanced: false } : advanced;
    },
    update: (change) => named(inner.update(change)),
    changes: async (cursor, window) => {
      const { log: history, lostAt } = state;
      const read = await inner.changes(cursor, window);
      return { ...read, history, ...(lostAt !== undefined && { lostAt }) };
    },
  };
  return { store, state };
}

type Sessions = ReturnType<typeof testSessions>;

const ask = (sessions: Sessions, access: string) =>
  sessions.getSession(exchangeOf({ access })).then(
    () => "accepted",
    (error: unknown) => (error instanceof SessionError ? error.reason : error),
  );

const historyOf = (access: string): unknown =>
  JSON.parse(Buffer.from(access.split(".")[1] ?? "", "base64url").toString()).rpcsession?.history;

/** Two sessions of the first history, after a failover that every server has noticed. */
async function failedOver(options: { readonly tokenFormat?: 1 } = {}) {
  const { store, state } = storeWithHistories();
  const sessions = testSessions({ store, refresh: options });
  const [one, other] = [await issueOn(sessions, "cookie"), await issueOn(sessions, "cookie")];
  expect(await ask(sessions, one.access)).toBe("accepted");
  expect(state.loads).toBe(0);
  Object.assign(state, { rows: "second", log: "second", lostAt: sessions.clock.now() });
  sessions.clock.advance("3s");
  await vi.waitFor(() => expect(sessions.health().status).toBe("unsure"));
  return { sessions, state, one, other };
}

it("sec:V03 after a loss only tokens of another history read their row, until they are refreshed", async () => {
  const { sessions, state, one } = await failedOver();
  expect(await ask(sessions, one.access)).toBe("accepted");
  expect(await ask(sessions, one.access)).toBe("accepted");
  expect(state.loads).toBe(2);

  const fresh = await refreshed(sessions, one.refresh);
  const { access: begun } = await issueOn(sessions, "cookie");
  state.loads = 0;
  expect(historyOf(one.access)).toBe("first");
  for (const access of [fresh.access, begun]) {
    expect(historyOf(access)).toBe("second");
    expect(await ask(sessions, access)).toBe("accepted");
  }
  expect(state.loads).toBe(0);
});

it("sec:V03 no clock decides about a token with a name: a loss long ago counts as well", async () => {
  const { store, state } = storeWithHistories();
  const sessions = testSessions({ store });
  const { access } = await issueOn(sessions, "cookie");
  Object.assign(state, {
    rows: "second",
    log: "second",
    lostAt: sessions.clock.now() - 86_400_000,
  });
  sessions.clock.advance("3s");
  await vi.waitFor(async () => {
    expect(await ask(sessions, access)).toBe("accepted");
    expect(state.loads).toBeGreaterThan(0);
  });
  expect(sessions.health().status).toBe("fresh");
});

it("a token without a name is doubted until those from before the loss have expired", async () => {
  const { sessions, state, one } = await failedOver({ tokenFormat: 1 });
  expect(historyOf(one.access)).toBeUndefined();
  const { access } = await refreshed(sessions, one.refresh);
  expect(historyOf(access)).toBeUndefined();
  state.loads = 0;
  expect(await ask(sessions, access)).toBe("accepted");
  expect(state.loads).toBe(1);
});

it("a token that is signed again for new claims keeps its history", async () => {
  const { sessions, state, one } = await failedOver();
  await sessions.updateClaims(one.id, { role: "admin" });
  const exchange = exchangeOf({ access: one.access });
  await sessions.getSession(exchange);
  const again = exchange.responseHeader
    .getSetCookie()
    .map((cookie) => /^__Host-Http-rpcsession-access=([^;]+)/.exec(cookie)?.[1])
    .find((token) => token !== undefined) as string;
  expect(historyOf(again)).toBe("first");
  state.loads = 0;
  expect(await ask(sessions, again)).toBe("accepted");
  expect(state.loads).toBe(1);
});

it("a server that has not read the change log since the failover reads it when it meets a new token", async () => {
  const { store, state } = storeWithHistories();
  const here = testSessions({ store });
  const there = testSessions({ store: { ...store, onChange: () => () => {} }, clock: here.clock });
  await there.ready();
  const { id, refresh } = await issueOn(here, "cookie");
  Object.assign(state, { rows: "second", log: "second" });
  const { access } = await refreshed(here, refresh);
  expect(historyOf(access)).toBe("second");
  await store.revoke(id, "revoked");
  expect(await ask(there, access)).toBe("SESSION_REVOKED");
});

it.each(["an old row", "no row"])(
  "sec:V03 a former primary that still answers, with %s, is an outage: it ends no session",
  async (which) => {
    const { sessions, state, one, other } = await failedOver();
    Object.assign(state, { rows: "first", isEmpty: which === "no row" });
    expect(await ask(sessions, one.access)).toBe("AUTH_UNAVAILABLE");
    await expect(
      sessions.getSession(exchangeOf({ access: one.access }), { check: "strict" }),
    ).rejects.toMatchObject({ reason: "AUTH_UNAVAILABLE" });
    const { hint } = await refreshCall(sessions, { refresh: (other as Issued).refresh });
    expect(hint).toMatchObject({ action: Action.RETRY_LATER, tokens: Tokens.KEEP });

    Object.assign(state, { rows: "second", isEmpty: false });
    expect(await ask(sessions, one.access)).toBe("accepted");
    await refreshed(sessions, other.refresh);
  },
);
