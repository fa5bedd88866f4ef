import { createClient, createRouterTransport } from "@connectrpc/connect";
import { createSessionClient } from "rpc-session/client";
import { type TestSessions, testSessions } from "rpc-session/testing";
import { describe, expect, it } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { decodeNotice } from "../../src/base/wire.ts";
import { cookieEffects, cookieValue, exchangeOf, type Presented } from "../helpers/exchanges.ts";
import { type Issued, issueOn } from "../helpers/refreshing.ts";
import { type WatchedStore, watchedStore } from "../helpers/watched-store.ts";
import { wireServer } from "../helpers/wire-server.ts";

type Options = NonNullable<Parameters<typeof testSessions>[0]>;

interface World {
  /** Where claims change. */
  readonly here: TestSessions;
  /** Another server on the same store. */
  readonly there: TestSessions;
  readonly store: WatchedStore;
}

async function createWorld(options: Options = {}): Promise<World> {
  const inner = watchedStore();
  const here = testSessions({ store: inner.store });
  const store = watchedStore(inner.store);
  const there = testSessions({ store: store.store, clock: here.clock, ...options });
  await there.ready();
  return { here, there, store };
}

/** Changes the claims of a session, and waits until the other server knows. */
async function change({ here, store }: World, { id }: Issued, claims: object): Promise<void> {
  await here.updateClaims(id, claims);
  await quiet();
  store.take();
}

async function quiet(): Promise<void> {
  await new Promise((resolve) => setImmediate(resolve));
}

/** One call: the claims that its handler sees, and the headers of its response. */
async function call({ there }: World, presented: Presented) {
  const exchange = exchangeOf(presented);
  const session = await there.getSession(exchange);
  const headers = exchange.responseHeader;
  return {
    session,
    headers,
    notice: decodeNotice(headers.get("rpcsession-session")),
    token: headers.get("rpcsession-access-token") ?? cookieValue(headers, "access"),
  };
}

function payloadOf(token: string): Record<string, unknown> {
  return JSON.parse(Buffer.from(token.split(".")[1] ?? "", "base64url").toString());
}

const loads = (store: WatchedStore) => store.take().filter((name) => name === "load");

