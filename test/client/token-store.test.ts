import { Code } from "@connectrpc/connect";
import { describe, expect, it } from "vitest";
import { type ClientTokens, memoryTokens, type TokenStore } from "../../src/client/index.ts";
import { realm } from "./helpers/fake-server.ts";
import { latch, settle, setup, signedIn } from "./helpers/setup.ts";

/** An asynchronous store that can be delayed and made to fail. */
function asyncStore(initial?: ClientTokens) {
  const store = {
    kept: initial,
    saves: 0,
    wait: Promise.resolve() as Promise<void>,
    fail: false,
    transport: "header" as const,
    async load(): Promise<ClientTokens | undefined> {
      const { fail } = store;
      await store.wait;
      if (fail) {
        throw new RangeError("secret in a message");
      }
      return store.kept;
    },
    async save(tokens: ClientTokens | undefined): Promise<void> {
      store.saves += 1;
      await store.wait;
      if (store.fail) {
        throw new RangeError("secret in a message");
      }
      store.kept = tokens;
    },
  };
  return store satisfies TokenStore;
}

async function tokensOf(): Promise<{
  made: Awaited<ReturnType<typeof signedIn>>;
  kept: ClientTokens;
}> {
  const store = asyncStore();
  const made = await signedIn("header", { tokens: store });
  await settle();
  return { made, kept: store.kept as ClientTokens };
}

