import { beforeEach, describe, expect, it } from "vitest";
import { openSecretRing, readSecretOption } from "../../src/base/crypto.ts";
import type { SessionEvent } from "../../src/base/events.ts";
import { type SigningKeys, StoredSigningKeys } from "../../src/engine/keys/stored.ts";
import type { SessionStore, StoredSigningKey } from "../../src/engine/store.ts";
import type { SigningAlgorithm } from "../../src/jwt/jwk.ts";
import { memoryStore } from "../../src/stores/memory/index.ts";
import { createFakeClock, type FakeClock } from "../../src/testing/fake-clock.ts";
import { settled } from "../helpers/pass.ts";
import { type WatchedStore, watchedStore } from "../helpers/watched-store.ts";

const issuer = "https://api.example.com";
const day = 86_400_000;
const rotation = 30 * day;
/** The lifetime of a token plus the clock skew that verifiers allow. */
const retention = 3_600_000 + 60_000;
const secretA = "a".repeat(32);
const secretB = "b".repeat(32);

let clock: FakeClock;
let watched: WatchedStore;
let store: SessionStore;
let events: SessionEvent[];
/** The ids of dead secrets. */
let dead: Set<string>;

beforeEach(async () => {
  clock = createFakeClock();
  watched = watchedStore();
  store = watched.store;
  events = [];
  dead = new Set();
  await store.open({ clock });
});

interface ServerOptions {
  readonly secret?: string | readonly string[];
  readonly clock?: FakeClock;
  readonly algorithm?: SigningAlgorithm;
}

/** The keys of a further server on the store. */
async function server(options: ServerOptions = {}): Promise<SigningKeys> {
  const { secret = secretA } = options;
  const keys = new StoredSigningKeys({
    store,
    secrets: {
      ...(await openSecretRing(readSecretOption(secret), issuer)),
      isDead: (id) => dead.has(id),
    },
    clock: options.clock ?? clock,
    algorithm: options.algorithm ?? "ES256",
    rotation,
    retention,
    maxStaleness: 5_000,
    emit: (event) => events.push(event),
  });
  await keys.open();
  return keys;
}

async function slots(): Promise<number[]> {
  return (await store.signingKeys()).keys.map(({ slot }) => slot);
}

async function kids(keys: SigningKeys): Promise<(string | undefined)[]> {
  return (await keys.published()).map(({ kid }) => kid);
}

/** Signs, and waits for the background work that this starts. */
async function sign(keys: SigningKeys): Promise<string> {
  const { kid } = await keys.signer();
  await keys.settled();
  return kid;
}

/** Whole seconds, like `iat`. */
function seconds(ms: number = clock.now()): number {
  return Math.floor(ms / 1000);
}

