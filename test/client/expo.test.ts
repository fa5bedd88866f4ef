// An app of React Native whose tokens are in expo-secure-store, against real sessions.
import { createClient, createRouterTransport } from "@connectrpc/connect";
import type { SessionEvent } from "rpc-session";
import { testSessions } from "rpc-session/testing";
import { describe, expect, it, onTestFinished, vi } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import {
  followAppState,
  type SecureStoreOptions,
  secureStoreTokens,
} from "../../src/client/expo/index.ts";
import { createSessionClient, type SessionClientEvent } from "../../src/client/index.ts";
import { FakeAppState, Installation, Keychain } from "./helpers/phone.ts";
import { settle } from "./helpers/setup.ts";

/** A service whose sessions have a claim of `size` characters, and a phone. */
function setup(size = 10) {
  const seen: SessionEvent[] = [];
  const asked: string[] = [];
  const network = { isDown: false };
  const sessions = testSessions({
    public: [NotesService.method.signIn],
    onEvent: (event) => seen.push(event),
  });
  onTestFinished(() => sessions.close());
  const { routes, ...router } = sessions.protect({
    routes: (served) =>
      served.service(NotesService, {
        async signIn({ user }, context) {
          await sessions.create(context, { userId: user, claims: { about: "é".repeat(size) } });
          return {};
        },
        listNotes: (_request, context) => ({ notes: [{ text: sessions.require(context).userId }] }),
      }),
  });
  const keychain = new Keychain();
  const installation = new Installation();
  const start = (options: SecureStoreOptions = { appStorage: installation }) => {
    const events: SessionClientEvent[] = [];
    const session = createSessionClient({
      clock: sessions.clock,
      tokens: secureStoreTokens(keychain.module(), options),
      onEvent: (event) => events.push(event),
      transport: ({ interceptors }) =>
        createRouterTransport(routes, {
          router,
          transport: {
            interceptors: [
              ...interceptors,
              (next) => (request) => {
                asked.push(request.method.name);
                if (network.isDown) {
                  throw new TypeError("Network request failed");
                }
                return next(request);
              },
            ],
          },
        }),
    });
    const notes = createClient(NotesService, session.transport);
    const user = async () => (await notes.listNotes({})).notes[0]?.text;
    return { session, notes, user, events };
  };
  return { sessions, seen, asked, network, keychain, start };
}

