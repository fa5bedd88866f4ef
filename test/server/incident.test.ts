import { base64Encode } from "@bufbuild/protobuf/wire";
import { Code } from "@connectrpc/connect";
import type { JsonObject, SessionStore, SessionsOptions } from "rpc-session";
import { memoryStore } from "rpc-session/stores/memory";
import {
  createFakeClock,
  type FakeClock,
  type TestSessions,
  testSessions,
} from "rpc-session/testing";
import { describe, expect, it, vi } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { Action, Tokens } from "../../gen/rpcsession/v1/hint_pb.ts";
import { SessionService } from "../../gen/rpcsession/v1/service_pb.ts";
import { openSecretRing, readSecretOption } from "../../src/base/crypto.ts";
import { loadKey } from "../../src/engine/keys/sealed.ts";
import { fromPayload, type TokenClaims } from "../../src/jwt/claims.ts";
import { signAccessToken } from "../../src/jwt/keys.ts";
import { payloadOf } from "../helpers/api.ts";
import { clearsCookies, cookieEffects } from "../helpers/exchanges.ts";
import { issueOn } from "../helpers/refreshing.ts";
import { watchedStore } from "../helpers/watched-store.ts";
import { type WireServer, wireServer } from "../helpers/wire-server.ts";

const { addNote } = NotesService.method;
const { refresh, signOut } = SessionService.method;
const issuer = "https://test.example";
const [leaked, next] = ["the leaked secret, of 32 bytes!!", "the next secret, of 32 bytes too"];

interface Server {
  readonly sessions: TestSessions;
  readonly server: WireServer;
}

/** A server over the store. */
async function serve(
  store: SessionStore,
  clock: FakeClock,
  options: Omit<Partial<SessionsOptions>, "clock" | "store"> = {},
): Promise<Server> {
  const sessions = testSessions({ store, clock, ...options });
  await sessions.ready();
  const routes: Parameters<TestSessions["protect"]>[0]["routes"] = (router) =>
    router.service(NotesService, { addNote: async () => ({}) });
  return { sessions, server: wireServer(sessions.protect({ routes })) };
}

/** What somebody signs who has the store and the secret: an access token of any session. */
async function forge(store: SessionStore, accessToken: string): Promise<string> {
  const [key] = (await store.signingKeys()).keys;
  const ring = await openSecretRing(readSecretOption(leaked), issuer);
  const { signing } = await loadKey(key as NonNullable<typeof key>, ring);
  const claims = fromPayload(payloadOf(accessToken) as JsonObject) as TokenClaims;
  return signAccessToken({ ...claims, jti: "forged" }, signing as NonNullable<typeof signing>);
}

function idOf(refreshToken: string): string {
  return refreshToken.slice(0, 8);
}

const actions = Object.fromEntries(Object.entries(Action).map(([name, value]) => [value, name]));

/** The answer to a call: "ok", or its code and hint. */
async function callWith({ server }: Server, bearer: string): Promise<string> {
  const { error, hint } = await server.call(addNote, {}, { bearer });
  return error === undefined ? "ok" : `${Code[error.code]} ${actions[hint?.action ?? 0]}`;
}

/** Waits until a server knows a key that began to sign at once: it reads the change log on its own. */
async function becomesOk(server: Server, bearer: string): Promise<void> {
  await vi.waitFor(async () => expect(await callWith(server, bearer)).toBe("ok"), 20_000);
}

/** Waits for work that a server does only once every server knows the new signing key. */
async function onceKnown<T>(clock: FakeClock, work: Promise<T>): Promise<T> {
  let isDone = false;
  const ended = work.finally(() => {
    isDone = true;
  });
  while (!isDone) {
    clock.advance("1s");
    await Promise.race([ended, new Promise((resolve) => setTimeout(resolve, 20))]);
  }
  return ended;
}

/** Two servers with the leaked secret, and what was issued before anybody noticed. */
async function leak() {
  const clock = createFakeClock();
  const watched = watchedStore(memoryStore());
  const { store } = watched;
  const before = [
    await serve(store, clock, { secret: leaked }),
    await serve(store, clock, { secret: leaked }),
  ] as const;
  const cookie = await issueOn(before[0].sessions, "cookie");
  const header = await issueOn(before[0].sessions, "header");
  const forged = await forge(store, header.access);
  expect(await callWith(before[1], forged)).toBe("ok");
  clock.advance("1s");
  return { clock, store, watched, before, cookie, header, forged };
}

