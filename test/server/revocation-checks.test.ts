import { Code } from "@connectrpc/connect";
import { createFakeClock, type TestSessions, testSessions } from "rpc-session/testing";
import { verifySessions } from "rpc-session/verify";
import { describe, expect, it, vi } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import type { SessionEvent } from "../../src/index.ts";
import { exchangeOf, sessionErrorOf } from "../helpers/exchanges.ts";
import { notesApp } from "../helpers/notes.ts";
import { type Issued, issueOn } from "../helpers/refreshing.ts";
import { type WatchedStore, watchedStore } from "../helpers/watched-store.ts";
import { wireServer } from "../helpers/wire-server.ts";

type Options = NonNullable<Parameters<typeof testSessions>[0]>;

interface World {
  /** Where sessions end. */
  readonly here: TestSessions;
  /** Another server, which its store never wakes. */
  readonly there: TestSessions;
  readonly store: WatchedStore;
  readonly events: SessionEvent[];
  readonly issued: Issued;
}

async function createWorld(options: Options = {}): Promise<World> {
  const inner = watchedStore();
  const here = testSessions({ store: inner.store });
  const deaf = { onChange: () => () => {}, pushed: () => undefined };
  const store = watchedStore({ ...inner.store, ...deaf });
  const events: SessionEvent[] = [];
  const there = testSessions({
    store: store.store,
    clock: here.clock,
    onEvent: (event) => events.push(event),
    ...options,
  });
  await there.ready();
  const issued = await issueOn(here, "header");
  // From here on the token is cached, and a call waits only for its check.
  await there.getSession(exchangeOf({ bearer: issued.access }));
  store.take();
  return { here, there, store, events, issued };
}

const call = ({ there, issued }: World, check?: "feed" | "strict" | "none") =>
  there.getSession(exchangeOf({ bearer: issued.access }), check && { check });

/** Waits for all background work to finish. */
async function quiet(): Promise<void> {
  await new Promise((resolve) => setImmediate(resolve));
}

/** Makes the feed stale, with an ongoing outage of the store. */
async function outage({ there, store }: World, ms = 6_000): Promise<void> {
  store.failing.add("changes");
  there.clock.advance(`${ms}ms`);
  await quiet();
}

const unavailable = ["unavailable", "AUTH_UNAVAILABLE"];
const revoked = ["unauthorized", "SESSION_REVOKED"];

async function refusal(work: Promise<unknown>): Promise<string[]> {
  const { kind, reason } = await sessionErrorOf(work);
  return [kind, reason];
}