describe("feat:B6 feat:B13 claims that have changed", () => {
  it("apply to the next call on every server, and its response carries a token with them", async () => {
    const world = await createWorld();
    const issued = await issueOn(world.here, "header");
    await change(world, issued, { role: "admin" });
    const { session, headers, notice, token } = await call(world, { bearer: issued.access });
    expect(session.claims).toEqual({ role: "admin" });
    expect(notice).toMatchObject({ event: "reissued", session: issued.id, claimsVersion: 1 });
    expect(headers.get("rpcsession-refresh-token")).toBeNull();
    const [before, after] = [payloadOf(issued.access), payloadOf(token ?? "")];
    // Identical except for the claims. The generation too: the client may not have a later one.
    const { iat: _iat, jti, cv, ...same } = before;
    expect(after).toMatchObject(same);
    expect(after).toMatchObject({ role: "admin", cv: 1 });
    expect([after.jti === jti, cv]).toEqual([false, 0]);
    expect(loads(world.store)).toHaveLength(1);
    const next = await call(world, { bearer: token ?? "" });
    expect([next.session.claims, next.notice]).toEqual([{ role: "admin" }, undefined]);
    expect(world.store.take()).toEqual([]);
  });

  it("are written to the access cookie only, in a cookie session", async () => {
    const world = await createWorld();
    const issued = await issueOn(world.here, "cookie");
    await change(world, issued, { role: "admin" });
    const { headers, token } = await call(world, { access: issued.access });
    expect(cookieEffects(headers)).toEqual(["access set"]);
    expect(payloadOf(token ?? "")).toMatchObject({
      role: "admin",
      exp: payloadOf(issued.access).exp,
    });
    expect(headers.get("cache-control")).toBe("no-store");
  });

  it("apply to a call by GET, whose response carries no token", async () => {
    const world = await createWorld();
    for (const transport of ["header", "cookie"] as const) {
      const issued = await issueOn(world.here, transport);
      await change(world, issued, { role: "admin" });
      const presented =
        transport === "header" ? { bearer: issued.access } : { access: issued.access };
      const { session, headers, notice } = await call(world, { ...presented, method: "GET" });
      expect(session.claims).toEqual({ role: "admin" });
      expect(notice).toBeUndefined();
      expect(headers.get("rpcsession-access-token")).toBeNull();
      expect(headers.getSetCookie()).toEqual([]);
    }
  });

  it("are read once for each version, however many calls arrive, at once or later", async () => {
    const world = await createWorld();
    const issued = await issueOn(world.here, "header");
    await change(world, issued, { role: "admin" });
    const presented = { bearer: issued.access };
    await Promise.all(Array.from({ length: 100 }, () => call(world, presented)));
    await call(world, presented);
    expect(loads(world.store)).toHaveLength(1);
    await change(world, issued, { role: "owner" });
    const all = await Promise.all(Array.from({ length: 100 }, () => call(world, presented)));
    expect(all.every(({ session }) => session.claims.role === "owner")).toBe(true);
    expect(loads(world.store)).toHaveLength(1);
  });

  it("are not used while the store is unreachable: calls get the old ones, and the store is read again", async () => {
    const world = await createWorld();
    const issued = await issueOn(world.here, "header");
    await change(world, issued, { role: "admin" });
    world.store.failing.add("load");
    const old = await call(world, { bearer: issued.access });
    expect([old.session.claims, old.notice]).toEqual([{}, undefined]);
    world.store.failing.clear();
    const { session } = await call(world, { bearer: issued.access });
    expect(session.claims).toEqual({ role: "admin" });
  });

  it("delay a call by at most two seconds", async () => {
    const world = await createWorld();
    const issued = await issueOn(world.here, "header");
    await call(world, { bearer: issued.access });
    await change(world, issued, { role: "admin" });
    world.store.hanging.add("load");
    const calling = call(world, { bearer: issued.access });
    await quiet();
    world.there.clock.advance("2s");
    expect((await calling).session.claims).toEqual({});
    world.store.hanging.clear();
    const { session } = await call(world, { bearer: issued.access });
    expect(session.claims).toEqual({ role: "admin" });
  });

  it("are required by a method that demands claims: in an outage it is unavailable", async () => {
    const world = await createWorld({
      methods: { "notes.v1.NotesService/AddNote": { claims: { role: ["user", "admin"] } } },
    });
    const { there, here, store } = world;
    const { session, tokens } = await here.issue({ userId: "alice", claims: { role: "user" } });
    const server = wireServer(
      there.protect({
        routes: (router) =>
          router.service(NotesService, {
            addNote: (_request, context) => {
              seen = there.require(context).claims;
              return {};
            },
            listNotes: (_request, context) => {
              seen = there.require(context).claims;
              return {};
            },
          }),
      }),
    );
    let seen: object | undefined;
    const { addNote, listNotes } = NotesService.method;
    await here.updateClaims(session.id, { role: "admin" });
    await quiet();
    store.failing.add("load");
    const presented = { bearer: tokens.accessToken };
    expect((await server.call(addNote, {}, presented)).error?.message).toMatch(/unavailable/);
    expect((await server.call(listNotes, {}, presented)).error).toBeUndefined();
    expect(seen).toEqual({ role: "user" });
    store.failing.clear();
    const { error, headers } = await server.call(addNote, {}, presented);
    expect([error, seen]).toEqual([undefined, { role: "admin" }]);
    expect(headers.get("rpcsession-access-token")).not.toBeNull();
  });

  it("of an ended session are not used: the call is refused", async () => {
    const world = await createWorld();
    const issued = await issueOn(world.here, "header");
    await call(world, { bearer: issued.access });
    await change(world, issued, { role: "admin" });
    // Ended so that only the row shows it.
    const inner = world.store.store;
    const stored = await inner.load(issued.id);
    const ended = { ...stored.record, revokedAt: stored.now, endedBy: "revoked" };
    const there = testSessions({
      clock: world.here.clock,
      store: { ...inner, load: async () => ({ now: stored.now, record: ended }) as never },
    });
    await expect(call({ ...world, there }, { bearer: issued.access })).rejects.toMatchObject({
      reason: "SESSION_REVOKED",
    });
  });

  it("that the store has lost are not read by every call", async () => {
    const world = await createWorld();
    const issued = await issueOn(world.here, "header");
    const inner = world.store.store;
    const old = await inner.load(issued.id);
    await change(world, issued, { role: "admin" });
    let loaded = 0;
    let lost = true;
    let wake = (): void => {};
    const there = testSessions({
      clock: world.here.clock,
      store: {
        ...inner,
        onChange(given) {
          wake = given;
          return inner.onChange(given);
        },
        changes: (cursor, window) => inner.changes(lost ? cursor : undefined, window),
        load: async (id) => {
          loaded += 1;
          return lost ? old : inner.load(id);
        },
      },
    });
    for (let i = 0; i < 10; i++) {
      const { session, notice } = await call({ ...world, there }, { bearer: issued.access });
      expect([session.claims, notice]).toEqual([{}, undefined]);
    }
    expect(loaded).toBe(1);
    // Other claims that took the version of the lost ones: the log reports them like any others.
    lost = false;
    wake();
    await quiet();
    const { session } = await call({ ...world, there }, { bearer: issued.access });
    expect(session.claims).toEqual({ role: "admin" });
  });

  it("are taken from the session that each call reads while the log has lost entries", async () => {
    const world = await createWorld();
    const issued = await issueOn(world.here, "header");
    const inner = world.store.store;
    const lostAt = world.here.clock.now();
    const there = testSessions({
      clock: world.here.clock,
      store: {
        ...inner,
        changes: async (cursor, window) => ({ ...(await inner.changes(cursor, window)), lostAt }),
      },
    });
    await there.ready();
    expect(there.health().status).toBe("unsure");
    await change(world, issued, { role: "admin" });
    const { session, notice } = await call({ ...world, there }, { bearer: issued.access });
    expect([session.claims, notice?.event]).toEqual([{ role: "admin" }, "reissued"]);
    expect(loads(world.store)).toHaveLength(1);
  });

  it("are taken from the session that a strict check reads", async () => {
    const world = await createWorld({ revocation: "strict" });
    const issued = await issueOn(world.here, "header");
    await change(world, issued, { role: "admin" });
    const { session, notice } = await call(world, { bearer: issued.access });
    expect([session.claims, notice?.event]).toEqual([{ role: "admin" }, "reissued"]);
    expect(loads(world.store)).toHaveLength(1);
  });

  it("are read again if a pending read has seen another version", async () => {
    const world = await createWorld();
    const issued = await issueOn(world.here, "header");
    await call(world, { bearer: issued.access });
    await change(world, issued, { role: "admin" });
    // The row is newer than the part of the log that was read here.
    await world.here.updateClaims(issued.id, { role: "owner" });
    const { token } = await call(world, { bearer: issued.access });
    expect(payloadOf(token ?? "")).toMatchObject({ role: "owner", cv: 2 });
  });

  it("reach a client without a refresh, and a stream too", async () => {
    const world = await createWorld({ public: [NotesService.method.signIn] });
    const { there, here, store } = world;
    const seen: object[] = [];
    let id = "";
    const { routes, ...router } = there.protect({
      routes: (r) =>
        r.service(NotesService, {
          async signIn({ user }, context) {
            id = (await there.create(context, { userId: user, claims: { role: "user" } })).id;
            return {};
          },
          addNote(_request, context) {
            seen.push(there.require(context).claims);
            return {};
          },
          async *watchNotes(_request, context) {
            seen.push(there.require(context).claims);
            yield {};
          },
        }),
    });
    const session = createSessionClient({
      transport: ({ interceptors }) =>
        createRouterTransport(routes, { router, transport: { interceptors } }),
    });
    const notes = createClient(NotesService, session.transport);
    await notes.signIn({ user: "alice" });
    await notes.addNote({});
    for (const role of ["admin", "owner"]) {
      await here.updateClaims(id, { role });
      await quiet();
      store.take();
      if (role === "admin") {
        await notes.addNote({});
      } else {
        for await (const _ of notes.watchNotes({})) {
          // One suffices.
        }
      }
      await notes.addNote({});
      // One read for the new claims; the second call came with the new token.
      expect(store.take().filter((name) => name !== "changes")).toEqual(["load"]);
    }
    const roles = seen.map((claims) => (claims as { readonly role: string }).role);
    expect(roles).toEqual(["user", "admin", "admin", "owner", "owner"]);
  });
});