describe("feat:H12 a leaked secret that was replaced and dropped at once", () => {
  it.each([
    ["its id", (id: string) => id],
    ["the secret", () => leaked],
    ["the secret as bytes", () => new TextEncoder().encode(leaked)],
  ])(
    "is dead by the option with %s: users sign in again, and forged tokens are refused on every server",
    async (_, declared) => {
      const { clock, store, before, cookie, header, forged } = await leak();
      const options = { secret: next, deadSecrets: [declared(idOf(header.refresh))] };
      const after = [await serve(store, clock, options), await serve(store, clock, options)];
      clock.advance("6s");
      for (const one of [...after, ...before]) {
        expect(await callWith(one, forged)).toBe("Unauthenticated REFRESH");
        expect(await callWith(one, header.access)).toBe("Unauthenticated REFRESH");
      }
      for (const one of after) {
        const answer = await one.server.call(refresh, {}, { refresh: cookie.refresh });
        expect(answer.error?.code).toBe(Code.Unauthenticated);
        expect(answer.hint).toMatchObject({ action: Action.SIGN_IN, tokens: Tokens.CLEAR });
        expect(cookieEffects(answer.headers)).toEqual(clearsCookies);
        const inMessage = await one.server.call(refresh, { refreshToken: header.refresh }, {});
        expect(inMessage.hint).toMatchObject({ action: Action.SIGN_IN, tokens: Tokens.CLEAR });
      }
      const again = await issueOn(after[0]?.sessions as TestSessions, "header");
      for (const one of [...after, ...before]) {
        expect(await callWith(one, again.access)).toBe("ok");
      }
    },
  );

  it("is dead by sessions.secrets.retire, also on servers that still have it, which create no more sessions", async () => {
    const { clock, store, before, header, forged } = await leak();
    const after = await serve(store, clock, { secret: next });
    expect(await after.sessions.secrets.retire(idOf(header.refresh))).toEqual([
      idOf(header.refresh),
    ]);
    expect(await callWith(after, forged)).toBe("Unauthenticated REFRESH");
    clock.advance("6s");
    for (const { sessions, server } of before) {
      expect(await callWith({ sessions, server }, forged)).toBe("Unauthenticated REFRESH");
      await expect(sessions.issue({ userId: "alice" })).rejects.toMatchObject({
        kind: "unavailable",
      });
      const refreshed = await server.call(refresh, { refreshToken: header.refresh }, {});
      expect(refreshed.hint?.action).toBe(Action.SIGN_IN);
    }
  });

  it("stays dead by the option if an older state of the store is restored, and the store learns it again", async () => {
    const { clock, header, forged, store } = await leak();
    const { keys } = await store.signingKeys();
    const restored = memoryStore();
    await restored.open({ clock });
    await restored.recordSecrets([{ id: idOf(header.refresh), issuer }]);
    for (const key of keys) {
      await restored.addSigningKey(key);
    }
    const options = { secret: next, deadSecrets: [leaked] };
    const one = await serve(restored, clock, options);
    expect(await callWith(one, forged)).toBe("Unauthenticated REFRESH");
    const { secrets } = await restored.recordSecrets([]);
    expect(secrets.find(({ id }) => id === idOf(header.refresh))?.deadAt).toBe(clock.now());
  });

  it("lets sessions go on whose refresh token is under another secret", async () => {
    const clock = createFakeClock();
    const store = memoryStore();
    const both = await serve(store, clock, { secret: [leaked, next] });
    const old = await issueOn(both.sessions, "header");
    const moved = await serve(store, clock, { secret: [next, leaked] });
    const session = await issueOn(moved.sessions, "header");
    const forged = await forge(store, session.access);
    await moved.sessions.secrets.retire(idOf(old.refresh));
    clock.advance("6s");
    for (const one of [moved, both]) {
      expect(await callWith(one, forged)).toBe("Unauthenticated REFRESH");
      const refreshing = one.server.call(refresh, { refreshToken: session.refresh }, {});
      const answer = await onceKnown(clock, refreshing);
      expect(answer.error).toBeUndefined();
      const access = answer.headers.get("rpcsession-access-token") ?? "";
      await becomesOk(moved, access);
      await becomesOk(both, access);
    }
    // The first secret that is not dead makes new tokens.
    const fresh = await issueOn(both.sessions, "header");
    expect(idOf(fresh.refresh)).toBe(idOf(session.refresh));
  });

  it("is shown as dead, and its keys are not shown as trusted", async () => {
    const { clock, store, header, cookie } = await leak();
    const { sessions } = await serve(store, clock, { secret: [next, leaked] });
    const id = idOf(header.refresh);
    expect(await sessions.secrets.list()).toEqual(
      expect.arrayContaining([
        { id, issuer, state: "accepted", seenAt: new Date(clock.now()) },
        expect.objectContaining({ issuer, state: "current" }),
      ]),
    );
    expect(await sessions.keys.list()).toMatchObject([{ secretId: id, state: "signing" }]);
    await sessions.secrets.retire(leaked);
    const dead = (await sessions.secrets.list()).find((secret) => secret.id === id);
    expect(dead).toMatchObject({ state: "dead", deadAt: new Date(clock.now()) });
    await onceKnown(clock, sessions.issue({ userId: "alice" }));
    const keys = await sessions.keys.list();
    expect(keys.map(({ secretId }) => secretId)).not.toContain(id);
    expect((await sessions.jwks()).keys).toHaveLength(1);
    expect(idOf(cookie.refresh)).toBe(id);
  });

  it("clears the cookies at sign-out, which has nothing left to end", async () => {
    const { clock, store, cookie } = await leak();
    const { server } = await serve(store, clock, { secret: next, deadSecrets: [leaked] });
    const answer = await server.call(signOut, {}, { refresh: cookie.refresh });
    expect(answer.error).toBeUndefined();
    expect(cookieEffects(answer.headers)).toEqual(clearsCookies);
  });
});