describe("signing keys in a store", () => {
  it("the first key signs immediately, and is found and published", async () => {
    const keys = await server();
    const kid = await sign(keys);
    expect(await kids(keys)).toEqual([kid]);
    expect(await keys.find(kid, seconds())).toMatchObject({ kid, alg: "ES256" });
    expect(await slots()).toEqual([0]);
  });

  it("feat:H10 twenty servers that start concurrently share one key", async () => {
    const servers = await Promise.all(Array.from({ length: 20 }, () => server()));
    const signers = await Promise.all(servers.map(sign));
    expect(new Set(signers).size).toBe(1);
    expect(await slots()).toEqual([0]);
  });

  it("private halves are never published, and are stored encrypted", async () => {
    const keys = await server();
    const [published] = await keys.published();
    expect(Object.keys(published ?? {}).toSorted()).toEqual(
      ["alg", "crv", "kid", "kty", "use", "x", "y"].toSorted(),
    );
    const [stored] = (await store.signingKeys()).keys;
    expect(stored?.publicJwk).not.toContain('"d"');
    expect(stored?.privateJwk.split(".")).toHaveLength(5);
  });

  it("feat:H2, sec:J17 the next key follows after 30 days and is published 10 minutes before it signs", async () => {
    const keys = await server();
    const first = await sign(keys);
    clock.advance("29.99d");
    expect(await sign(keys)).toBe(first);
    expect(await slots()).toEqual([0]);
    clock.advance("10m");
    expect(await sign(keys)).toBe(first);
    expect(await slots()).toEqual([0, 1]);
    const [, second] = await kids(keys);
    clock.advance("9m");
    expect(await sign(keys)).toBe(first);
    clock.advance("1m");
    expect(await sign(keys)).toBe(second);
  });

  it("feat:H2, sec:J17 a key is kept until every token that it signed on any server has expired", async () => {
    const busy = await server();
    const idle = await server();
    const lastUse = new Map<string, number>();
    for (let hours = 0; hours < 24 * 100; hours += 6) {
      clock.advance("6h");
      for (const keys of hours % 240 === 0 ? [busy, idle] : [busy]) {
        lastUse.set(await sign(keys), clock.now());
      }
      const stored = (await store.signingKeys()).keys.map(({ kid }) => kid);
      for (const [kid, at] of lastUse) {
        expect(clock.now() - at > retention || stored.includes(kid)).toBe(true);
      }
    }
    expect(lastUse.size).toBe(4);
    expect((await slots()).length).toBeLessThanOrEqual(3);
  });

  it("feat:H10 two servers that rotate concurrently create one key", async () => {
    const [a, b] = [await server(), await server()];
    clock.advance("30d");
    await Promise.all([sign(a), sign(b)]);
    expect(await slots()).toEqual([0, 1]);
    clock.advance("10m");
    expect(await sign(a)).toBe(await sign(b));
  });

  it("a server that slept does not sign with a removed key", async () => {
    const [awake, asleep] = [await server(), await server()];
    const first = await sign(asleep);
    for (let i = 0; i < 70; i++) {
      clock.advance("1d");
      await sign(awake);
    }
    expect((await store.signingKeys()).keys.map(({ kid }) => kid)).not.toContain(first);
    const { kid } = await asleep.signer();
    expect(kid).not.toBe(first);
    expect(await kids(awake)).toContain(kid);
  });

  it("a server that slept and cannot read the store does not sign", async () => {
    const keys = await server();
    watched.failing.add("signingKeys");
    clock.advance("9m");
    await keys.signer();
    clock.advance("1m");
    await expect(keys.signer()).rejects.toMatchObject({ kind: "unavailable" });
    watched.failing.clear();
    await keys.signer();
  });

  it("a server that finds no slot for a key of its own does not open", async () => {
    const inner = store;
    let tries = 0;
    // As if servers with another secret were always faster.
    store = new Proxy(inner, {
      get: (target, name) =>
        name === "addSigningKey" ? async () => tries++ < 0 : Reflect.get(target, name),
    });
    await expect(server()).rejects.toMatchObject({
      kind: "unavailable",
      message: "there is no usable signing key yet; try again",
    });
    expect(tries).toBeGreaterThan(1);
    expect(await slots()).toEqual([]);
  });

  it("signing continues while the store is full, and rotation follows once it is not", async () => {
    const keys = await server();
    const first = await sign(keys);
    watched.failing.add("addSigningKey");
    clock.advance("30d");
    watched.take();
    for (let i = 0; i < 20; i++) {
      expect(await sign(keys)).toBe(first);
    }
    expect(watched.take().filter((call) => call === "addSigningKey")).toHaveLength(1);
    watched.failing.clear();
    clock.advance("5s");
    await sign(keys);
    expect(await slots()).toEqual([0, 1]);
  });

  it("servers whose clocks differ by 5 minutes use no key too early", async () => {
    const ahead = createFakeClock(clock.now() + 300_000);
    const behind = createFakeClock(clock.now() - 300_000);
    const all = [await server(), await server({ clock: ahead }), await server({ clock: behind })];
    const published = new Map<string, number>();
    for (let minutes = 0; minutes < 40 * 24 * 60; minutes += 7 * 60) {
      for (const one of [clock, ahead, behind]) {
        one.advance(minutes > 28 * 24 * 60 && minutes < 31 * 24 * 60 ? "1m" : "7h");
      }
      for (const { kid, createdAt } of (await store.signingKeys()).keys) {
        published.set(kid, createdAt);
      }
      for (const keys of all) {
        const { kid } = await keys.signer();
        const age = clock.now() - (published.get(kid) ?? Number.NaN);
        expect(age >= 600_000 || published.size === 1).toBe(true);
        await keys.settled();
      }
    }
    expect(published.size).toBeGreaterThan(1);
  });

  it("a jump of the wall clock has no effect", async () => {
    const keys = await server();
    const first = await sign(keys);
    const other = createFakeClock(clock.now());
    const jumped = await server({ clock: other });
    other.setNow(clock.now() + 365 * day);
    expect(await sign(jumped)).toBe(first);
    expect(await slots()).toEqual([0]);
  });
});

