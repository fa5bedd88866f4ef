import { Code, ConnectError, type HandlerContext } from "@connectrpc/connect";
import { createSessions, type SessionError, type SessionsOptions } from "rpc-session";
import { memoryStore } from "rpc-session/stores/memory";
import { createFakeClock, type TestSessions, testSessions } from "rpc-session/testing";
import { describe, expect, it } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { Action, Tokens } from "../../gen/rpcsession/v1/hint_pb.ts";
import { SessionService } from "../../gen/rpcsession/v1/service_pb.ts";
import { clearsCookies, cookieEffects, cookieValue } from "../helpers/exchanges.ts";
import { issueOn } from "../helpers/refreshing.ts";
import { watchedStore } from "../helpers/watched-store.ts";
import { wireServer } from "../helpers/wire-server.ts";

const { addNote, signIn } = NotesService.method;
const { refresh, signOut } = SessionService.method;
const page = { "sec-fetch-site": "same-origin" };

/** A notes service whose AddNote runs the work of the test, and whose SignIn signs in as bob. */
function serve(sessions: TestSessions, work: (context: HandlerContext) => Promise<unknown>) {
  return wireServer(
    sessions.protect({
      routes: (router) =>
        router.service(NotesService, {
          async addNote(_request, context) {
            await work(context);
            return {};
          },
          async signIn(_request, context) {
            await sessions.create(context, { userId: "bob" });
            return {};
          },
        }),
    }),
  );
}

const publicSignIn = { public: [signIn] } satisfies Partial<SessionsOptions>;

describe("a handler never clears tokens that are still valid", () => {
  it("if it signs in again and then ends the old session: the new tokens are kept", async () => {
    for (const transport of ["cookie", "header"] as const) {
      const sessions = testSessions();
      const server = serve(sessions, async (context) => {
        const old = sessions.require(context);
        await sessions.create(context, { userId: old.userId });
        await old.revoke();
      });
      const { access } = await issueOn(sessions, transport);
      const presented = transport === "cookie" ? { access } : { bearer: access };
      const { headers } = await server.call(addNote, {}, presented);
      const token =
        transport === "cookie"
          ? cookieValue(headers, "access")
          : headers.get("rpcsession-access-token");
      expect(token, transport).toBeTruthy();
      expect(headers.get("rpcsession-session")).toContain("event=created");
    }
  });

  it("if it throws an error about another token: the caller's cookies are kept", async () => {
    const sessions = testSessions();
    const server = serve(sessions, () =>
      sessions.getSession({
        requestHeader: new Headers({ authorization: "Bearer junk" }),
        responseHeader: new Headers(),
        requestMethod: "POST",
      }),
    );
    const { access, refresh: token } = await issueOn(sessions, "cookie");
    const answer = await server.call(addNote, {}, { access, refresh: token });
    expect(answer.error?.code).toBe(Code.Unauthenticated);
    expect(cookieEffects(answer.headers)).toEqual([]);
  });

  it("if it relays an error of another service: its hint is removed, whatever the type URL", async () => {
    const sessions = testSessions();
    const server = serve(sessions, () => {
      const upstream = new ConnectError("upstream", Code.Unauthenticated);
      upstream.details = [
        { type: "type.example/rpcsession.v1.RefreshHint", value: new Uint8Array() },
      ];
      return Promise.reject(upstream);
    });
    const { access } = await issueOn(sessions, "cookie");
    expect((await server.call(addNote, {}, { access })).error?.details).toEqual([]);
  });
});

describe("late calls of a session that was replaced", () => {
  it("clear nothing even if the server's clock is ahead of the store's", async () => {
    const clock = createFakeClock();
    const store = memoryStore();
    await store.open({ clock });
    const node = createFakeClock(clock.now() + 61_000);
    const sessions = testSessions({ ...publicSignIn, store, clock: node });
    const server = serve(sessions, async () => {});
    const old = await issueOn(sessions, "cookie");
    await server.call(signIn, {}, { access: old.access, refresh: old.refresh, headers: page });
    const late = await server.call(addNote, {}, { access: old.access, refresh: old.refresh });
    expect(late.error?.code).toBe(Code.Unauthenticated);
    expect(cookieEffects(late.headers)).toEqual([]);
  });

  it("clear nothing even if it was revoked before it was replaced", async () => {
    const sessions = testSessions(publicSignIn);
    const server = serve(sessions, async () => {});
    const old = await issueOn(sessions, "cookie");
    await old.revoke();
    const presented = { access: old.access, refresh: old.refresh };
    expect(cookieEffects((await server.call(addNote, {}, presented)).headers)).toEqual(
      clearsCookies,
    );
    await server.call(signIn, {}, { ...presented, headers: page });
    expect(cookieEffects((await server.call(addNote, {}, presented)).headers)).toEqual([]);
  });
});

