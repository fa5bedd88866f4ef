import { copyFileSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import type { SessionError } from "../../src/base/errors.ts";
import { parseRefreshToken } from "../../src/engine/refresh/token.ts";
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

  it("feat:D2, feat:D6 p = g-1 later: theft, with one revocation and one event; all tokens are dead", async () => {
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

  it("p < g-1, even within the overlap: theft", async () => {
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

  it("is not extended by repeated answers", async () => {
    const { engine, id, token } = await confirmedSession();
    await engine.exchange(token);
    engine.clock.advance("50s");
    const { access } = await engine.exchange(token);
    engine.clock.advance("10s");
    engine.used(access.claims);
    await engine.settled();
    expect((await engine.load(id)).record?.confirmedAt).toBe(engine.clock.now());
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
