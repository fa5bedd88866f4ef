import { createFakeClock, type TestSessions, testSessions } from "rpc-session/testing";
import { describe, expect, it, vi } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { exchangeOf, type Presented, sessionErrorOf } from "../helpers/exchanges.ts";
import { notesApp } from "../helpers/notes.ts";
import { advanced, type Issued, issueOn, refreshed } from "../helpers/refreshing.ts";
import { type WatchedStore, watchedStore } from "../helpers/watched-store.ts";
import { wireServer } from "../helpers/wire-server.ts";

interface World {
  readonly sessions: TestSessions;
  readonly store: WatchedStore;
  readonly cookie: Issued;
  readonly header: Issued;
}

async function createWorld(antiCsrf: "off" | "token" = "off"): Promise<World> {
  const store = watchedStore();
  const sessions = testSessions({ store: store.store, antiCsrf });
  const cookie = await issueOn(sessions, "cookie");
  const header = await issueOn(sessions, "header");
  store.take();
  return { sessions, store, cookie, header };
}

/** Waits for all background work to finish. */
async function quiet(): Promise<void> {
  await new Promise((resolve) => setImmediate(resolve));
}

/** Store calls made by timers, not by calls: following the log, and sweeping. */
const byClock: ReadonlySet<string> = new Set(["changes", "lease", "prune"]);

/** The store calls that were made for calls. */
function taken(store: WatchedStore): string[] {
  return store.take().filter((call) => !byClock.has(call));
}

type Cookie = "access" | "refresh";

const many = Array.from({ length: 100 });

describe("feat:B1 a call does not access the store if it is", () => {
  const { addNote, listNotes, watchNotes } = NotesService.method;

  it.each<[string, (world: World) => Presented]>([
    ["cookie", ({ cookie }) => ({ access: cookie.access, refresh: cookie.refresh })],
    ["header", ({ header }) => ({ bearer: header.access })],
    ["two copies of the cookie", ({ cookie }) => ({ access: [cookie.access, cookie.access] })],
  ])("verified, by %s", async (_, presented) => {
    const world = await createWorld();
    const app = notesApp(world.sessions);
    const server = wireServer(world.sessions.protect(app));
    for (const method of [addNote, listNotes]) {
      expect(
        (await server.call(method as typeof addNote, {}, presented(world))).error,
      ).toBeUndefined();
    }
    expect((await server.stream(watchNotes, {}, presented(world))).error).toBeUndefined();
    expect(app.calls.handled).toBe(3);
    await quiet();
    expect(world.store.take()).toEqual([]);
  });

  it("verified, with the anti-CSRF token", async () => {
    const { sessions, store, cookie } = await createWorld("token");
    const { csrf } = await refreshed(sessions, cookie.refresh);
    store.take();
    await sessions.getSession(exchangeOf({ access: cookie.access, csrf }));
    await quiet();
    expect(store.take()).toEqual([]);
  });

  it("refused: expired, malformed, anonymous, cross-site", async () => {
    const { sessions, store, cookie, header } = await createWorld();
    sessions.clock.advance("16m");
    const refused: readonly Presented[] = [
      { access: cookie.access, refresh: cookie.refresh },
      { bearer: header.access },
      { bearer: "junk" },
      { access: "junk" },
      {},
      { access: cookie.access, headers: { "sec-fetch-site": "cross-site" } },
    ];
    for (const presented of refused) {
      await sessionErrorOf(sessions.getSession(exchangeOf(presented)));
    }
    await quiet();
    expect(taken(store)).toEqual([]);
  });
});

describe("feat:B7 confirmation", () => {
  const use = (sessions: TestSessions, { access, refresh = [] }: Pick<Presented, Cookie>) =>
    Promise.all(many.map(() => sessions.getSession(exchangeOf({ access: access ?? [], refresh }))));

  /** Uses are gathered for at most ten seconds. */
  const written = async (sessions: TestSessions) => {
    sessions.clock.advance("10s");
    await quiet();
  };

  it("is one write per generation in the background, however many calls", async () => {
    const { sessions, store, cookie } = await createWorld();
    await use(sessions, cookie);
    await quiet();
    expect(taken(store)).toEqual([]);
    // From this time on the generation is settled.
    sessions.clock.advance("60s");
    await use(sessions, cookie);
    await written(sessions);
    expect(taken(store)).toEqual(["confirm"]);
    expect((await store.store.load(cookie.id)).record?.confirmedAt).not.toBeNull();
    sessions.clock.advance("10m");
    await use(sessions, cookie);
    await quiet();
    expect(taken(store)).toEqual(["load"]);
  });

  it("happens again for the next generation, and not for the previous one", async () => {
    const { sessions, store, cookie } = await createWorld();
    const next = await advanced(sessions, cookie.refresh);
    sessions.clock.advance("61s");
    await use(sessions, cookie);
    await written(sessions);
    const { record } = await store.store.load(cookie.id);
    expect([record?.generation, record?.confirmedAt]).toEqual([1, null]);
    store.take();
    await use(sessions, next);
    await written(sessions);
    expect(taken(store)).toEqual(["confirm"]);
  });

  it("does not happen while the refresh cookie beside the access cookie is missing or older", async () => {
    const { sessions, store, cookie } = await createWorld();
    const next = await advanced(sessions, cookie.refresh);
    sessions.clock.advance("61s");
    store.take();
    await use(sessions, { access: next.access });
    await use(sessions, { access: next.access, refresh: cookie.refresh });
    await written(sessions);
    expect(taken(store)).toEqual([]);
    // Not even a note that delays the confirmation: the first call with both cookies makes it.
    await use(sessions, next);
    await written(sessions);
    expect(taken(store)).toEqual(["confirm"]);
  });

  it("fails without failing the call, and a later call tries again", async () => {
    const { sessions, store, cookie } = await createWorld();
    sessions.clock.advance("61s");
    store.failing.add("confirm");
    await use(sessions, cookie);
    await written(sessions);
    expect(taken(store)).toEqual(["confirm"]);
    store.failing.clear();
    sessions.clock.advance("5s");
    await use(sessions, cookie);
    await written(sessions);
    expect(taken(store)).toEqual(["confirm"]);
  });

  it("hangs without delaying the call", async () => {
    const { sessions, store, cookie } = await createWorld();
    sessions.clock.advance("61s");
    store.hanging.add("confirm");
    await use(sessions, cookie);
    await written(sessions);
    expect(taken(store)).toEqual(["confirm"]);
    await use(sessions, cookie);
  });
});

