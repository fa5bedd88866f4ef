import { Code } from "@connectrpc/connect";
import type { SessionEvent } from "rpc-session";
import { memoryStore } from "rpc-session/stores/memory";
import { type TestSessionsOptions, testSessions } from "rpc-session/testing";
import { describe, expect, it } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { Action, Reason } from "../../gen/rpcsession/v1/hint_pb.ts";
import type { ForkOptions } from "../../src/server/session/successors.ts";
import { accessOf, apiOf, payloadOf, refreshOf } from "../helpers/api.ts";
import { sorted } from "../helpers/sorted.ts";
import { watchedStore } from "../helpers/watched-store.ts";

function createWorld(options: Partial<TestSessionsOptions> = {}) {
  const events: SessionEvent[] = [];
  const sessions = testSessions({
    ...{ public: [NotesService.method.signIn], ...options },
    onEvent: (event) => void events.push(event),
  });
  const api = apiOf(sessions);
  const signIn = async () => {
    const { session, tokens } = await sessions.issue({ userId: "alice" });
    return { id: session.id, bearer: tokens.accessToken, refresh: tokens.refreshToken };
  };
  const fork = (bearer: string, given?: ForkOptions) =>
    api.call({ bearer }, (ctx) => sessions.fork(ctx, given));
  const forked = async (bearer: string) => {
    const { result, error } = await fork(bearer);
    if (result === undefined) {
      throw new Error("the fork was refused", { cause: error });
    }
    const { session, tokens } = result;
    return { id: session.id, bearer: tokens.accessToken, refresh: tokens.refreshToken };
  };
  const reauthenticated = async (bearer: string) => {
    const answer = await api.call({ bearer }, (ctx) => sessions.reauthenticate(ctx));
    const access = accessOf(answer) ?? "";
    return { id: payloadOf(access).sid, bearer: access, refresh: refreshOf(answer) ?? "" };
  };
  /** Rotates a refresh token, confirms its successor, and uses it again after the overlap. */
  const steal = async (refresh: string) => {
    let present = refresh;
    for (let use = 0; use < 4; use++) {
      sessions.clock.advance("61s");
      present = refreshOf(await api.refresh("header", present)) ?? present;
    }
    expect(present).not.toBe(refresh);
    const answer = await api.refresh("header", refresh);
    expect(answer.hint?.reason).toBe(Reason.TOKEN_THEFT);
  };
  const live = async () =>
    sorted((await sessions.list({ userId: "alice" })).sessions.map(({ id }) => id));
  return { sessions, api, events, signIn, fork, forked, reauthenticated, steal, live };
}

describe("sec:R18 sec:R19 a session that is made from another one, and a ticket", () => {
  it("needs an access token of the row's present generation, or of the one before", async () => {
    const { sessions, api, signIn, fork, forked } = createWorld({ lifetimes: { access: "1h" } });
    const first = await signIn();
    const again = (bearer: string) => api.call({ bearer }, (ctx) => sessions.reauthenticate(ctx));
    const advance = async (refresh: string) => {
      sessions.clock.advance("61s");
      await api.refresh("header", refresh);
      sessions.clock.advance("31s");
      const answer = await api.refresh("header", refresh);
      return { refresh: refreshOf(answer) ?? "", bearer: accessOf(answer) ?? "" };
    };
    const second = await advance(first.refresh);
    expect(payloadOf(second.bearer).gen).toBe(1);
    await forked(first.bearer);
    await forked(second.bearer);
    const third = await advance(second.refresh);
    const ticket = (bearer: string) =>
      api.call({ bearer }, (ctx) => sessions.ticket(ctx, { purpose: "download" }));
    for (const call of [fork, again, ticket]) {
      const answer = await call(first.bearer);
      expect(answer.hint).toMatchObject({ action: Action.REFRESH, reason: Reason.TOKEN_EXPIRED });
    }
    await forked(second.bearer);
    expect((await ticket(second.bearer)).result).toBeDefined();
    expect((await again(third.bearer)).error).toBeUndefined();
  });
});

