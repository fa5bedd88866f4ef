// What a client knows of its session: from one load, from any answer, and from refusals.
import { Code, ConnectError } from "@connectrpc/connect";
import { describe, expect, it } from "vitest";
import { header } from "../../src/base/wire.ts";
import type { ClientTokens, TokenStore } from "../../src/client/index.ts";
import { realm } from "./helpers/fake-server.ts";
import { latch, type Setup, settle, setup, signedIn } from "./helpers/setup.ts";

/** The same browser after a reload of its page. */
function reloaded({ server, clock, jar }: Setup): Setup {
  return setup("cookie", { server, clock, jar });
}

describe("session.load() with cookies", () => {
  it("feat:P12 finds the session after a reload with one call, and keeps the valid token", async () => {
    const before = await signedIn("cookie");
    const { session, server } = reloaded(before);
    expect(session.state).toEqual({ status: "unknown" });
    const state = await session.load();
    expect(state).toEqual({ status: "signedIn", sessionId: "s1", userId: "ada", realm });
    expect(session.state).toBe(state);
    expect(server.seen.map(({ method }) => method)).toEqual(["SignIn", "Refresh"]);
    expect(server.sessions[0]?.generation).toBe(1);
  });

  it("feat:P12 refreshes an expired token with the same call", async () => {
    const before = await signedIn("cookie");
    before.server.expireAll();
    const { session, server, notes, eventTypes } = reloaded(before);
    expect(await session.load()).toMatchObject({ status: "signedIn", sessionId: "s1" });
    expect([server.count("Refresh"), server.sessions[0]?.generation]).toEqual([1, 2]);
    expect(eventTypes()).toEqual(["refreshed"]);
    await notes.addNote({});
    expect(server.count("Refresh")).toBe(1);
  });

  it("feat:P12 tells a visitor that there is no session, without an error", async () => {
    const { session, events } = setup("cookie");
    expect(await session.load()).toEqual({ status: "signedOut" });
    expect(events).toEqual([{ type: "signedOut", sessionId: undefined, by: "server" }]);
  });

  it("feat:P12 tells that the session is over, without an error", async () => {
    const before = await signedIn("cookie");
    const { session, server } = reloaded(before);
    server.refreshError = (id) => server.over(undefined, id);
    server.expireAll();
    expect((await session.load()).status).toBe("signedOut");
  });

  it("feat:P12 is one call for concurrent loads, and none once the state is known", async () => {
    const { session, server } = reloaded(await signedIn("cookie"));
    const states = await Promise.all([session.load(), session.load(), session.load()]);
    expect(new Set(states).size).toBe(1);
    expect(await session.load()).toBe(states[0]);
    expect(server.count("Refresh")).toBe(1);
  });

  it("feat:P12 throws Unavailable in an outage, and the next load asks again", async () => {
    const { session, server } = reloaded(await signedIn("cookie"));
    server.expireAll();
    server.refreshError = () => new ConnectError("down", Code.Internal);
    await expect(session.load()).rejects.toMatchObject({ code: Code.Unavailable });
    expect(session.state).toEqual({ status: "unknown" });
    server.refreshError = undefined;
    expect((await session.load()).status).toBe("signedIn");
  });

  it("feat:P12 stops waiting with its signal and at its timeout", async () => {
    const { session, server, clock } = reloaded(await signedIn("cookie"));
    const slow = latch();
    server.hold.Refresh = slow.promise;
    const late = session.load({ timeoutMs: 500 }).catch((error: ConnectError) => error.code);
    await settle();
    clock.advance(500);
    expect(await late).toBe(Code.DeadlineExceeded);
    const aborted = session.load({ signal: AbortSignal.abort() });
    await expect(aborted).rejects.toMatchObject({ code: Code.Canceled });
    slow.open();
    expect((await session.load()).status).toBe("signedIn");
  });

  it("feat:P12 follows a sign-in that ends first", async () => {
    const { session, server, notes } = setup("cookie");
    const slow = latch();
    server.hold.Refresh = slow.promise;
    const loading = session.load();
    await settle();
    await notes.signIn({});
    slow.open();
    expect(await loading).toMatchObject({ status: "signedIn", sessionId: "s1" });
  });

  it("feat:P12 does not hide that a forced refresh was asked for meanwhile", async () => {
    const { session, server } = reloaded(await signedIn("cookie"));
    const slow = latch();
    server.hold.Refresh = slow.promise;
    const both = [session.load(), session.refresh()];
    await settle();
    slow.open();
    await Promise.all(both);
    expect(server.sessions[0]?.generation).toBe(2);
  });

  it("feat:P14 reports once that CORS does not expose the headers, and every load says what to change", async () => {
    const before = await signedIn("cookie");
    const { session, server, events } = reloaded(before);
    const notice = server.notice.bind(server);
    server.notice = () => "";
    for (const load of [session.load(), session.load()]) {
      await expect(load).rejects.toMatchObject({
        code: Code.FailedPrecondition,
        rawMessage: expect.stringContaining("expose the rpcsession-* response headers with CORS"),
      });
    }
    await expect(session.load()).rejects.toThrow("expose");
    expect(session.state.status).toBe("unknown");
    expect(events.filter(({ type }) => type === "headersNotExposed")).toHaveLength(1);
    server.notice = notice;
    expect((await session.load()).status).toBe("signedIn");
  });
});