describe("tokens in expo-secure-store", () => {
  it.each([
    ["short tokens are one item", 10, 1],
    ["tokens over 2048 bytes are several", 900, 3],
  ])("feat:P9 %s, and the next start of the app is signed in", async (_, size, items) => {
    const { start, keychain, sessions } = setup(size);
    const first = start();
    await first.notes.signIn({ user: "ada" });
    await settle();
    expect(keychain.items.size).toBe(items);
    sessions.clock.advance("1h");
    const next = start();
    expect(await next.user()).toBe("ada");
    expect(next.session.state.status).toBe("signedIn");
  });

  it("a sign-out leaves nothing in the keychain", async () => {
    const { start, keychain } = setup(900);
    const { session, notes } = start();
    await notes.signIn({ user: "ada" });
    await session.signOut();
    await settle();
    expect(keychain.items.size).toBe(0);
    expect(start().session.state.status).toBe("unknown");
    await settle();
    await expect(start().user()).rejects.toThrow("unauthenticated");
  });

  it("every item is readable while the phone is locked, and never on another phone", async () => {
    const { start, keychain } = setup(900);
    await start().notes.signIn({ user: "ada" });
    await settle();
    expect(new Set([...keychain.items.values()].map(({ accessible }) => accessible))).toEqual(
      new Set([keychain.module().AFTER_FIRST_UNLOCK_THIS_DEVICE_ONLY]),
    );
    keychain.isLocked = true;
    expect(await start().user()).toBe("ada");
  });

  it("an app that is killed at any write of a refresh continues without an alarm", async () => {
    for (let writes = 0; ; writes += 1) {
      const { start, keychain, sessions, seen } = setup(900);
      const first = start();
      await first.notes.signIn({ user: "ada" });
      sessions.clock.advance("2m");
      await first.user(); // from now on, a refresh gives a new refresh token
      await settle();
      sessions.clock.advance("12m");
      keychain.changes = 0;
      keychain.killAfter = writes;
      await first.session.refresh();
      await settle();
      const isKilled = keychain.changes > writes;

      keychain.killAfter = Number.POSITIVE_INFINITY;
      for (let starts = 0; starts < 3; starts += 1) {
        sessions.clock.advance("20m");
        expect(await start().user(), `killed after ${writes} writes`).toBe("ada");
        await settle();
      }
      expect(seen.filter(({ type }) => type === "theft")).toEqual([]);
      expect(keychain.items.size).toBe(3);
      if (!isKilled) {
        expect(writes).toBeGreaterThan(4);
        return;
      }
    }
  });

  it("after a kill in the middle of a save the store holds the former tokens or the new ones", async () => {
    const tokensOf = (letter: string, size: number) => ({
      ...{ session: letter, realm: "r", accessToken: letter.repeat(size), generation: 0 },
      ...{ claimsVersion: 0, expiresAt: 0, expiresIn: 0, receivedAt: 0, refreshToken: letter },
    });
    const sizes = [10, 3000, 5000, 16_000];
    for (const [from, to] of sizes.flatMap((a) => sizes.map((b) => [a, b] as const))) {
      const [former, next] = [tokensOf("f", from), tokensOf("n", to)];
      for (let writes = 0, isKilled = true; isKilled; writes += 1) {
        const keychain = new Keychain();
        const open = () => secureStoreTokens(keychain.module(), { keepAfterUninstall: true });
        await open().save(former);
        keychain.changes = 0;
        keychain.killAfter = writes;
        void open().save(next);
        await settle();
        isKilled = keychain.changes > writes;
        keychain.killAfter = Number.POSITIVE_INFINITY;
        const kept = await open().load();
        expect([former, next]).toContainEqual(kept);
        // Nothing is left of either after the next saves.
        await open().save(next);
        expect(keychain.values.join("")).not.toContain("ff");
        await open().save(undefined);
        expect(keychain.values).toEqual([]);
      }
    }
  });

  it("what an earlier installation has left in the keychain signs nobody in", async () => {
    const { start, keychain } = setup(900);
    await start().notes.signIn({ user: "ada" });
    await settle();
    expect(keychain.items.size).toBe(3);
    const again = start({ appStorage: new Installation() });
    await expect(again.user()).rejects.toThrow("unauthenticated");
    expect(again.session.state.status).toBe("signedOut");
    expect(keychain.items.size).toBe(0);
  });

  it("with keepAfterUninstall the next installation is signed in", async () => {
    const { start } = setup();
    await start({ keepAfterUninstall: true }).notes.signIn({ user: "ada" });
    await settle();
    expect(await start({ keepAfterUninstall: true }).user()).toBe("ada");
  });

  it("a keychain that cannot be read is an outage, and signs nobody out", async () => {
    const { start, keychain } = setup();
    const options = { keepAfterUninstall: true, keychainAccessible: 5 };
    await start(options).notes.signIn({ user: "ada" });
    await settle();
    keychain.isLocked = true;
    const locked = start(options);
    await expect(locked.user()).rejects.toThrow("[unavailable]");
    expect(locked.events).toContainEqual({
      type: "storeFailed",
      operation: "load",
      error: "Error",
    });
    keychain.isLocked = false;
    expect(await locked.user()).toBe("ada");
  });

  it("an item that is not ours is no session", async () => {
    const { start, keychain } = setup();
    for (const value of ["a3", "b9", "hello", ""]) {
      keychain.items.set("rpc-session", { value, accessible: 1 });
      const app = start({ keepAfterUninstall: true });
      await expect(app.user()).rejects.toThrow("unauthenticated");
      await app.notes.signIn({ user: "ada" });
      await settle();
      expect(await start({ keepAfterUninstall: true }).user()).toBe("ada");
    }
  });

  it("tokens of more than 16 kB are reported and not cut", async () => {
    const keychain = new Keychain();
    const store = secureStoreTokens(keychain.module(), { keepAfterUninstall: true });
    const tokens = {
      ...{ session: "s", realm: "r", accessToken: "x".repeat(17_000), generation: 0 },
      ...{ claimsVersion: 0, expiresAt: 0, expiresIn: 0, receivedAt: 0 },
    };
    await expect(store.save(tokens)).rejects.toThrow("put fewer claims into the session");
    expect(keychain.items.size).toBe(0);
    await store.save({ ...tokens, accessToken: "x".repeat(16_000) });
    expect(await store.load()).toMatchObject({ accessToken: "x".repeat(16_000) });
  });

  it("throws for options that would surprise", () => {
    const module = new Keychain().module();
    const make = (...[store, options]: unknown[]) =>
      secureStoreTokens(store as never, options as never);
    expect(() => make(module, {})).toThrow("pass appStorage, such as AsyncStorage");
    expect(() =>
      make(module, { appStorage: new Installation(), keepAfterUninstall: true }),
    ).toThrow("not both");
    expect(() => make(module, { keepAfterUninstall: true, key: "my tokens" })).toThrow(
      'key must consist of letters, digits, ".", "-" and "_", got "my tokens"',
    );
    expect(() => make(module, { keepAfterUninstal: true })).toThrow('unknown option "keepAfter');
    expect(() => make({}, { keepAfterUninstall: true })).toThrow("import * as SecureStore");
    vi.stubGlobal("document", {});
    onTestFinished(() => void vi.unstubAllGlobals());
    expect(() => make(module, { keepAfterUninstall: true })).toThrow("pass tokens: cookieTokens()");
  });
});