describe("feat:D2 sec:R18 a fork ends with the theft of its origin", () => {
  it("and so do forks of forks, but no other session of the user", async () => {
    const { events, signIn, forked, steal, live } = createWorld();
    const [stolen, other] = [await signIn(), await signIn()];
    const [fork, foreign] = [await forked(stolen.bearer), await forked(other.bearer)];
    const inner = await forked(fork.bearer);
    await steal(stolen.refresh);
    expect(await live()).toEqual(sorted([other.id, foreign.id]));
    const ends = events.filter(({ type }) => type === "revoked" || type === "theft");
    expect(sorted(ends.map((e) => ("sessionId" in e ? e.sessionId : "")))).toEqual(
      sorted([stolen.id, fork.id, inner.id]),
    );
    expect(ends.filter(({ type }) => type === "theft")).toHaveLength(1);
    expect(ends.filter((e) => "endedBy" in e && e.endedBy === "theft")).toHaveLength(2);
  });

  it("its tokens are refused at once, with the reason", async () => {
    const { sessions, api, signIn, forked, steal } = createWorld();
    const stolen = await signIn();
    const fork = await forked(stolen.bearer);
    await steal(stolen.refresh);
    const answer = await api.call({ bearer: fork.bearer }, (ctx) => sessions.require(ctx).id);
    expect(answer.hint).toMatchObject({ action: Action.SIGN_IN, reason: Reason.TOKEN_THEFT });
    expect(answer.error?.rawMessage).toBe(
      "the session was ended because a refresh token was used twice; sign in again",
    );
  });

  it("also after its origin has authenticated again", async () => {
    const { signIn, forked, reauthenticated, steal, live } = createWorld();
    const first = await signIn();
    await forked(first.bearer);
    const again = await reauthenticated(first.bearer);
    const fork = await forked(again.bearer);
    await reauthenticated(fork.bearer);
    expect(await live()).toHaveLength(3);
    await steal(again.refresh);
    expect(await live()).toEqual([]);
  });

  it("but the theft of a fork does not end its origin, nor another fork of it", async () => {
    const { signIn, forked, steal, live } = createWorld();
    const origin = await signIn();
    const [stolen, kept] = [await forked(origin.bearer), await forked(origin.bearer)];
    const inner = await forked(stolen.bearer);
    expect(await live()).toContain(inner.id);
    await steal(stolen.refresh);
    expect(await live()).toEqual(sorted([origin.id, kept.id]));
  });

  it("also if it is made while the theft is being handled", async () => {
    const inner = memoryStore();
    let beforeRevoke: () => Promise<unknown> = async () => {};
    const { signIn, forked, steal, live } = createWorld({
      store: {
        ...inner,
        async revoke(id, endedBy) {
          await beforeRevoke();
          return inner.revoke(id, endedBy);
        },
      },
    });
    const stolen = await signIn();
    const late = await signIn();
    const first = await forked(stolen.bearer);
    beforeRevoke = async () => {
      const { record } = await inner.load(first.id);
      if (record !== undefined) {
        const content = { ...record, idle: 1e9, absolute: 1e9, endsBy: null, replaces: null };
        const lineage = `${stolen.id}.late`;
        await inner.insert({ ...content, id: "late", lineage, requires: stolen.id, limit: null });
      }
    };
    await steal(stolen.refresh);
    expect(await live()).toEqual([late.id]);
  });

  it("and an outage while the forks are ended leaves the theft to be found by the next use", async () => {
    const { store, failing } = watchedStore();
    const { api, events, signIn, forked, live, sessions } = createWorld({ store });
    const stolen = await signIn();
    await forked(stolen.bearer);
    let present = stolen.refresh;
    for (let use = 0; use < 4; use++) {
      sessions.clock.advance("61s");
      present = refreshOf(await api.refresh("header", present)) ?? present;
    }
    failing.add("revokeAll");
    const outage = await api.refresh("header", stolen.refresh);
    expect(outage.error?.code).toBe(Code.Unavailable);
    expect(await live()).toHaveLength(2);
    failing.clear();
    await api.refresh("header", stolen.refresh);
    expect(await live()).toEqual([]);
    expect(events.filter(({ type }) => type === "theft")).toHaveLength(1);
  });
});