describe("feat:H12 misuse of dead secrets", () => {
  it.each([
    [{ secret: leaked, deadSecrets: [leaked] }, /listed in both secret and deadSecrets/],
    [{ deadSecrets: ["too short"] }, /deadSecrets must hold ids/],
    [{ deadSecrets: [7 as unknown as string] }, /deadSecrets must hold ids/],
    [{ deadSecrets: Array.from({ length: 65 }, () => next) }, /at most 64 secrets, got 65/],
  ])("throws at construction: %#", (options, message) => {
    expect(() => testSessions(options)).toThrow(message);
  });

  it("is reported when the server opens, if the id of its only secret is dead", async () => {
    const { clock, store, header } = await leak();
    const options = { store, clock, secret: leaked, deadSecrets: [idOf(header.refresh)] };
    await expect(testSessions(options).ready()).rejects.toMatchObject({
      cause: { message: expect.stringContaining("every secret that was given is dead") },
    });
  });

  it("does not retire the only secret of a server, nor an id that nobody has recorded", async () => {
    const { before } = await leak();
    const [{ sessions }] = before;
    await expect(sessions.secrets.retire(leaked)).rejects.toThrow("the only one of this server");
    await expect(sessions.secrets.retire("12345678")).rejects.toThrow("no server has recorded");
    await expect(sessions.secrets.retire("1234")).rejects.toThrow("deadSecrets must hold ids");
  });
});