describe("an app in the background", () => {
  it("feat:P9 refreshes nothing there, and once on its return if a refresh is due", async () => {
    const { start, sessions, asked } = setup();
    const { session, notes, user } = start();
    const app = new FakeAppState();
    const stop = followAppState(session, app);
    await notes.signIn({ user: "ada" });
    app.change("inactive", "active");
    await settle();
    expect(session.state.status).toBe("signedIn");

    app.change("inactive", "background");
    sessions.clock.advance("1h");
    await settle();
    expect(asked).toEqual(["SignIn"]);

    app.change("active", "inactive", "active");
    await settle();
    expect(asked).toEqual(["SignIn", "Refresh"]);
    expect(await user()).toBe("ada");
    expect(asked).toEqual(["SignIn", "Refresh", "ListNotes"]);

    stop();
    expect(app.listeners.size).toBe(0);
  });

  it("saves on its return what could not be saved while the phone was locked", async () => {
    const { start, sessions, keychain, seen } = setup();
    const options = { keepAfterUninstall: true, keychainAccessible: 5 };
    const { session, notes, user, events } = start(options);
    const app = new FakeAppState();
    followAppState(session, app);
    await notes.signIn({ user: "ada" });
    sessions.clock.advance("2m");
    await user(); // from now on, a refresh gives a new refresh token
    await settle();
    app.change("background");
    keychain.isLocked = true;
    sessions.clock.advance("20m");
    // A call in the background, for example after a push message.
    expect(await user()).toBe("ada");
    await settle();
    expect(events).toContainEqual({ type: "storeFailed", operation: "save", error: "Error" });
    keychain.isLocked = false;
    app.change("active");
    await settle();

    // The app uses the new tokens for a while, which confirms them. Then it is killed. Without the
    // second save, the next start would present a refresh token that looks stolen.
    for (let calls = 0; calls < 3; calls += 1) {
      sessions.clock.advance("3m");
      expect(await user()).toBe("ada");
      await settle();
    }
    sessions.clock.advance("20m");
    expect(await start(options).user()).toBe("ada");
    expect(seen.map(({ type }) => type).filter((type) => type !== "warning")).toEqual([
      ...["created", "refreshed", "refreshed"],
    ]);
  });

  it("tries again on its return, without the pause after a failure in the background", async () => {
    const { start, sessions, asked, network } = setup();
    const { session, notes, user } = start();
    const app = new FakeAppState();
    followAppState(session, app);
    await notes.signIn({ user: "ada" });
    sessions.clock.advance("13m");
    network.isDown = true;
    await expect(user()).rejects.toThrow("Network request failed");
    await settle();
    network.isDown = false;
    asked.length = 0;
    app.change("background", "active");
    await settle();
    expect(asked).toEqual(["Refresh"]);
  });

  it("an app that the system killed after a refresh continues with what it has saved", async () => {
    const { start, sessions, seen } = setup();
    const first = start();
    await first.notes.signIn({ user: "ada" });
    sessions.clock.advance("14m");
    await first.user();
    await settle();
    sessions.clock.advance("3h");
    expect(await start().user()).toBe("ada");
    expect(seen.map(({ type }) => type).filter((type) => type !== "warning")).toEqual([
      "created",
      "refreshed",
      "refreshed",
    ]);
  });

  it("throws for a session that createSessionClient did not make", () => {
    expect(() => followAppState({} as never, new FakeAppState())).toThrow("createSessionClient");
  });
});
