import { describe, expect, it } from "vitest";
import { type ClientTokens, memoryTokens, type TokenStore } from "../../src/client/index.ts";
import { realm } from "./helpers/fake-server.ts";
import { latch, settle, setup, signedIn } from "./helpers/setup.ts";

/** A store on some disk: answers later, and can be made to fail. */
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
  it("feat:P9 keeps what is needed to go on in another process", async () => {
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
    expect(again.session.state).toEqual({ status: "signedIn", sessionId: "s1", realm });
    expect(server.count("Refresh")).toBe(1);
  });

  it("is waited for by the first call, and no longer than its signal", async () => {
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

  it("that fails to load signs nobody out, and is tried again", async () => {
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

  it("that fails to save is reported; the session goes on", async () => {
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

  it("that is slow keeps nobody waiting, and gets the newest last", async () => {
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

  it("is cleared by a sign-out while it is loading, which ends the session too", async () => {
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

  it("that another client refreshed spares a refresh", async () => {
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

  it("that hangs holds no refresh for longer than a refresh may take", async () => {
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

  it.each([["text"], [{}], [{ session: "s1" }], [7]])("refuses %j", async (junk) => {
    const { session, events } = setup("header", { tokens: memoryTokens(junk as never) });
    await settle();
    expect(session.state.status).toBe("unknown");
    expect(events[0]).toMatchObject({ type: "storeFailed", operation: "load" });
  });

  it("of another realm than the pinned one counts as empty", async () => {
    const { kept } = await tokensOf();
    const { session } = setup("header", { realm: "https://mine", tokens: memoryTokens(kept) });
    expect(session.state.status).toBe("signedOut");
  });
});