describe("feat:H8 a refresh token under a secret that this server does not have", () => {
  it("is Unavailable if another server has recorded it, and costs no read of the session", async () => {
    const { clock, store, watched, header } = await leak();
    const { server } = await serve(store, clock, { secret: next });
    watched.take();
    for (let i = 0; i < 10; i++) {
      const answer = await server.call(refresh, { refreshToken: header.refresh }, {});
      expect(answer.hint).toMatchObject({ action: Action.RETRY_LATER, tokens: Tokens.KEEP });
    }
    expect(watched.take()).toEqual([]);
  });

  it("is Unavailable if another server has recorded it since, once this server looks again", async () => {
    const { clock, store, header } = await leak();
    const { server } = await serve(store, clock, { secret: next });
    const refreshToken = `12345678${header.refresh.slice(8)}`;
    await store.recordSecrets([{ id: "12345678", issuer }]);
    const early = await server.call(refresh, { refreshToken }, {});
    expect(early.hint).toMatchObject({ action: Action.SIGN_IN, tokens: Tokens.KEEP });
    clock.advance("5s");
    const answer = await server.call(refresh, { refreshToken }, {});
    expect(answer.hint).toMatchObject({ action: Action.RETRY_LATER, tokens: Tokens.KEEP });
  });

  it("is refused with tokens kept if no server has recorded it, however many there are, for one read in 5 s", async () => {
    const { clock, store, watched, header } = await leak();
    const events: string[] = [];
    const { server } = await serve(store, clock, {
      secret: next,
      onEvent: ({ type }) => events.push(type),
    });
    clock.advance("5s");
    watched.take();
    events.length = 0;
    const invented = Array.from({ length: 300 }, () => {
      const id = base64Encode(crypto.getRandomValues(new Uint8Array(6)), "url");
      return id + header.refresh.slice(8);
    });
    const answers = await Promise.all(
      invented.map((refreshToken) => server.call(refresh, { refreshToken }, {})),
    );
    for (const { error, hint } of answers) {
      expect(error?.code).toBe(Code.Unauthenticated);
      expect(hint).toMatchObject({ action: Action.SIGN_IN, tokens: Tokens.KEEP });
    }
    // Besides, the servers follow the change log.
    expect(watched.take().filter((name) => name !== "changes")).toEqual(["recordSecrets"]);
    expect(events.filter((type) => type === "failed" || type === "unknownSecret")).toEqual([]);
    const cookie = await server.call(refresh, {}, { refresh: invented[0] ?? "" });
    expect(cookieEffects(cookie.headers)).toEqual([]);
  });

  it("is Unavailable while the recorded secrets cannot be read", async () => {
    const { clock, store, watched, header } = await leak();
    const { server } = await serve(store, clock, { secret: next });
    clock.advance("5s");
    watched.failing.add("recordSecrets");
    const refreshToken = `12345678${header.refresh.slice(8)}`;
    const answer = await server.call(refresh, { refreshToken }, {});
    expect(answer.hint).toMatchObject({ action: Action.RETRY_LATER, tokens: Tokens.KEEP });
  });
});