describe("feat:G6 revocation: feed", () => {
  it("admits calls within maxStaleness of an outage, and none later", async () => {
    const world = await createWorld();
    world.store.failing.add("changes");
    world.there.clock.advance("5s");
    await quiet();
    await expect(call(world)).resolves.toBeDefined();
    world.there.clock.advance("1ms");
    expect(await refusal(call(world))).toEqual(unavailable);
    world.store.failing.clear();
    await expect(call(world)).resolves.toBeDefined();
  });

  it("a revocation from before the log became stale is never missed", async () => {
    const world = await createWorld();
    world.store.failing.add("changes");
    await world.issued.revoke();
    await outage(world);
    expect(await refusal(call(world))).toEqual(unavailable);
    world.store.failing.clear();
    expect(await refusal(call(world))).toEqual(revoked);
  });

  it("sec:V04 forgets a revocation one minute after every token it concerns has expired", async () => {
    const { there, issued } = await createWorld();
    await issued.revoke();
    there.clock.advance("3s");
    await expect.poll(() => there.health().changes).toBe(1);
    there.clock.advance("15m");
    await quiet();
    expect(there.health().changes).toBe(1);
    there.clock.advance("61s");
    await expect.poll(() => there.health().changes).toBe(0);
  });

  it("sec:V01 accepts no token for longer than it remembers revocations, whatever other servers issue", async () => {
    const inner = watchedStore();
    const here = testSessions({ store: inner.store, lifetimes: { access: "1h" } });
    const there = testSessions({ store: inner.store, clock: here.clock });
    await there.ready();
    const issued = await issueOn(here, "header");
    await there.getSession(exchangeOf({ bearer: issued.access }));
    await issued.revoke();
    const refused = () => refusal(there.getSession(exchangeOf({ bearer: issued.access })));
    await expect.poll(refused).toEqual(revoked);
    here.clock.advance("20m");
    await expect.poll(() => there.health().changes).toBe(0);
    expect(await refused()).toEqual(["tryRefreshToken", "TOKEN_EXPIRED"]);
    // The server that issued the token still accepts such tokens, and still remembers.
    expect(here.health().changes).toBe(1);
    expect(await refusal(here.getSession(exchangeOf({ bearer: issued.access })))).toEqual(revoked);
  });

  it("a token of a server with longer lifetimes is refreshed here like any expired one", async () => {
    const inner = watchedStore();
    const here = testSessions({ store: inner.store, lifetimes: { access: "1h" } });
    const there = testSessions({ store: inner.store, clock: here.clock });
    await there.ready();
    const { access } = await issueOn(here, "header");
    here.clock.advance("15m");
    await quiet();
    const call = (of: TestSessions) => of.getSession(exchangeOf({ bearer: access }));
    expect(await refusal(call(there))).toEqual(["tryRefreshToken", "TOKEN_EXPIRED"]);
    await expect(call(here)).resolves.toBeDefined();
  });

  it("a thousand calls wait for one read of the log and read no session", async () => {
    const world = await createWorld();
    await outage(world);
    world.store.failing.clear();
    world.store.take();
    await Promise.all(Array.from({ length: 1_000 }, () => call(world)));
    expect(world.store.take()).toEqual(["changes"]);
  });

  it("a call gives up on a log that does not respond, and the next read is a new one", async () => {
    const world = await createWorld();
    world.store.hanging.add("changes");
    world.there.clock.advance("6s");
    await quiet();
    const refused = refusal(call(world));
    await quiet();
    world.there.clock.advance("5s");
    expect(await refused).toEqual(unavailable);
    world.store.hanging.clear();
    world.there.clock.advance("5s");
    await quiet();
    world.there.clock.advance("1s");
    await quiet();
    await expect(call(world)).resolves.toBeDefined();
  });

  it("a call stops waiting when its client gives up", async () => {
    const world = await createWorld();
    world.store.hanging.add("changes");
    world.there.clock.advance("6s");
    const server = wireServer(world.there.protect(notesApp(world.there)));
    const { listNotes } = NotesService.method;
    const calling = server.call(
      listNotes,
      {},
      {
        bearer: world.issued.access,
        headers: { "connect-timeout-ms": "50" },
      },
    );
    expect((await calling).error?.code).toBe(Code.DeadlineExceeded);
  });

  it("an abandoned read that completes late changes nothing", async () => {
    const { here, store, issued } = await createWorld();
    const inner = store.store;
    let answer = (): void => {};
    let hold = false;
    const slow: typeof inner = {
      ...inner,
      async changes(cursor, window) {
        const changes = await inner.changes(cursor, window);
        if (hold) {
          hold = false;
          await new Promise<void>((resolve) => {
            answer = resolve;
          });
        }
        return changes;
      },
    };
    const there = testSessions({ store: slow, clock: here.clock });
    await there.ready();
    hold = true;
    there.clock.advance("2500ms");
    await quiet();
    const before = there.clock.now();
    there.clock.advance("10s");
    await quiet();
    there.clock.advance("1s");
    await quiet();
    expect(there.health().provenAt?.getTime()).toBe(before + 11_000);
    await issued.revoke();
    answer();
    await quiet();
    expect(there.health().provenAt?.getTime()).toBe(before + 11_000);
    there.clock.advance("2500ms");
    await quiet();
    expect(await refusal(there.getSession(exchangeOf({ bearer: issued.access })))).toEqual(revoked);
  });

  it("an abandoned read that completes late counts if no other read was done since", async () => {
    const { here, store } = await createWorld();
    let answer = (): void => {};
    const held = new Promise<void>((resolve) => {
      answer = resolve;
    });
    let late = 0;
    const there = testSessions({
      clock: here.clock,
      store: {
        ...store.store,
        async changes(cursor, window) {
          const changes = await store.store.changes(cursor, window);
          await (late++ === 1 ? held : late > 1 && new Promise(() => {}));
          return changes;
        },
      },
    });
    await there.ready();
    there.clock.advance("2500ms");
    await quiet();
    const proven = there.health().provenAt?.getTime() ?? 0;
    there.clock.advance("10s");
    await quiet();
    answer();
    await quiet();
    expect(there.health().provenAt?.getTime()).toBe(proven + 2_500);
  });

  it("in an outage, a jump of the wall clock admits nobody", async () => {
    for (const jump of [3_600_000, -3_600_000]) {
      const clock = createFakeClock();
      const world = await createWorld({ clock });
      world.store.failing.add("changes");
      clock.setNow(clock.now() + jump);
      world.here.clock.advance("6s");
      clock.advance("6s");
      await quiet();
      expect(await refusal(call(world))).toEqual(unavailable);
    }
  });

  it("after the machine has slept, when monotonic time stood still, the log is read first", async () => {
    const clock = createFakeClock();
    const world = await createWorld({ clock });
    await world.issued.revoke();
    // A minute has passed, and no timer of ours has fired.
    clock.setNow(clock.now() + 60_000);
    world.here.clock.advance("1m");
    expect(await refusal(call(world))).toEqual(revoked);
  });

  it("a store clock that jumps ahead and back revives no session", async () => {
    const clock = createFakeClock();
    const world = await createWorld({ clock });
    const { there, here, issued } = world;
    await here.revoke(issued.id);
    clock.advance("2500ms");
    await quiet();
    // The store uses the clock of the engine that opened it first.
    const begun = clock.now();
    clock.setNow(begun + 3 * 3_600_000);
    await world.store.store.prune(100);
    clock.advance("2500ms");
    await quiet();
    expect(await refusal(call(world))).toEqual(["tryRefreshToken", "TOKEN_EXPIRED"]);
    clock.setNow(begun);
    clock.advance("2500ms");
    await quiet();
    expect(await refusal(call(world))).toEqual(revoked);
    expect(there.health().changes).toBe(1);
  });

  it("a starting server forgets log entries once their tokens have expired", async () => {
    const { here, store, issued } = await createWorld();
    await issued.revoke();
    here.clock.advance("10m");
    const late = testSessions({ clock: here.clock, store: store.store });
    await late.ready();
    expect(late.health().changes).toBe(1);
    here.clock.advance("5m");
    await quiet();
    expect(late.health().changes).toBe(1);
    here.clock.advance("61s");
    await quiet();
    expect(late.health().changes).toBe(0);
  });

  it("is bounded by the option maxStaleness", async () => {
    const world = await createWorld({ maxStaleness: "500ms" });
    await outage(world, 501);
    expect(await refusal(call(world))).toEqual(unavailable);
    for (const [maxStaleness, bound] of [
      ["100ms", "at least 200ms"],
      ["61s", "at most 1m"],
    ] as const) {
      expect(() => testSessions({ maxStaleness })).toThrow(
        new TypeError(`maxStaleness must be ${bound}, got "${maxStaleness}"`),
      );
    }
    const streams = { maxStaleness: "20s", maxStreamStaleness: "10s" } as const;
    expect(() => testSessions(streams)).toThrow(
      /^maxStreamStaleness must be at least maxStaleness \(20s\), got 10s$/,
    );
  });
});