describe("feat:D14 sec:R18 a fork needs a recent authentication", () => {
  it("15 minutes by default, by the row of the session; then the hint is STEP_UP", async () => {
    const { sessions, api, signIn, fork, reauthenticated, live } = createWorld();
    const { id, bearer, refresh } = await signIn();
    sessions.clock.advance("14m");
    expect((await fork(bearer)).error).toBeUndefined();
    sessions.clock.advance("2m");
    const newer = accessOf(await api.refresh("header", refresh)) ?? "";
    const refused = await fork(newer);
    expect(refused.error?.code).toBe(Code.PermissionDenied);
    expect(refused.hint).toMatchObject({
      ...{ action: Action.STEP_UP, reason: Reason.STEP_UP_REQUIRED, session: id },
    });
    expect(refused.headers.get("rpcsession-hint")).toBe("step-up");
    expect(await live()).toHaveLength(2);
    const again = await reauthenticated(newer);
    expect((await fork(again.bearer)).error).toBeUndefined();
  });

  it("what the access token says of the authentication does not count", async () => {
    const inner = memoryStore();
    let age = 0;
    const { signIn, fork } = createWorld({
      store: {
        ...inner,
        async load(id) {
          const { record, now } = await inner.load(id);
          return { now, record: record && { ...record, authTime: record.authTime - age } };
        },
      },
    });
    const { bearer } = await signIn();
    expect((await fork(bearer)).error).toBeUndefined();
    age = 16 * 60_000;
    expect((await fork(bearer)).hint?.action).toBe(Action.STEP_UP);
  });

  it("another time by freshWithin, and none with any", async () => {
    const { sessions, signIn, fork } = createWorld();
    const { bearer } = await signIn();
    sessions.clock.advance("5m");
    expect((await fork(bearer, { freshWithin: "4m" })).hint?.action).toBe(Action.STEP_UP);
    expect((await fork(bearer, { freshWithin: "6m" })).error).toBeUndefined();
    const long = createWorld({ lifetimes: { access: "1h" } });
    const old = await long.signIn();
    long.sessions.clock.advance("50m");
    expect((await long.fork(old.bearer)).hint?.action).toBe(Action.STEP_UP);
    expect((await long.fork(old.bearer, { freshWithin: "any" })).error).toBeUndefined();
  });

  it("feat:N4 wrong options are misuse, and nothing is created", async () => {
    const { signIn, fork, live } = createWorld();
    const { id, bearer } = await signIn();
    for (const [given, message] of [
      [{ freshWithin: "soon" }, /^freshWithin: "soon" is not a valid duration/],
      [{ lifetime: { idle: "1h" } }, /^unknown option "lifetime" for sessions\.fork/],
    ] as const) {
      const { error } = await fork(bearer, given as never);
      expect(error?.code).toBe(Code.Internal);
      expect(error?.rawMessage).toMatch(message);
    }
    expect(await live()).toEqual([id]);
  });
});

it("feat:A8 forks of forks end at a depth of eight", async () => {
  const { signIn, forked, fork, live } = createWorld();
  let { bearer } = await signIn();
  for (let depth = 1; depth <= 8; depth++) {
    ({ bearer } = await forked(bearer));
  }
  const refused = await fork(bearer);
  expect(refused.error?.code).toBe(Code.PermissionDenied);
  expect(refused.hint?.reason).toBe(Reason.SESSION_LIMIT);
  expect(await live()).toHaveLength(9);
});