describe("feat:H12 sessions.keys", () => {
  it("rotate publishes the next key on every server at once, and it signs 10 minutes later", async () => {
    const clock = createFakeClock();
    const store = memoryStore();
    const servers = [
      await serve(store, clock, { secret: next }),
      await serve(store, clock, { secret: next }),
    ] as const;
    const [one, other] = servers;
    const [first] = await one.sessions.keys.list();
    const key = await one.sessions.keys.rotate();
    expect(key).toMatchObject({ state: "next", signsFrom: new Date(clock.now() + 600_000) });
    // Again: the key that is on its way.
    expect(await other.sessions.keys.rotate()).toEqual(key);
    clock.advance("6s");
    for (const { sessions } of servers) {
      expect((await sessions.jwks()).keys.map(({ kid }) => kid)).toEqual([first?.kid, key.kid]);
    }
    clock.advance("9m");
    expect(kidOf(await issueOn(one.sessions, "header"))).toBe(first?.kid);
    clock.advance("1m");
    const issued = await issueOn(other.sessions, "header");
    expect(kidOf(issued)).toBe(key.kid);
    expect(await callWith(one, issued.access)).toBe("ok");
    const [former] = await one.sessions.keys.list();
    expect(former).toMatchObject({ kid: first?.kid, state: "former" });
    expect(former?.trustedUntil?.getTime()).toBeGreaterThan(clock.now() + 29 * 86_400_000);
  });

  it("retire refuses what the key has signed on every server, and clients refresh", async () => {
    const clock = createFakeClock();
    const store = memoryStore();
    const one = await serve(store, clock, { secret: next });
    const other = await serve(store, clock, { secret: next });
    const issued = await issueOn(one.sessions, "header");
    const kid = kidOf(issued);
    await expect(one.sessions.keys.retire(kid)).rejects.toThrow("rotate the keys, wait a minute");
    await one.sessions.keys.rotate();
    await expect(one.sessions.keys.retire(kid)).rejects.toThrow("rotate the keys, wait a minute");
    clock.advance("1m");
    expect(await one.sessions.keys.retire(kid)).toBe(true);
    expect(await one.sessions.keys.retire(kid)).toBe(false);
    expect(await callWith(one, issued.access)).toBe("Unauthenticated REFRESH");
    clock.advance("6s");
    expect(await callWith(other, issued.access)).toBe("Unauthenticated REFRESH");
    const answer = await other.server.call(refresh, { refreshToken: issued.refresh }, {});
    const access = answer.headers.get("rpcsession-access-token") ?? "";
    await becomesOk(one, access);
    await becomesOk(other, access);
  });

  it("retire of the only key, by name, is followed by a key that every server knows before its first token", async () => {
    const clock = createFakeClock();
    const store = memoryStore();
    const one = await serve(store, clock, { secret: next });
    const other = await serve(store, clock, { secret: next });
    const issued = await issueOn(one.sessions, "header");
    clock.advance("1s");
    expect(await one.sessions.keys.retire(kidOf(issued), { now: true })).toBe(true);
    let isIssued = false;
    const issuing = issueOn(one.sessions, "header").finally(() => {
      isIssued = true;
    });
    const [replacing] = await one.sessions.keys.list();
    for (let turn = 0; turn < 50; turn++) {
      await new Promise((resolve) => setImmediate(resolve));
    }
    // The key is published; no token is under it before all servers have read the change log.
    expect(isIssued).toBe(false);
    const { keys: published } = await other.sessions.jwks();
    clock.advance("5s");
    const again = await issuing;
    expect(kidOf(again)).toBe(replacing?.kid);
    await vi.waitFor(async () => {
      const { keys: later } = await other.sessions.jwks();
      expect([...published, ...later].map(({ kid }) => kid)).toContain(replacing?.kid);
    });
    expect(await callWith(other, again.access)).toBe("ok");
    expect(await callWith(one, again.access)).toBe("ok");
    expect(await callWith(other, issued.access)).toBe("Unauthenticated REFRESH");
  });

  it("rotates no further at 32 keys, so that verifiers accept the set", async () => {
    const clock = createFakeClock();
    const { sessions } = await serve(memoryStore(), clock, { secret: next });
    for (let count = 1; count < 32; count++) {
      await sessions.keys.rotate();
      clock.advance("10m");
    }
    await expect(sessions.keys.rotate()).rejects.toThrow("there are 32 signing keys");
  });

  it("neither rotates nor retires your own keys", async () => {
    const { privateKey } = await crypto.subtle.generateKey(
      { name: "ECDSA", namedCurve: "P-256" },
      true,
      ["sign", "verify"],
    );
    const signing = await crypto.subtle.exportKey("jwk", privateKey);
    const sessions = testSessions({ keys: { signing: signing as never } });
    expect(await sessions.keys.list()).toEqual([]);
    await expect(sessions.keys.rotate()).rejects.toThrow("change keys.signing");
    await expect(sessions.keys.retire("k")).rejects.toThrow("change keys.signing");
  });
});

function kidOf({ access }: { readonly access: string }): string {
  const [header = ""] = access.split(".");
  return JSON.parse(Buffer.from(header, "base64url").toString()).kid;
}

describe("feat:G9 sessions.revokeEverybody", () => {
  it("ends every session of every user and tenant, on every server, and none that begins later", async () => {
    const clock = createFakeClock();
    const store = memoryStore();
    const one = await serve(store, clock, { secret: next });
    const other = await serve(store, clock, { secret: next });
    const tokens: string[] = [];
    for (let i = 0; i < 1100; i++) {
      const tenant = i % 3 === 0 ? {} : { tenantId: `tenant-${i % 3}` };
      const issued = await one.sessions.issue({ userId: `user-${i}`, ...tenant });
      tokens.push(issued.tokens.accessToken);
    }
    expect(await one.sessions.revokeEverybody()).toBe(1100);
    expect(await other.sessions.revokeEverybody()).toBe(0);
    clock.advance("6s");
    for (const bearer of [tokens[0], tokens[500], tokens[1099]]) {
      expect(await callWith(other, bearer ?? "")).toBe("Unauthenticated SIGN_IN");
    }
    const later = await issueOn(one.sessions, "header");
    expect(await callWith(other, later.access)).toBe("ok");
  });
});
