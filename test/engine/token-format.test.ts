import { describe, expect, it } from "vitest";
import { parseRefreshToken } from "../../src/engine/refresh/format.ts";
import type { SessionStore } from "../../src/engine/store.ts";
import { memoryStore } from "../../src/stores/memory/index.ts";
import { createFakeClock } from "../../src/testing/fake-clock.ts";
import { startEngine, type TestEngine } from "../helpers/engine.ts";

const secret = "a secret of at least 32 bytes, for tests";

function formatOf(token: string | undefined): number | undefined {
  return parseRefreshToken(token ?? "")?.format;
}

/** A store of an older version. */
function withoutFormats(): SessionStore {
  const store: Partial<SessionStore> = { ...memoryStore() };
  delete (store as { tokenFormat?: unknown }).tokenFormat;
  return store as SessionStore;
}

async function failure(work: Promise<unknown>) {
  return work.then(
    () => ({}),
    (error: object) => error,
  );
}

/** A server that mints format 1 and one that mints format 2, on one store. */
async function mixed() {
  const [store, clock] = [memoryStore(), createFakeClock()];
  const former = await startEngine({ store, clock, secret, refresh: { tokenFormat: 1 } });
  const next = await startEngine({ store, clock, secret, refresh: { tokenFormat: 2 } });
  const recordOf = async (id: string) => (await store.load(id)).record;
  return { store, clock, former, next, recordOf };
}

/** Confirms a token, and exchanges it for its successor. */
async function advance(server: TestEngine, token: string): Promise<string> {
  await server.confirm(token);
  return (await server.exchange(token)).refreshToken ?? "";
}

describe("the format of new refresh tokens", () => {
  it("feat:H13 is 2 on a store that every server can use with it, and 1 on another one", async () => {
    const older: SessionStore = withoutFormats();
    const upgraded: SessionStore = { ...memoryStore(), tokenFormat: async () => 1 };
    for (const [store, format] of [
      [memoryStore(), 2],
      [upgraded, 1],
      [older, 1],
    ] as const) {
      const engine = await startEngine({ store });
      const { token, id } = await engine.signIn();
      expect(formatOf(token)).toBe(format);
      const { record } = await engine.load(id);
      expect(record?.salt === "").toBe(format === 2);
      expect(record?.rootHash === null).toBe(format === 1);
      expect(formatOf(await advance(engine, token))).toBe(format);
    }
  });

  it("feat:H13 is what the option says; both formats are always accepted", async () => {
    const { former, next } = await mixed();
    const [one, two] = [await former.signIn(), await next.signIn()];
    expect([formatOf(one.token), formatOf(two.token)]).toEqual([1, 2]);
    for (const server of [former, next]) {
      expect((await server.exchange(one.token)).record.id).toBe(one.id);
      expect((await server.exchange(two.token)).record.id).toBe(two.id);
    }
  });

  it("must be 1 or 2, and 2 only on a store that keeps hashes of roots", async () => {
    const wrong = { refresh: { tokenFormat: 3 as 2 } };
    await expect(startEngine(wrong)).rejects.toThrow("refresh.tokenFormat must be 1 or 2, got 3");
    const older: SessionStore = withoutFormats();
    await expect(startEngine({ store: older, refresh: { tokenFormat: 2 } })).rejects.toThrow(
      "memoryStore has no method tokenFormat",
    );
  });
});

describe("a session whose tokens change from format 1 to format 2", () => {
  it("feat:H13 changes at an advance, sends equal tokens again on all servers, and loses its salt at the next advance", async () => {
    const { former, next, recordOf } = await mixed();
    const { id, token } = await former.signIn();
    const salt = (await recordOf(id))?.salt;
    // A server that mints format 1 advances it in format 1.
    const old = await advance(former, token);
    expect([formatOf(old), (await recordOf(id))?.rootHash]).toEqual([1, null]);
    // A lost response is sent again by the servers of both kinds.
    const first = await advance(next, old);
    expect(formatOf(first)).toBe(2);
    former.clock.advance("2s");
    expect((await former.exchange(old)).refreshToken).toBe(first);
    expect((await next.exchange(old)).refreshToken).toBe(first);
    expect((await recordOf(id))?.salt).toBe(salt);
    const second = await advance(former, first);
    expect(formatOf(second)).toBe(2);
    expect(await recordOf(id)).toMatchObject({ generation: 3, salt: "" });
    expect((await recordOf(id))?.rootHash).not.toBeNull();
    expect((await next.exchange(first)).refreshToken).toBe(second);
    expect([...former.events, ...next.events].filter((e) => e.type === "theft")).toEqual([]);
  });

  it("ends as theft if its last token of format 1 comes after the salt is gone", async () => {
    const { former, next, recordOf } = await mixed();
    const { id, token } = await former.signIn();
    const first = await advance(next, token);
    await advance(next, first);
    expect((await recordOf(id))?.salt).toBe("");
    expect(await failure(former.exchange(token))).toMatchObject({ reason: "TOKEN_THEFT" });
    expect((await recordOf(id))?.endedBy).toBe("theft");
  });

  it("refuses an even older token once the salt is gone, and goes on", async () => {
    const { former, next, recordOf } = await mixed();
    const { id, token } = await former.signIn();
    const last = await advance(former, token);
    const first = await advance(next, last);
    const second = await advance(next, first);
    expect(await failure(next.exchange(token))).toMatchObject({ reason: "TOKEN_INVALID" });
    expect((await recordOf(id))?.revokedAt).toBeNull();
    expect((await next.exchange(second)).record.id).toBe(id);
  });

  it("moves a store that was restored to a state from before forward", async () => {
    const { store, former, next, recordOf, clock } = await mixed();
    const { id, token } = await former.signIn();
    const before = await recordOf(id);
    const second = await advance(next, await advance(next, token));
    const restored = memoryStore();
    const engine = await startEngine({ store: restored, clock, secret });
    const load: SessionStore["load"] = async (session) => {
      const { record, now } = await restored.load(session);
      return { record: record ?? (session === id ? before : undefined), now };
    };
    const writes: unknown[] = [];
    const refresh: SessionStore["refresh"] = async (write) => {
      writes.push(write);
      return store.refresh({ ...write, generation: 2 });
    };
    const after = await startEngine({
      ...{ clock, secret },
      store: { ...restored, load, refresh, advance: undefined },
    });
    const { record } = await after.exchange(second);
    expect(writes).toMatchObject([
      { kind: "forward", to: 2, proof: { salt: before?.salt, rootHash: record.rootHash } },
    ]);
    expect(after.events).toContainEqual(expect.objectContaining({ type: "storeWentBack" }));
    await engine.close();
  });
});
