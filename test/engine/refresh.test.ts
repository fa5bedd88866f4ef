import { copyFileSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import type { Duration } from "../../src/base/checks.ts";
import type { SessionError } from "../../src/base/errors.ts";
import { parseRefreshToken } from "../../src/engine/refresh/format.ts";
import type { SessionRecord, SessionStore } from "../../src/engine/store.ts";
import { memoryStore } from "../../src/stores/memory/index.ts";
import { sqliteStore } from "../../src/stores/sqlite/index.ts";
import { startEngine } from "../helpers/engine.ts";

async function failure(work: Promise<unknown>): Promise<Partial<SessionError>> {
  return work.then(
    () => ({}),
    (error: SessionError) => error,
  );
}

/** A session whose generation 0 was confirmed longer ago than the overlap: its next refresh advances. */
async function confirmedSession() {
  const engine = await startEngine();
  const { id, token } = await engine.signIn();
  await engine.confirm(token);
  return { engine, id, token };
}

describe("the refresh table", () => {
  it("feat:D1 p = g, confirmed more than overlap ago: advances and returns the next refresh token", async () => {
    const { engine, token } = await confirmedSession();
    const { record, refreshToken, access } = await engine.exchange(token);
    expect(record).toMatchObject({ generation: 1, confirmedAt: null });
    expect(parseRefreshToken(refreshToken ?? "")?.generation).toBe(1);
    expect(access.claims).toMatchObject({ gen: 1, gat: engine.clock.now() / 1000 });
  });

  it("p = g otherwise: returns an access token only, and confirms the generation once it is settled", async () => {
    const engine = await startEngine();
    const { id, token } = await engine.signIn();
    engine.clock.advance("59s");
    expect(await engine.exchange(token)).toMatchObject({
      refreshToken: undefined,
      record: { generation: 0, confirmedAt: null },
    });
    engine.clock.advance("2s");
    expect(await engine.exchange(token)).toMatchObject({
      refreshToken: undefined,
      record: { generation: 0, confirmedAt: engine.clock.now() },
    });
    expect((await engine.load(id)).record?.generation).toBe(0);
  });

  it("feat:D3 p = g-1, g unconfirmed: a lost response is recovered hours later with the same token", async () => {
    const { engine, token } = await confirmedSession();
    const lost = await engine.exchange(token);
    engine.clock.advance("9h");
    const again = await engine.exchange(token);
    expect(again.refreshToken).toBe(lost.refreshToken);
    expect(again.record.generation).toBe(1);
    expect(engine.events.at(-1)).toMatchObject({ type: "recovered", generation: 1 });
    engine.clock.advance("5d");
    expect((await engine.exchange(token)).refreshToken).toBe(lost.refreshToken);
  });

  it("feat:D4 p = g-1, g confirmed at most overlap ago: returns the same token again", async () => {
    const { engine, token } = await confirmedSession();
    const { refreshToken = "" } = await engine.exchange(token);
    engine.clock.advance("60s");
    await engine.exchange(refreshToken);
    engine.clock.advance("30s");
    expect((await engine.exchange(token)).refreshToken).toBe(refreshToken);
  });

  it("feat:D2, feat:D5, feat:D6 p = g-1 later: theft, with one revocation and one event; all tokens are dead", async () => {
    const { engine, id, token } = await confirmedSession();
    const { refreshToken = "", access } = await engine.exchange(token);
    await engine.confirm(refreshToken);
    const answers = await Promise.all(
      Array.from({ length: 50 }, () => failure(engine.exchange(token))),
    );
    expect(answers[0]).toMatchObject({
      kind: "unauthorized",
      reason: "TOKEN_THEFT",
      clearTokens: true,
      sessionId: id,
    });
    for (let i = 0; i < 1_000; i++) {
      await failure(engine.exchange(token));
    }
    const thefts = engine.events.filter((event) => event.type === "theft");
    expect(thefts).toEqual([
      {
        type: "theft",
        kind: "previous",
        sessionId: id,
        userId: "alice",
        presented: 0,
        generation: 1,
        at: engine.clock.now(),
      },
    ]);
    expect(await failure(engine.exchange(refreshToken))).toMatchObject({ reason: "TOKEN_THEFT" });
    expect(engine.revocations.get(access.claims.sid)?.endedBy).toBe("theft");
  });

  it("feat:D5 p < g-1, even within the overlap: theft of an older token", async () => {
    const { engine, token } = await confirmedSession();
    const { refreshToken: first = "" } = await engine.exchange(token);
    await engine.confirm(first);
    const { refreshToken: second } = await engine.exchange(first);
    expect(parseRefreshToken(second ?? "")?.generation).toBe(2);
    expect(await failure(engine.exchange(token))).toMatchObject({ reason: "TOKEN_THEFT" });
  });

  it("p > g: the store has lost a generation and is moved forward; nobody is signed out", async () => {
    const folder = mkdtempSync(join(tmpdir(), "rpc-session-"));
    const file = join(folder, "sessions.db");
    const engine = await startEngine({ store: sqliteStore(file) });
    const { id, token } = await engine.signIn();
    await engine.confirm(token);
    await engine.store.close();
    copyFileSync(file, `${file}.backup`);

    const later = await startEngine({ store: sqliteStore(file), clock: engine.clock });
    const { refreshToken = "" } = await later.exchange(token);
    await later.store.close();
    copyFileSync(`${file}.backup`, file);

    const restored = await startEngine({ store: sqliteStore(file), clock: engine.clock });
    const { record, refreshToken: again } = await restored.exchange(refreshToken);
    expect(record).toMatchObject({ generation: 1, confirmedAt: null, revokedAt: null });
    expect(again).toBeUndefined();
    expect(restored.events[0]).toEqual({
      type: "storeWentBack",
      sessionId: id,
      presented: 1,
      generation: 0,
    });
    await restored.store.close();
    rmSync(folder, { recursive: true });
  });

  it("a wrong tag is Unauthorized and changes nothing", async () => {
    const { engine, id, token } = await confirmedSession();
    const before = await engine.load(id);
    const cookie = engine.refresher.refresh({ token, transport: "cookie" });
    expect(await failure(cookie)).toMatchObject({
      kind: "unauthorized",
      reason: "TOKEN_INVALID",
      sessionId: undefined,
    });
    expect((await engine.load(id)).record).toEqual(before.record);
  });
});

describe("the settling time", () => {
  it("lets a browser that crashed before it saved its cookies come back with g-1", async () => {
    const { engine, token } = await confirmedSession();
    const { refreshToken = "", access } = await engine.exchange(token);
    // The browser used generation 1 for a while, then crashed and lost it.
    engine.clock.advance("59s");
    engine.used(access.claims);
    await engine.settled();
    engine.clock.advance("10m");
    expect((await engine.exchange(token)).refreshToken).toBe(refreshToken);
  });

  it("feat:B7 an access token of g confirms g once, in the background, after the settling time", async () => {
    const { engine, id, token } = await confirmedSession();
    const { access } = await engine.exchange(token);
    engine.clock.advance("60s");
    engine.used(access.claims);
    await engine.settled();
    expect((await engine.load(id)).record?.confirmedAt).toBe(engine.clock.now());
  });

  it("feat:D17 begins anew when the refresh token is sent again, however late: a crash right after that is no theft", async () => {
    const { engine, id, token } = await confirmedSession();
    await engine.exchange(token);
    engine.clock.advance("9h");
    const { access, refreshToken = "" } = await engine.exchange(token);
    // The device stores the answer and uses it, also to refresh again.
    engine.clock.advance("59s");
    engine.used(access.claims);
    await engine.settled();
    expect((await engine.exchange(refreshToken)).record.confirmedAt).toBeNull();
    // It crashes before the answer is on its disk, and comes back later.
    engine.clock.advance("10m");
    expect(await engine.exchange(token)).toMatchObject({ refreshToken });
    expect((await engine.load(id)).record?.revokedAt).toBeNull();
  });

  it.each(["an access token", "a refresh"])(
    "ends a minute after the refresh token was last sent: then %s confirms",
    async (kind) => {
      const { engine, id, token } = await confirmedSession();
      await engine.exchange(token);
      engine.clock.advance("50s");
      const { access, refreshToken = "" } = await engine.exchange(token);
      engine.clock.advance("60s");
      if (kind === "a refresh") {
        await engine.exchange(refreshToken);
      } else {
        engine.used(access.claims);
        await engine.settled();
      }
      expect((await engine.load(id)).record?.confirmedAt).toBe(engine.clock.now());
    },
  );

  it("counts until a refresh arrives, however long the store keeps it waiting: its client may have crashed since", async () => {
    const store = memoryStore();
    let waiting: { readonly reached: () => void; readonly answer: Promise<void> } | undefined;
    const load: SessionStore["load"] = async (id) => {
      waiting?.reached();
      await waiting?.answer;
      return store.load(id);
    };
    const engine = await startEngine({ store: { ...store, advance: undefined, load } });
    const { token } = await engine.signIn();
    const arrivesAfter = async (age: Duration) => {
      engine.clock.advance(age);
      const reached = Promise.withResolvers<void>();
      const answer = Promise.withResolvers<void>();
      waiting = { reached: reached.resolve, answer: answer.promise };
      const work = engine.exchange(token);
      await reached.promise;
      engine.clock.advance("30s");
      answer.resolve();
      return (await work).record.confirmedAt;
    };
    expect(await arrivesAfter("31s")).toBeNull();
    // By now the token was sent 61 seconds ago.
    expect(await arrivesAfter("0s")).toBe(engine.clock.now());
  });

  it("is prolonged by ten minutes at most, however often the refresh token is sent again", async () => {
    const { engine, id, token } = await confirmedSession();
    const { access } = await engine.exchange(token);
    for (let seconds = 50; seconds <= 600; seconds += 50) {
      engine.clock.advance("50s");
      await engine.exchange(token);
      engine.used(access.claims);
      await engine.settled();
      expect((await engine.load(id)).record?.confirmedAt).toBeNull();
    }
    engine.clock.advance("50s");
    expect((await engine.exchange(token)).refreshToken).toBeDefined();
    engine.clock.advance("10s");
    engine.used(access.claims);
    await engine.settled();
    expect((await engine.load(id)).record?.confirmedAt).toBe(engine.clock.now());
  });

  it("is prolonged anew in the next generation", async () => {
    const { engine, id, token } = await confirmedSession();
    await engine.exchange(token);
    engine.clock.advance("60s");
    const { refreshToken = "", record } = await engine.exchange(token);
    expect(record.prolonged).toBe(60_000);
    await engine.confirm(refreshToken);
    expect(await engine.exchange(refreshToken)).toMatchObject({
      record: { generation: 2, prolonged: 0, sentAt: engine.clock.now() },
    });
    expect((await engine.load(id)).record?.sentAt).toBe(engine.clock.now());
  });

  it("answers every re-send, however many there were", async () => {
    const { engine, token } = await confirmedSession();
    const { refreshToken } = await engine.exchange(token);
    for (let i = 0; i < 100; i++) {
      engine.clock.advance("30m");
      expect((await engine.exchange(token)).refreshToken).toBe(refreshToken);
    }
  });

  it("an access token of an older generation confirms nothing", async () => {
    const engine = await startEngine();
    const { id, token } = await engine.signIn();
    engine.clock.advance("60s");
    const { access } = await engine.exchange(token);
    engine.clock.advance("31s");
    await engine.exchange(token);
    engine.clock.advance("2m");
    engine.used(access.claims);
    await engine.settled();
    expect((await engine.load(id)).record).toMatchObject({ generation: 1, confirmedAt: null });
  });

  it("a confirmation that fails is repeated by a later use, without an effect on the call", async () => {
    const { engine, id, token } = await confirmedSession();
    let down = true;
    const flaky = await startEngine({
      clock: engine.clock,
      store: {
        ...engine.store,
        confirm: (...args) =>
          down ? Promise.reject(new Error("down")) : engine.store.confirm(...args),
      },
    });
    const { access } = await flaky.exchange(token);
    engine.clock.advance("60s");
    flaky.used(access.claims);
    await flaky.settled();
    expect((await engine.load(id)).record?.confirmedAt).toBeNull();
    down = false;
    engine.clock.advance("5s");
    flaky.used(access.claims);
    await flaky.settled();
    expect((await engine.load(id)).record?.confirmedAt).toBe(engine.clock.now());
  });
});

describe("the receipt of a refresh token", () => {
  /** A cookie session whose generation 1 was sent a minute ago, and its tokens. */
  async function settledSession() {
    const engine = await startEngine();
    const begun = await engine.creator.create({
      ...{ userId: "alice", tenantId: null, claims: {}, data: {}, device: {} },
      ...{ transport: "cookie", replaces: null },
    });
    const { id } = begun.record;
    const exchange = (token: string) =>
      engine.refresher.refresh({ token, transport: "cookie" } as const);
    engine.clock.advance("60s");
    await exchange(begun.refreshToken);
    engine.clock.advance("31s");
    const { access, refreshToken: next = "" } = await exchange(begun.refreshToken);
    engine.clock.advance("60s");
    const confirmedBy = async (...cookies: string[]) => {
      engine.used(access.claims, cookies);
      await engine.settled();
      return (await engine.load(id)).record?.confirmedAt !== null;
    };
    return { confirmedBy, former: begun.refreshToken, next };
  }

  it("is shown by an access cookie only beside the refresh cookie of the same generation", async () => {
    const { confirmedBy, former, next } = await settledSession();
    expect(await confirmedBy()).toBe(false);
    expect(await confirmedBy(former)).toBe(false);
    expect(await confirmedBy("no refresh token")).toBe(false);
    expect(await confirmedBy(next)).toBe(true);
  });

  it("is shown by one of several copies of the refresh cookie", async () => {
    const { confirmedBy, former, next } = await settledSession();
    expect(await confirmedBy(former, next)).toBe(true);
  });

  it("is not shown by a refresh cookie of another session", async () => {
    const { confirmedBy } = await settledSession();
    const other = await settledSession();
    expect(await confirmedBy(other.next)).toBe(false);
  });
});

describe("the refresh token that is minted while the store works", () => {
  const [current, former] = [
    "a new secret of at least 32 bytes",
    "a former secret of 32 bytes or more",
  ];

  it.each<[string, (record: SessionRecord, formerId: string) => Partial<SessionRecord>]>([
    ["generation", ({ generation }) => ({ generation: generation + 1 })],
    ["secret", (_, secretId) => ({ secretId })],
    ["key", () => ({ boundKey: `${"k".repeat(42)}A` })],
    ["need of a key", () => ({ device: { bind: "required" } })],
  ])("is not handed out if the row says another %s", async (_, changeOf) => {
    const inner = memoryStore();
    const before = await startEngine({ secret: former, store: memoryStore() });
    const formerId = parseRefreshToken((await before.signIn()).token)?.secretId ?? "";
    let expected: SessionRecord | undefined;
    const store: SessionStore = {
      ...inner,
      advance: async (write) => {
        const done = await (inner.advance as NonNullable<SessionStore["advance"]>)(write);
        if (!done.advanced || done.record === undefined) {
          return done;
        }
        expected = { ...done.record, ...changeOf(done.record, formerId) };
        return { ...done, record: expected };
      },
    };
    const engine = await startEngine({ secret: [current, former], store });
    const { token } = await engine.signIn();
    await engine.confirm(token);
    const { refreshToken } = await engine.exchange(token);
    const { generation, secretId, boundKey, device } = expected as SessionRecord;
    expect(parseRefreshToken(refreshToken ?? "")).toMatchObject({
      ...{ generation, secretId, boundKey, mustBind: device.bind === "required" },
    });
  });
});