describe("a revocation is detected without reading a session", () => {
  const revokedAt = async (sessions: TestSessions, issued: Issued) => {
    const error = await sessionErrorOf(sessions.getSession(exchangeOf({ bearer: issued.access })));
    return [error.kind, error.reason];
  };
  const revoked = ["unauthorized", "SESSION_REVOKED"];

  it("by the next call of the same process", async () => {
    const { sessions, store, header } = await createWorld();
    await header.revoke();
    store.failing.add("load");
    expect(await revokedAt(sessions, header)).toEqual(revoked);
    await quiet();
    // The log is read because the store woke the feed, not for the call.
    expect(taken(store)).toEqual(["revoke"]);
    await Promise.all(many.map(() => revokedAt(sessions, header)));
    expect(taken(store)).toEqual([]);
  });

  it("by the next call of another createSessions on the same store", async () => {
    const { sessions, store, header } = await createWorld();
    const elsewhere = watchedStore(store.store);
    const other = testSessions({ store: elsewhere.store, clock: sessions.clock });
    await expect(other.getSession(exchangeOf({ bearer: header.access }))).resolves.toBeDefined();
    elsewhere.take();
    await header.revoke();
    elsewhere.failing.add("load");
    expect(await revokedAt(other, header)).toEqual(revoked);
    expect(new Set(elsewhere.take())).toEqual(new Set(["changes"]));
  });

  it("by an instance that is opened later", async () => {
    const { sessions, store, header } = await createWorld();
    await header.revoke();
    const other = testSessions({ store: store.store, clock: sessions.clock });
    expect(await revokedAt(other, header)).toEqual(revoked);
  });

  it("even if the log could not be read for a while", async () => {
    const { sessions, store, header } = await createWorld();
    const elsewhere = watchedStore(store.store);
    const other = testSessions({ store: elsewhere.store, clock: sessions.clock });
    await other.ready();
    elsewhere.failing.add("changes");
    await header.revoke();
    await quiet();
    elsewhere.failing.clear();
    sessions.clock.advance("1s");
    await quiet();
    expect(await revokedAt(other, header)).toEqual(revoked);
  });

  it("a revocation of another session changes nothing", async () => {
    const { sessions, header, cookie } = await createWorld();
    await cookie.revoke();
    await expect(sessions.getSession(exchangeOf({ bearer: header.access }))).resolves.toBeDefined();
  });
});

describe("gs:G4 signing keys", () => {
  it("a key that another server created is read once", async () => {
    const clock = createFakeClock();
    const inner = watchedStore();
    const signer = testSessions({ store: inner.store, clock });
    await signer.ready();
    const store = watchedStore(inner.store);
    const other = testSessions({ store: store.store, clock });
    await other.ready();
    clock.advance("30d");
    // Creates the next key, which signs once it has been published for long enough.
    await signer.issue({ userId: "alice" });
    await vi.waitFor(async () => {
      expect((await inner.store.signingKeys()).keys).toHaveLength(2);
    });
    clock.advance("11m");
    const { access } = await issueOn(signer, "header");
    const kidOf = (token: string) => JSON.parse(atob(token.split(".")[0] ?? "")).kid as string;
    const { keys } = await inner.store.signingKeys();
    expect(keys.map(({ kid }) => kid).indexOf(kidOf(access))).toBe(1);
    store.take();
    const call = () => other.getSession(exchangeOf({ bearer: access }));
    await Promise.all(many.map(call));
    expect(taken(store)).toEqual(["signingKeys"]);
    await Promise.all(many.map(call));
    expect(taken(store)).toEqual([]);
  });

  it("a flood of unknown key ids reads the keys once per cooldown", async () => {
    const { sessions, store } = await createWorld();
    sessions.clock.advance("1m");
    const { access } = await issueOn(testSessions({ clock: sessions.clock }), "header");
    const ask = () => sessionErrorOf(sessions.getSession(exchangeOf({ bearer: access })));
    const flood = async () => new Set((await Promise.all(many.map(ask))).map((e) => e.reason));
    expect(await flood()).toEqual(new Set(["TOKEN_INVALID"]));
    expect(taken(store)).toEqual(["signingKeys"]);
    expect(await flood()).toEqual(new Set(["TOKEN_INVALID"]));
    sessions.clock.advance("4s");
    expect(await flood()).toEqual(new Set(["TOKEN_INVALID"]));
    expect(taken(store)).toEqual([]);
    sessions.clock.advance("1s");
    expect(await flood()).toEqual(new Set(["TOKEN_INVALID"]));
    expect(taken(store)).toEqual(["signingKeys"]);
    sessions.clock.advance("1h");
    await flood();
    expect(taken(store)).toEqual([]);
  });
});