describe("a late response that writes the access cookie of a replaced session again", () => {
  it.each(["feed", "strict"] as const)("does not end the next session: %s", async (check) => {
    const sessions = testSessions({ ...publicSignIn, revocation: check });
    const server = serve(sessions, async () => {});
    const old = await issueOn(sessions, "cookie");
    const signedIn = await server.call(signIn, {}, { ...old, headers: page });
    const next = cookieValue(signedIn.headers, "refresh") ?? "";
    // Within the grace period after its own end, and long after, when late calls clear the tokens.
    for (const wait of ["1s", "90s"] as const) {
      sessions.clock.advance(wait);
      const mixed = { access: old.access, refresh: next };
      const { hint, headers, error } = await server.call(addNote, {}, mixed);
      expect(error?.code).toBe(Code.Unauthenticated);
      expect(hint).toMatchObject({ action: Action.REFRESH, tokens: Tokens.KEEP });
      expect(cookieEffects(headers)).toEqual([]);
      const refreshed = await server.call(refresh, {}, mixed);
      const access = cookieValue(refreshed.headers, "access") ?? "";
      expect((await server.call(addNote, {}, { access, refresh: next })).error).toBeUndefined();
    }
    const ended = await server.call(addNote, {}, { access: old.access, refresh: old.refresh });
    expect(ended.hint).toMatchObject({ action: Action.SIGN_IN, tokens: Tokens.CLEAR });
    const junk = await server.call(addNote, {}, { access: old.access, refresh: "junk" });
    expect(junk.hint?.action).toBe(Action.SIGN_IN);
  });
});

describe("a refresh cookie made with a secret that this server does not have", () => {
  /** The same browser after the secret was replaced, the old one dropped. */
  async function rotated() {
    const clock = createFakeClock();
    const store = memoryStore();
    const before = testSessions({ store, clock, secret: "the old secret, 32 bytes of it..." });
    const alien = await issueOn(before, "cookie");
    clock.advance("20s");
    const sessions = testSessions({
      ...publicSignIn,
      store,
      clock,
      secret: "the new secret, 32 bytes of it...",
    });
    return { sessions, alien, server: serve(sessions, async () => {}) };
  }

  it("does not prevent its user from signing in", async () => {
    const { server, alien } = await rotated();
    const presented = { access: alien.access, refresh: alien.refresh, headers: page };
    const answer = await server.call(signIn, {}, presented);
    expect(answer.error).toBeUndefined();
    expect(cookieValue(answer.headers, "refresh")).toBeTruthy();
  });

  it("does not prevent its user from signing out", async () => {
    const { server, sessions, alien } = await rotated();
    const good = await issueOn(sessions, "cookie");
    const presented = { access: good.access, refresh: alien.refresh };
    const answer = await server.call(signOut, {}, presented);
    expect(answer.error).toBeUndefined();
    expect(cookieEffects(answer.headers)).toEqual(clearsCookies);
    const after = await server.call(addNote, {}, { access: good.access });
    expect(after.error?.code).toBe(Code.Unauthenticated);
  });

  it("makes SignOut Unavailable if it is the only token, because its session is still alive, and is cleared", async () => {
    const { server, sessions, alien } = await rotated();
    const answer = await server.call(signOut, {}, { refresh: alien.refresh });
    expect(answer.error?.code).toBe(Code.Unavailable);
    expect(cookieEffects(answer.headers)).toEqual(clearsCookies);
    const { tokens } = await sessions.issue({ userId: "alice" });
    const wrong = tokens.refreshToken.replace(/^[^.]+/, alien.refresh.slice(0, 8));
    const inMessage = await server.call(signOut, { refreshToken: wrong }, {});
    expect(inMessage.error?.code).toBe(Code.Unavailable);
    const { accessToken: bearer } = tokens;
    const proven = await server.call(signOut, { refreshToken: wrong }, { bearer });
    expect(proven.error).toBeUndefined();
    expect((await server.call(addNote, {}, { bearer })).error?.code).toBe(Code.Unauthenticated);
  });

  it("does not invalidate a valid one next to it", async () => {
    const { server, sessions, alien } = await rotated();
    const good = await issueOn(sessions, "cookie");
    const answer = await server.call(refresh, {}, { refresh: [alien.refresh, good.refresh] });
    expect(answer.error).toBeUndefined();
  });

  it("makes Refresh Unavailable if it is the only token, and is kept", async () => {
    const { server, alien } = await rotated();
    const answer = await server.call(
      refresh,
      {},
      { refresh: [alien.refresh, `${alien.refresh}x`] },
    );
    expect(answer.error?.code).toBe(Code.Unavailable);
    expect(cookieEffects(answer.headers)).toEqual([]);
  });
});