describe("events of the change log", () => {
  it("report once that it is stale, with the cause, and once that it recovered", async () => {
    const world = await createWorld();
    await outage(world);
    await refusal(call(world));
    await refusal(call(world));
    world.store.failing.clear();
    await call(world);
    await call(world);
    await outage(world);
    world.store.failing.clear();
    await call(world);
    const told = world.events.filter(({ type }) => type.startsWith("feed"));
    expect(told).toMatchObject([
      { type: "feedStale", staleFor: 6_000, error: { kind: "unavailable" } },
      { type: "feedRecovered", staleFor: 6_000 },
      { type: "feedStale" },
      { type: "feedRecovered" },
    ]);
  });

  it("are not sent when a fake clock is advanced", async () => {
    const world = await createWorld();
    world.there.clock.advance("10m");
    await expect(call(world)).resolves.toBeDefined();
    world.there.clock.advance("1m");
    await quiet();
    expect(world.events).toEqual([]);
  });
});

describe("sessions.health", () => {
  it("reports an instance that is not open", async () => {
    const sessions = testSessions();
    expect(sessions.health()).toMatchObject({ status: "closed", changes: 0 });
    await sessions.ready();
    expect(sessions.health()).toMatchObject({ status: "fresh", push: "connected" });
    await sessions.close();
    expect(sessions.health().status).toBe("closed");
  });

  it("reports lag, proof and sizes without reading the store", async () => {
    const world = await createWorld();
    const { there, store } = world;
    const opened = there.clock.now();
    there.clock.advance("1s");
    await world.issued.revoke();
    there.clock.advance("1500ms");
    await quiet();
    store.take();
    there.clock.advance("100ms");
    expect(there.health()).toEqual({
      status: "fresh",
      staleness: 100,
      provenAt: new Date(opened + 2_500),
      lag: 1_500,
      push: "polling",
      changes: 1,
      maxChanges: 2_000_000,
      streams: 0,
    });
    await outage(world);
    expect(there.health()).toMatchObject({ status: "stale", staleness: 6_100 });
    store.failing.clear();
    await quiet();
    expect(store.take()).not.toContain("load");
  });
});