describe("session.load() with tokens in headers", () => {
  const storeOf = (kept: ClientTokens | undefined): TokenStore => ({
    transport: "header",
    load: async () => kept,
    save: (tokens) => {
      kept = tokens;
    },
  });

  async function tokensOf({ notes, session }: Setup, saved: () => ClientTokens | undefined) {
    await notes.signIn({});
    expect(session.state.status).toBe("signedIn");
    return saved();
  }

  async function stored(): Promise<[Setup, ClientTokens | undefined]> {
    let saved: ClientTokens | undefined;
    const tokens: TokenStore = {
      transport: "header",
      load: () => undefined,
      save: (value) => {
        saved = value;
      },
    };
    const made = setup("header", { tokens });
    return [made, await tokensOf(made, () => saved)];
  }

  it("feat:P12 makes no call while the stored token is valid", async () => {
    const [{ server, clock }, tokens] = await stored();
    const { session } = setup("header", { server, clock, tokens: storeOf(tokens) });
    const state = await session.load();
    expect(state).toEqual({ status: "signedIn", sessionId: "s1", userId: "ada", realm });
    expect(server.count("Refresh")).toBe(0);
  });

  it("feat:P12 refreshes once if it has expired, and signs out if the session is over", async () => {
    const [{ server, clock }, tokens] = await stored();
    clock.advance(1_000_000);
    const { session } = setup("header", { server, clock, tokens: storeOf(tokens) });
    expect((await session.load()).status).toBe("signedIn");
    expect(server.count("Refresh")).toBe(1);
    clock.advance(1_000_000);
    server.refreshError = (id) => server.over(undefined, id);
    expect((await session.load()).status).toBe("signedOut");
  });

  it("feat:P12 knows without a call that an empty store means signed out", async () => {
    const { session, server } = setup("header", { tokens: storeOf(undefined) });
    expect((await session.load()).status).toBe("signedOut");
    expect(server.seen).toEqual([]);
  });

  it("feat:P12 throws Unavailable while the store fails", async () => {
    const load = async (): Promise<never> => {
      throw new Error("locked");
    };
    const { session } = setup("header", { tokens: { ...storeOf(undefined), load } });
    await expect(session.load()).rejects.toMatchObject({ code: Code.Unavailable });
    expect(session.state.status).toBe("unknown");
  });
});

describe("the state after any answer", () => {
  it("feat:P13 the first successful call after a reload tells the session", async () => {
    const { session, notes, server } = reloaded(await signedIn("cookie"));
    await notes.addNote({});
    expect(session.state).toEqual({ status: "signedIn", sessionId: "s1", userId: "ada", realm });
    expect(server.count("Refresh")).toBe(0);
    await notes.addNote({});
    expect(server.last("AddNote").get(header.session)).toBe("s1");
  });

  it("feat:P13 a refused call tells a visitor that there is no session, with an event", async () => {
    const { session, notes, events } = setup("cookie");
    await expect(notes.addNote({})).rejects.toMatchObject({ code: Code.Unauthenticated });
    expect(session.state.status).toBe("signedOut");
    expect(events).toEqual([{ type: "signedOut", sessionId: undefined, by: "server" }]);
  });

  it("feat:P13 a call that was sent before the sign-in tells nothing", async () => {
    const { session, notes, server } = setup("cookie");
    const gate = latch();
    server.hold.Gate = gate.promise;
    const early = notes.addNote({}).catch(String);
    await settle();
    await notes.signIn({});
    gate.open();
    await early;
    expect(session.state).toMatchObject({ status: "signedIn", sessionId: "s1" });
  });

  it("feat:P13 a visitor's client still refreshes for a session that a page outside of it has begun", async () => {
    const { session, notes, server, clock, jar } = setup("cookie");
    await session.load();
    await silent({ server, clock, jar });
    server.expireAll();
    await expect(notes.addNote({})).rejects.toMatchObject({ code: Code.Unauthenticated });
    await notes.addNote({});
    expect(session.state).toMatchObject({ status: "signedIn", sessionId: "s1" });
  });

  it("feat:P13 after a switch of user outside of it, the first answer changes the state before its data is there", async () => {
    const one = await signedIn("cookie");
    const { session, notes, server, clock, jar, events } = one;
    await silent({ server, clock, jar, user: "bob" });
    const seen: unknown[] = [];
    session.subscribe(({ userId }) => seen.push(userId));
    await notes.addNote({}).then(() => seen.push("data"));
    expect(seen).toEqual(["bob", "data"]);
    expect(events.at(-1)).toEqual({ type: "signedIn", sessionId: "s2", realm });
  });

  it("feat:P13 a session that this client has signed out does not come back by an answer", async () => {
    const one = reloaded(await signedIn("cookie"));
    const cookies = [...one.jar];
    await one.session.signOut();
    for (const [name, value] of cookies) {
      one.jar.set(name, value);
    }
    for (const session of one.server.sessions) {
      session.live = true;
    }
    await expect(one.notes.addNote({})).rejects.toMatchObject({ code: Code.Unauthenticated });
    expect(one.session.state.status).toBe("signedOut");
  });
});

/** Signs in without the client and without a word to its tabs, as a callback of a provider does. */
async function silent({
  server,
  clock,
  jar,
  user = "ada",
}: Pick<Setup, "server" | "clock" | "jar"> & { user?: string }): Promise<void> {
  server.user = user;
  const other = setup("cookie", { server, clock, jar });
  other.session.close();
  await other.notes.signIn({});
}