describe("a header that proves no session", () => {
  it.each([
    ["SignOut", signOut],
    ["SignIn", signIn],
  ])("does not prevent %s from ending the session of the cookies", async (_name, method) => {
    const sessions = testSessions(publicSignIn);
    const server = serve(sessions, async () => {});
    const { access, refresh: token } = await issueOn(sessions, "cookie");
    const presented = { access, refresh: token, bearer: "of-a-gateway", headers: page };
    expect((await server.call(method as typeof signOut, {}, presented)).error).toBeUndefined();
    expect((await server.call(addNote, {}, { access })).error?.code).toBe(Code.Unauthenticated);
  });
});

describe("an outage of the signing keys", () => {
  it("makes calls and SignOut Unavailable, and the token is accepted afterwards", async () => {
    const watched = watchedStore();
    const secret = "shared by all servers, 32 bytes!!";
    const one = testSessions({ store: watched.store, secret });
    const other = testSessions({ store: watched.store, secret, clock: one.clock });
    await one.ready();
    // Another server rotates the keys: the first one does not know the new key yet.
    await watched.store.removeSigningKeysBelow(1);
    one.clock.advance("1m");
    const { access } = await issueOn(other, "header");
    one.clock.advance("1m");
    const server = serve(one, async () => {});
    const call = () => server.call(addNote, {}, { bearer: access });
    watched.failing.add("signingKeys");
    expect((await call()).error?.code).toBe(Code.Unavailable);
    expect((await call()).error?.code).toBe(Code.Unavailable);
    const ending = await server.call(signOut, {}, { bearer: access });
    expect(ending.error?.code).toBe(Code.Unavailable);
    watched.failing.clear();
    one.clock.advance("10s");
    expect((await call()).error).toBeUndefined();
  });
});

describe("events for the service", () => {
  it("report an outage with its cause, and a failing listener breaks nothing", async () => {
    const failures: SessionError[] = [];
    const watched = watchedStore();
    const sessions = testSessions({
      store: watched.store,
      async onEvent(event) {
        if (event.type === "failed") {
          failures.push(event.error);
        }
        throw new Error("the audit log is down");
      },
    });
    const { refresh: token } = await issueOn(sessions, "header");
    watched.failing.add("load");
    const server = serve(sessions, async () => {});
    await server.call(refresh, { refreshToken: token });
    expect(failures).toHaveLength(1);
    expect(failures[0]?.cause).toBeInstanceOf(Error);
  });

  it("report a replaced session once, however often its cookies are presented", async () => {
    const ended: string[] = [];
    const sessions = testSessions({
      ...publicSignIn,
      onEvent: (event) => void (event.type === "revoked" && ended.push(event.endedBy)),
    });
    const server = serve(sessions, async () => {});
    const { access, refresh: token } = await issueOn(sessions, "cookie");
    for (let i = 0; i < 3; i++) {
      await server.call(signIn, {}, { access, refresh: token, headers: page });
    }
    expect(ended).toEqual(["replaced"]);
  });
});

describe("two instances on one store", () => {
  it("closing one leaves the other running", async () => {
    const store = memoryStore();
    const options = { issuer: "https://test.example", store };
    const [one, two] = [createSessions(options), createSessions(options)];
    await Promise.all([one.ready(), two.ready()]);
    await one.close();
    await one.close();
    expect((await two.issue({ userId: "alice" })).session.userId).toBe("alice");
    await two.close();
  });
});