describe("unknown keys", () => {
  it("are looked up in the store, so that a key of another server is found", async () => {
    const reader = await server();
    clock.advance("30d");
    const writer = await server();
    await sign(writer);
    clock.advance("10m");
    const kid = await sign(writer);
    expect(await reader.find(kid, seconds())).toMatchObject({ kid });
  });

  it("are reported as unknown once the keys were read after the token was issued", async () => {
    const keys = await server();
    clock.advance("1s");
    expect(await keys.find("unknown", seconds(clock.now() - 2000))).toBeUndefined();
    clock.advance("10s");
    watched.take();
    expect(await keys.find("unknown", seconds(clock.now() - 1000))).toBeUndefined();
    expect(watched.take()).toEqual(["signingKeys"]);
  });

  it("sec:V07 are reported as unknown within 5 s of a read, whatever time the token claims", async () => {
    const keys = await server();
    watched.take();
    expect(await keys.find("unknown", seconds())).toBeUndefined();
    clock.advance("4s");
    expect(await keys.find("unknown", seconds())).toBeUndefined();
    expect(watched.take()).toEqual([]);
    clock.advance("1s");
    expect(await keys.find("unknown", seconds())).toBeUndefined();
    expect(watched.take()).toEqual(["signingKeys"]);
  });

  it("are Unavailable if the last attempt to read failed, with the time after which to retry", async () => {
    const keys = await server();
    clock.advance("10s");
    watched.failing.add("signingKeys");
    await expect(async () => keys.find("unknown", seconds())).rejects.toMatchObject({
      kind: "unavailable",
    });
    clock.advance("2s");
    expect(() => keys.find("unknown", seconds())).toThrow(
      expect.objectContaining({ kind: "unavailable", retryAfter: 3000 }),
    );
  });

  it("are Unavailable in an outage, even after a failed attempt", async () => {
    const keys = await server();
    clock.advance("10s");
    watched.failing.add("signingKeys");
    const iat = seconds(clock.now() - 2000);
    for (let i = 0; i < 3; i++) {
      await expect(async () => keys.find("unknown", iat)).rejects.toMatchObject({
        kind: "unavailable",
      });
    }
    clock.advance("6s");
    watched.failing.clear();
    expect(await keys.find("unknown", iat)).toBeUndefined();
  });

  it("with an iat in the future are refused without reading the store", async () => {
    const keys = await server();
    clock.advance("10s");
    watched.take();
    expect(await keys.find("unknown", seconds() + 3600)).toBeUndefined();
    expect(watched.take()).toEqual([]);
  });

  it.each([false, true])(
    "sec:V07 100,000 random ids cause a bounded number of reads (outage: %s)",
    async (outage) => {
      const keys = await server();
      if (outage) {
        watched.failing.add("signingKeys");
      }
      watched.take();
      const kid = await sign(keys);
      for (let i = 0; i < 100_000; i++) {
        if (i % 1000 === 0) {
          clock.advance("100ms");
        }
        const id = Math.random().toString(36).slice(2);
        await Promise.resolve()
          .then(() => keys.find(id, seconds() - (i % 7)))
          .catch(() => {});
      }
      // 10 s have passed.
      expect(watched.take().length).toBeLessThanOrEqual(3);
      expect(await keys.find(kid, seconds())).toMatchObject({ kid });
    },
  );

  it("one thousand concurrent calls share one read", async () => {
    const keys = await server();
    clock.advance("10s");
    watched.take();
    const found = await Promise.all(
      Array.from({ length: 1000 }, async (_, i) => keys.find(`unknown-${i}`, seconds() - 2)),
    );
    expect(found.every((key) => key === undefined)).toBe(true);
    expect(watched.take()).toEqual(["signingKeys"]);
  });
});

describe("the published keys", () => {
  it("are at most a minute old, and read no more than once a minute", async () => {
    const reader = await server();
    const writer = await server();
    for (let i = 0; i < 30; i++) {
      clock.advance("1d");
      await sign(writer);
    }
    watched.take();
    for (let i = 0; i < 60; i++) {
      clock.advance("1s");
      await reader.published();
    }
    expect(watched.take()).toEqual(["signingKeys"]);
    expect(await kids(reader)).toHaveLength(2);
  });

  it("are the known ones in an outage", async () => {
    const keys = await server();
    const kid = await sign(keys);
    watched.failing.add("signingKeys");
    clock.advance("1h");
    expect(await kids(keys)).toEqual([kid]);
  });
});