describe("feat:B5 revocation: strict", () => {
  it("reads the session on each call, whatever the log contains", async () => {
    const world = await createWorld({ revocation: "strict" });
    await call(world);
    await call(world);
    expect(world.store.take()).toEqual(["load", "load"]);
    await world.issued.revoke();
    expect(await refusal(call(world))).toEqual(revoked);
  });

  it("respects the idle and absolute end of the session", async () => {
    const world = await createWorld({ lifetimes: { access: "2m", idle: "2m" } });
    const { there, store, issued } = world;
    const { record } = await store.store.load(issued.id);
    expect(record).toBeDefined();
    const sessions = testSessions({
      clock: there.clock,
      store: {
        ...store.store,
        async load(id) {
          const stored = await store.store.load(id);
          return { ...stored, now: stored.record?.idleExpiresAt ?? 0 };
        },
      },
    });
    const exchange = exchangeOf({ bearer: issued.access });
    expect(await refusal(sessions.getSession(exchange, { check: "strict" }))).toEqual([
      "unauthorized",
      "SESSION_EXPIRED",
    ]);
  });

  it("is Unavailable in an outage, and does not need a fresh log", async () => {
    const world = await createWorld();
    world.store.failing.add("load");
    expect(await refusal(call(world, "strict"))).toEqual(unavailable);
    world.store.failing.delete("load");
    await outage(world);
    await expect(call(world, "strict")).resolves.toBeDefined();
    expect(await refusal(call(world))).toEqual(unavailable);
  });

  it("can be set for one method by its policy", async () => {
    const world = await createWorld({
      methods: { "notes.v1.NotesService/AddNote": { check: "strict" } },
    });
    const app = notesApp(world.there);
    const server = wireServer(world.there.protect(app));
    const { addNote, listNotes } = NotesService.method;
    const presented = { bearer: world.issued.access };
    await server.call(listNotes, {}, presented);
    expect(world.store.take()).toEqual([]);
    await server.call(addNote, {}, presented);
    expect(world.store.take()).toEqual(["load"]);
  });
});

describe("revocation: none", () => {
  it("checks nothing, and admits calls with a stale log", async () => {
    const world = await createWorld({ revocation: "none" });
    await outage(world, 50_000);
    world.store.take();
    await expect(call(world)).resolves.toBeDefined();
    expect(world.store.take()).toEqual([]);
    expect(await refusal(call(world, "feed"))).toEqual(unavailable);
  });
});

