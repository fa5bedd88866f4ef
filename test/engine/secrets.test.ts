import { describe, expect, it } from "vitest";
import { readDeadSecrets } from "../../src/base/crypto.ts";
import { EngineSecrets, oncePerSecret } from "../../src/engine/keys/secrets.ts";
import type { SessionStore } from "../../src/engine/store.ts";
import { memoryStore } from "../../src/stores/memory/index.ts";
import { createFakeClock } from "../../src/testing/fake-clock.ts";

const issuer = "https://api.example.com";
const [first, second] = ["the first secret, of 32 bytes...", "the second secret, of 32 bytes.."];

/** The secrets of a server over a store that can be replaced by an older state of it. */
async function opened(secret: readonly string[] = [first, second], older: readonly string[] = []) {
  const clock = createFakeClock();
  let current = await fresh();
  async function fresh(): Promise<SessionStore> {
    const store = memoryStore();
    await store.open({ clock });
    return store;
  }
  const store = new Proxy({} as SessionStore, {
    get: (_, name) => Reflect.get(current, name),
  });
  const secrets = new EngineSecrets({
    ...{ issuer, store, secret, clock },
    older: older.map((one) => ({ issuer: one })),
  });
  await secrets.open();
  return {
    clock,
    store,
    secrets,
    recorded: async () => (await current.recordSecrets([])).secrets,
    lose: async () => {
      current = await fresh();
    },
  };
}

describe("feat:H12 the state of secrets", () => {
  it("the first secret that is not dead makes new tokens", async () => {
    const { secrets } = await opened();
    const leaked = secrets.current.id;
    await secrets.retire(leaked);
    expect(secrets.current.id).not.toBe(leaked);
    expect([...secrets.byId.keys()]).toEqual([secrets.current.id]);
    expect(secrets.isDead(leaked)).toBe(true);
    expect(await secrets.statusOf(leaked)).toBe("dead");
  });

  it("a dead secret stays dead in this process if the store forgets it, and the store is told again", async () => {
    const { secrets, lose, recorded } = await opened();
    const [leaked] = await secrets.retire(readDeadSecrets([first]));
    await lose();
    await secrets.reload();
    expect(secrets.isDead(leaked ?? "")).toBe(true);
    expect(await recorded()).toEqual([]);
    await secrets.restore();
    expect((await recorded()).map(({ id, deadAt }) => [id, deadAt !== null])).toEqual(
      [
        [leaked, true],
        [secrets.current.id, false],
      ].toSorted(([a], [b]) => (String(a) < String(b) ? -1 : 1)),
    );
  });

  it("a secret that is dead for one issuer is dead for every issuer, and the store is told", async () => {
    const former = "https://former.example.com";
    const { secrets, store, recorded } = await opened([first, second], [former]);
    const leaked = secrets.current.id;
    // As the command line does it, which has the id only.
    await store.retireSecrets([{ id: leaked, issuer }]);
    await secrets.reload();
    const dead = (await recorded()).filter(({ deadAt }) => deadAt !== null);
    expect(dead.map((one) => one.issuer).toSorted()).toEqual([issuer, former].toSorted());
    expect(dead.every(({ id }) => secrets.isDead(id))).toBe(true);
    expect([...secrets.byId.values()].map((keys) => keys.issuer)).toEqual([issuer, former]);

    // So does a server that starts later.
    const other = await opened([first, second], [former]);
    await other.store.retireSecrets([{ id: leaked, issuer }]);
    const late = new EngineSecrets({
      ...{ issuer, store: other.store, clock: other.clock, secret: [first, second] },
      older: [{ issuer: former }],
    });
    await late.open();
    expect((await other.recorded()).filter(({ deadAt }) => deadAt !== null)).toHaveLength(2);
  });

  it("the only secret of a server is not retired from there", async () => {
    const { secrets, recorded, clock } = await opened([first]);
    const [only] = await recorded();
    await expect(secrets.retire(only?.id ?? "")).rejects.toThrow("the only one of this server");
    expect(secrets.current.id).toBe(only?.id);
    clock.advance("5s");
    expect(await secrets.statusOf("12345678")).toBe("never");
  });

  it("a server without a living secret creates no tokens: Unavailable", async () => {
    const { secrets, store } = await opened([first]);
    const { id } = secrets.current;
    await store.retireSecrets([{ id, issuer }]);
    await secrets.reload();
    expect(() => secrets.current).toThrow("no secret that is trusted");
    expect(secrets.byId.size).toBe(0);
  });
});

it("unknown secrets are reported once each, and again after a hundred others", () => {
  const reported: string[] = [];
  const emit = oncePerSecret((event) => {
    reported.push((event as { secretId: string }).secretId);
  });
  const report = (secretId: string) => emit({ type: "unknownSecret", secretId });
  const ids = Array.from({ length: 100 }, (_, i) => `secret${i}`);
  for (const id of [...ids, ...ids]) {
    report(id);
  }
  expect(reported).toEqual(ids);
  for (const id of ["another", "secret0"]) {
    report(id);
  }
  expect(reported).toEqual([...ids, "another", "secret0"]);
});