describe("keys under several secrets", () => {
  it("a key under an unknown secret verifies but does not sign, and is reported by an event", async () => {
    const theirs = await sign(await server({ secret: secretA }));
    const keys = await server({ secret: secretB });
    const own = await sign(keys);
    expect(own).not.toBe(theirs);
    expect(await keys.find(theirs, seconds())).toMatchObject({ kid: theirs });
    expect(await kids(keys)).toEqual([theirs, own]);
    expect(events.filter(({ type }) => type === "unknownSecret")).not.toHaveLength(0);
  });

  it("a server starts although others with another secret take the next slot twice", async () => {
    const shared = store;
    const theirs: StoredSigningKey[] = [];
    for (let i = 0; i < 2; i++) {
      store = memoryStore();
      await store.open({ clock });
      await server({ secret: secretB });
      theirs.push(...(await store.signingKeys()).keys);
    }
    store = {
      ...shared,
      async addSigningKey(key) {
        const earlier = theirs.pop();
        if (earlier !== undefined) {
          await shared.addSigningKey({ ...earlier, slot: key.slot });
        }
        return shared.addSigningKey(key);
      },
    };
    const keys = await server({ secret: secretA });
    expect((await keys.signer()).kid).toBe((await kids(keys)).at(-1));
    expect(await slots()).toEqual([0, 1, 2]);
  });

  it("the key that replaces a retired one signs only once every server knows it, although a key of others remains", async () => {
    await server({ secret: secretA });
    clock.advance("1d");
    const keys = await server({ secret: secretB });
    const retired = await sign(keys);
    await store.retireSigningKeys([retired]);
    await keys.reload();
    await keys.settled();
    let signed: string | undefined;
    const signing = sign(keys).then((kid) => {
      signed = kid;
    });
    await settled();
    expect(signed).toBeUndefined();
    clock.advance("5s");
    await signing;
    expect(signed).not.toBe(retired);
  });

  it("a server with another secret neither stops rotation nor removes keys in use", async () => {
    const ours = await server({ secret: secretA });
    clock.advance("1d");
    const theirs = await server({ secret: secretB });
    const used = new Map<string, number>();
    for (let i = 0; i < 100; i++) {
      clock.advance("1d");
      for (const keys of [ours, theirs]) {
        used.set(await sign(keys), clock.now());
      }
      const stored = (await store.signingKeys()).keys.map(({ kid }) => kid);
      const alive = [...used].filter(([, at]) => clock.now() - at <= retention);
      expect(stored).toEqual(expect.arrayContaining(alive.map(([kid]) => kid)));
    }
    expect(used.size).toBe(8);
  });

  it("feat:H8 rotating the secret keeps keys readable, and leads to a key under the new secret", async () => {
    const first = await sign(await server({ secret: secretA }));
    clock.advance("2d");
    // Appended on every server, then moved to the front, one server after the other.
    const late = await server({ secret: [secretA, secretB] });
    const early = await server({ secret: [secretB, secretA] });
    expect(await sign(early)).toBe(first);
    expect(await sign(late)).toBe(first);
    for (let i = 0; i < 100; i++) {
      clock.advance("6m");
      expect(await sign(early)).toBe(await sign(late));
    }
    // Meanwhile they did not keep replacing each other's keys.
    expect(await slots()).toEqual([0, 1]);
    const after = await server({ secret: secretB });
    expect(await sign(after)).toBe(await sign(early));
    expect(await slots()).toEqual([0, 1]);
  });

  it("feat:D9 a new algorithm leads to a new key, and the old key keeps verifying", async () => {
    const first = await sign(await server());
    clock.advance("2d");
    const keys = await server({ algorithm: "EdDSA" });
    expect(await sign(keys)).toBe(first);
    clock.advance("10m");
    expect((await keys.signer()).alg).toBe("EdDSA");
    expect(await keys.find(first, seconds())).toMatchObject({ alg: "ES256" });
  });

  it.each(["ES256", "RS256", "EdDSA"] as const)("stores keys for %s", async (algorithm) => {
    await server({ algorithm });
    const again = await server({ algorithm });
    expect((await again.signer()).alg).toBe(algorithm);
    expect(await again.published()).toMatchObject([{ alg: algorithm, use: "sig" }]);
  });
});