describe("a service that only verifies", () => {
  const jwks = { keys: [] };
  const start = (check: "feed" | "strict" | "none") => () =>
    verifySessions({
      issuer: "https://api.example.com",
      jwks,
      methods: { "notes.v1.NotesService/AddNote": { check } },
    });

  it("refuses to start with a check that needs a store", () => {
    for (const check of ["strict", "feed"] as const) {
      expect(start(check)).toThrow(TypeError);
      expect(start(check)).toThrow(
        `the policy of notes.v1.NotesService/AddNote sets check: "${check}", but a service that only verifies has no store to check in`,
      );
    }
    expect(start("none")).not.toThrow();
  });

  it("refuses to start with a policy that demands anti-CSRF tokens, which it cannot check", async () => {
    const given = { issuer: "https://api.example.com", jwks };
    const methods = { "policytest.v1.CsrfService/Update": { doAntiCsrfCheck: true } };
    expect(() => verifySessions({ ...given, methods })).toThrow(
      "the policy of policytest.v1.CsrfService/Update demands an anti-CSRF token, but a service that only verifies does not have the secret to check it",
    );
    expect(() => testSessions({ methods })).not.toThrow();
    const sessions = verifySessions(given);
    await expect(sessions.getSession(exchangeOf({}), { doAntiCsrfCheck: true })).rejects.toThrow(
      /^doAntiCsrfCheck: true needs the secret of the issuer/,
    );
    expect(
      await sessions.getSession(exchangeOf({}), { doAntiCsrfCheck: false, required: false }),
    ).toBeUndefined();
  });

  it("refuses such a check in getSession too, instead of admitting a revoked session", async () => {
    const sessions = testSessions();
    const { session, tokens } = await sessions.issue({ userId: "alice" });
    const { clock } = sessions;
    const jwks = await sessions.jwks();
    const verifying = verifySessions({ issuer: "https://test.example", jwks, clock });
    await session.revoke();
    const given = { bearer: tokens.accessToken };
    for (const check of ["feed", "strict", "fed" as "feed"] as const) {
      for (const required of [true, false]) {
        await expect(verifying.getSession(exchangeOf(given), { check, required })).rejects.toThrow(
          TypeError,
        );
      }
    }
    expect((await verifying.getSession(exchangeOf(given), { check: "none" })).id).toBe(session.id);
    await expect(
      sessions.getSession(exchangeOf(given), { check: "fed" as "feed", required: false }),
    ).rejects.toThrow(/^check must be "feed", "strict" or "none", got "fed"$/);
  });
});

describe("sec:V04 more changes than can be remembered", () => {
  it("each call reads its session, calls beyond the cap are unavailable, and no revoked session is admitted", async () => {
    const inner = watchedStore();
    const here = testSessions({ store: inner.store });
    const lost = here.clock.now();
    const store = watchedStore({
      ...inner.store,
      changes: async (cursor, window) => ({
        ...(await inner.store.changes(cursor, window)),
        lostAt: lost,
      }),
    });
    const there = testSessions({ store: store.store, clock: here.clock });
    await there.ready();
    const good = await issueOn(here, "header");
    const bad = await issueOn(here, "header");
    await inner.store.revoke(bad.id, "revoked");
    store.take();
    const ask = ({ access }: Issued) => there.getSession(exchangeOf({ bearer: access }));
    await expect(ask(good)).resolves.toBeDefined();
    expect(await refusal(ask(bad))).toEqual(revoked);
    expect(there.health().status).toBe("unsure");
    // As many as are read at once, plus as many as may wait.
    store.take();
    store.hanging.add("load");
    const waiting = Array.from({ length: 64 + 1_000 }, () => ask(good).catch(() => {}));
    await vi.waitFor(() => expect(store.calls).toHaveLength(64));
    expect(await refusal(ask(good))).toEqual(unavailable);
    expect(store.calls).toHaveLength(64);
    expect(waiting).toHaveLength(1_064);
  });
});