describe("a custom TokenStore", () => {
  it("feat:P9 holds everything that another process needs to continue the session", async () => {
    const { made, kept } = await tokensOf();
    expect(kept).toMatchObject({ session: "s1", realm, generation: 1, receivedAt: 1_000_000 });
    const { server, clock } = made;
    clock.advance(720_000);
    const again = setup("header", {
      server,
      clock,
      tokens: asyncStore(JSON.parse(JSON.stringify(kept))),
    });
    expect(again.session.state.status).toBe("unknown");
    await again.notes.addNote({});
    await settle();
    expect(again.session.state).toEqual({
      status: "signedIn",
      sessionId: "s1",
      userId: "ada",
      realm,
    });
    expect(server.count("Refresh")).toBe(1);
  });

  it("delays the first call until it has loaded, but not beyond the call's deadline", async () => {
    const { made, kept } = await tokensOf();
    const store = asyncStore(kept);
    const slow = latch();
    store.wait = slow.promise;
    const { notes } = setup("header", { server: made.server, clock: made.clock, tokens: store });
    await expect(notes.addNote({}, { timeoutMs: 20 })).rejects.toThrow(/timed out/);
    const call = notes.addNote({});
    slow.open();
    await call;
    expect(made.server.count("AddNote")).toBe(1);
  });

  it("that fails to load does not sign the user out and is tried again", async () => {
    const { made, kept } = await tokensOf();
    const store = asyncStore(kept);
    store.fail = true;
    const again = setup("header", { server: made.server, clock: made.clock, tokens: store });
    await settle();
    expect(again.session.state.status).toBe("unknown");
    expect(again.events[0]).toEqual({
      type: "storeFailed",
      operation: "load",
      error: "RangeError",
    });
    store.fail = false;
    await again.notes.addNote({});
    expect(again.session.state.status).toBe("signedIn");
  });

  it("that answers synchronously again when a call is sent supplies the tokens of that call", async () => {
    const { made, kept } = await tokensOf();
    let failures = 2;
    const tokens: TokenStore = {
      ...memoryTokens(kept),
      load() {
        if (failures > 0) {
          failures -= 1;
          throw new RangeError("locked");
        }
        return kept;
      },
    };
    const again = setup("header", { server: made.server, clock: made.clock, tokens });
    await again.notes.addNote({});
    expect(failures).toBe(0);
    expect(again.session.state.status).toBe("signedIn");
  });

  it("that fails to save is reported while the session continues", async () => {
    const store = asyncStore();
    store.fail = true;
    const { notes, events, session, server } = setup("header", { tokens: store });
    await notes.signIn({});
    await settle();
    server.expireAll();
    await notes.addNote({});
    expect(session.state.status).toBe("signedIn");
    expect(events).toContainEqual({ type: "storeFailed", operation: "save", error: "RangeError" });
    expect(JSON.stringify(events)).not.toContain("secret");
  });

  it("that is slow delays no call and receives the newest tokens last", async () => {
    const store = asyncStore();
    const { notes, session } = setup("header", { tokens: store });
    await settle();
    const slow = latch();
    store.wait = slow.promise;
    await notes.signIn({});
    await notes.signIn({});
    await notes.signIn({});
    expect(session.state.sessionId).toBe("s3");
    slow.open();
    await settle();
    expect(store.kept?.session).toBe("s3");
    expect(store.saves).toBeLessThanOrEqual(2);
  });

  it("is cleared by a sign-out during the load, which also ends the session on the server", async () => {
    const { made, kept } = await tokensOf();
    const store = asyncStore(kept);
    const slow = latch();
    store.wait = slow.promise;
    const { session } = setup("header", { server: made.server, clock: made.clock, tokens: store });
    const signingOut = session.signOut();
    slow.open();
    await signingOut;
    expect(session.state.status).toBe("signedOut");
    expect(store.kept).toBeUndefined();
    expect(made.server.sessions[0]?.live).toBe(false);
  });

  it("makes a refresh unnecessary if it holds tokens that another client has refreshed", async () => {
    const { made, kept } = await tokensOf();
    const store = asyncStore(kept);
    const options = { server: made.server, clock: made.clock, tokens: store };
    const [one, two] = [setup("header", options), setup("header", options)];
    await Promise.all([one.notes.addNote({}), two.notes.addNote({})]);
    made.server.expireAll();
    await one.notes.addNote({});
    await settle();
    await two.notes.addNote({});
    expect(made.server.count("Refresh")).toBe(1);
  });

  it("that hangs delays a refresh by at most refreshTimeout", async () => {
    const store = asyncStore();
    const { clock, server, notes } = await signedIn("header", { tokens: store });
    await settle();
    store.wait = latch().promise;
    server.expireAll();
    const call = notes.addNote({});
    await settle();
    expect(server.count("Refresh")).toBe(0);
    clock.advance(10_000);
    await call;
    expect(server.count("Refresh")).toBe(1);
  });

  it("that hangs delays a refresh once, and not again until it has answered", async () => {
    const store = asyncStore();
    const { clock, server, notes } = await signedIn("header", { tokens: store });
    await settle();
    const hung = latch();
    store.wait = hung.promise;
    server.expireAll();
    const call = notes.addNote({});
    await settle();
    clock.advance(10_000);
    await call;
    server.expireAll();
    await notes.addNote({});
    expect(server.count("Refresh")).toBe(2);
    hung.open();
    await settle();
    store.wait = latch().promise;
    server.expireAll();
    const late = notes.addNote({});
    await settle();
    expect(server.count("Refresh")).toBe(2);
    clock.advance(10_000);
    await late;
    expect(server.count("Refresh")).toBe(3);
  });

  it("that never answers lets public methods go on, and fails the others with Unavailable", async () => {
    const { made, kept } = await tokensOf();
    const { server, clock } = made;
    const store = asyncStore(kept);
    const hung = latch();
    store.wait = hung.promise;
    const again = setup("header", { server, clock, tokens: store });
    const { session, notes, events } = again;
    const first = notes.signIn({});
    const protectedCall = notes.addNote({}).catch((error: unknown) => error);
    await settle();
    expect(server.count("SignIn")).toBe(1);
    clock.advance(10_000);
    expect(await protectedCall).toMatchObject({
      code: Code.Unavailable,
      rawMessage: expect.stringMatching(/^the token store has not returned the tokens/),
    });
    await first;
    expect(events[0]).toEqual({ type: "storeFailed", operation: "load", error: "TimeoutError" });
    expect(session.state).toMatchObject({ status: "signedIn", sessionId: "s2" });
    hung.open();
  });

  it.each(["hangs", "fails"])("that %s is read again, and nothing is lost", async (how) => {
    const { made, kept } = await tokensOf();
    const { server, clock } = made;
    const store = asyncStore(kept);
    const hung = latch();
    if (how === "hangs") {
      store.wait = hung.promise;
    } else {
      store.fail = true;
    }
    const { session, notes } = setup("header", { server, clock, tokens: store });
    await settle();
    clock.advance(10_000);
    await settle();
    const unavailable = { code: Code.Unavailable };
    // Nothing waits for the store any more: the clock stands still.
    await expect(notes.addNote({})).rejects.toMatchObject(unavailable);
    await expect(session.refresh()).rejects.toMatchObject(unavailable);
    const stream = notes.watchNotes({})[Symbol.asyncIterator]();
    await expect(stream.next()).rejects.toMatchObject(unavailable);
    const upload = notes.importNotes(
      (async function* () {
        yield {};
      })(),
    );
    await expect(upload).rejects.toMatchObject(unavailable);
    expect(session.state.status).toBe("unknown");
    store.fail = false;
    hung.open();
    await settle();
    await notes.addNote({});
    expect(session.state).toMatchObject({ status: "signedIn", sessionId: "s1" });
  });

  it.each(["hangs", "fails"])(
    "that %s makes a sign-out report that the session may still exist",
    async (how) => {
      const { made, kept } = await tokensOf();
      const { server, clock } = made;
      const store = asyncStore(kept);
      store.load = how === "hangs" ? () => latch().promise as never : () => Promise.reject(how);
      const { session } = setup("header", { server, clock, tokens: store });
      await settle();
      const done = session.signOut().catch((error: unknown) => error);
      await settle();
      clock.advance(10_000);
      expect(await done).toMatchObject({ code: Code.Unavailable });
      expect(session.state.status).toBe("signedOut");
      expect(server.count("SignOut")).toBe(0);
      await settle();
      expect(store.kept).toBeUndefined();
    },
  );

  it("that hangs while it saves is reported and keeps the order of saves", async () => {
    const store = asyncStore();
    const { notes, events, clock } = setup("header", { tokens: store });
    await settle();
    const hung = latch();
    store.wait = hung.promise;
    await notes.signIn({});
    await notes.signIn({});
    clock.advance(10_000);
    expect(events.filter(({ type }) => type === "storeFailed")).toEqual([
      { type: "storeFailed", operation: "save", error: "TimeoutError" },
    ]);
    expect(store.saves).toBe(1);
    hung.open();
    await settle();
    expect(store.kept?.session).toBe("s2");
    expect(clock.pending).toBe(0);
  });

  it.each([["text"], [{}], [{ session: "s1" }], [7]])(
    "is reported as failed if it returns %j",
    async (junk) => {
      const { session, events } = setup("header", { tokens: memoryTokens(junk as never) });
      await settle();
      expect(session.state.status).toBe("unknown");
      expect(events[0]).toMatchObject({ type: "storeFailed", operation: "load" });
    },
  );

  it.each([
    ...["session", "realm", "accessToken", "refreshToken"].flatMap((name) => [
      [name, 5],
      [name, ""],
    ]),
    ...["session", "realm", "accessToken"].map((name) => [name, undefined]),
    ...["generation", "claimsVersion", "expiresAt", "expiresIn", "receivedAt"].flatMap((name) => [
      [name, "5"],
      [name, undefined],
      [name, Number.NaN],
    ]),
  ] as [string, unknown][])(
    "is reported as failed if `%s` of its tokens is %j",
    async (name, value) => {
      const { kept } = await tokensOf();
      const tokens = memoryTokens({ ...kept, [name]: value } as never);
      const { session, events } = setup("header", { tokens });
      await settle();
      expect(session.state).toEqual({ status: "unknown" });
      expect(events).toEqual([{ type: "storeFailed", operation: "load", error: "TypeError" }]);
    },
  );

  it("may hold tokens without a refresh token", async () => {
    const { kept } = await tokensOf();
    const { refreshToken: _, ...rest } = kept;
    const { session } = setup("header", { tokens: memoryTokens(rest) });
    expect(session.state).toEqual({ status: "signedIn", sessionId: "s1", userId: "ada", realm });
  });

  it("counts as empty if its tokens belong to a realm other than the realm option", async () => {
    const { kept } = await tokensOf();
    const { session } = setup("header", { realm: "https://mine", tokens: memoryTokens(kept) });
    expect(session.state.status).toBe("signedOut");
  });
});
