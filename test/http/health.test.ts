import { setTimeout } from "node:timers/promises";
import { type HealthSource, healthFallback, healthHandler } from "rpc-session/http";
import { testSessions } from "rpc-session/testing";
import { describe, expect, it } from "vitest";
import { listenForTest } from "../helpers/listen.ts";
import { watchedStore } from "../helpers/watched-store.ts";

const url = "https://api.example.com/ready";

async function ask(sessions: HealthSource, method = "GET") {
  const response = healthHandler(sessions)(new Request(url, { method }));
  const text = await response?.text();
  return { status: response?.status, body: text ? JSON.parse(text) : text, response };
}

describe("feat:O10 healthHandler", () => {
  it("answers 200 while calls can be checked, and 503 before, while draining and after", async () => {
    const sessions = testSessions();
    const early = await ask(sessions);
    expect([early.status, early.body]).toMatchObject([503, { ready: false, status: "closed" }]);
    expect(early.body.staleness).toBeNull();
    await sessions.ready();
    const open = await ask(sessions);
    expect(open.status).toBe(200);
    expect(open.body).toEqual({
      ...{ ready: true, status: "fresh", draining: false, push: "connected" },
      ...{ staleness: 0, lag: 0, changes: 0, maxChanges: expect.any(Number), streams: 0 },
      provenAt: expect.stringMatching(/^\d{4}-.*Z$/),
    });
    expect(Object.fromEntries(open.response?.headers ?? [])).toEqual({
      "cache-control": "no-store",
      "content-type": "application/json",
      "x-content-type-options": "nosniff",
    });
    await sessions.drain();
    const draining = await ask(sessions);
    expect([draining.status, draining.body]).toMatchObject([
      503,
      { ready: false, status: "fresh", draining: true },
    ]);
    await sessions.close();
    expect(await ask(sessions)).toMatchObject({ status: 503, body: { status: "closed" } });
  });

  it("answers 503 as soon as the sessions close, although calls are still under way", async () => {
    const { store, hanging } = watchedStore();
    const sessions = testSessions({ store });
    await sessions.ready();
    hanging.add("insert");
    sessions.issue({ userId: "alice" }).catch(() => {});
    const closing = sessions.close({ within: "50ms" });
    expect((await ask(sessions)).status).toBe(503);
    await closing;
  });

  it("answers 503 when the change log cannot be read, and 200 when every call reads its session", async () => {
    const { store, failing } = watchedStore();
    const sessions = testSessions({ store });
    await sessions.ready();
    failing.add("changes");
    sessions.clock.advance("6s");
    await setTimeout(0);
    expect(await ask(sessions)).toMatchObject({ status: 503, body: { status: "stale" } });
    const unsure = { ...sessions.health(), status: "unsure" as const };
    expect((await ask({ health: () => unsure })).status).toBe(200);
  });

  it("responds to HEAD without a body, refuses other methods, and leaves other paths alone", async () => {
    const sessions = testSessions();
    await sessions.ready();
    expect(await ask(sessions, "HEAD")).toMatchObject({ status: 200, body: "" });
    const post = await ask(sessions, "POST");
    expect([post.status, post.response?.headers.get("allow")]).toEqual([405, "GET, HEAD"]);
    expect(healthHandler(sessions)(new Request("https://api.example.com/"))).toBeUndefined();
    const moved = healthHandler(sessions, { path: "/healthz" });
    expect(moved(new Request("https://api.example.com/healthz?verbose"))?.status).toBe(200);
  });

  it("refuses wrong options", () => {
    const sessions = testSessions();
    expect(() => healthHandler(sessions, { path: "ready" })).toThrow(/^path must begin with/);
    expect(() => healthHandler(sessions, { pth: "/x" } as never)).toThrow(TypeError);
    expect(() => healthFallback(sessions, { path: "ready" })).toThrow(/^path must begin with/);
  });
});

describe("feat:O10 healthFallback", () => {
  it("is a listener of a plain server, and passes other paths on", async () => {
    const sessions = testSessions();
    await sessions.ready();
    const ready = healthFallback(sessions);
    const base = await listenForTest((request, response) =>
      ready(request, response, () => response.end("live")),
    );
    const answer = await fetch(`${base}/ready`);
    expect([answer.status, await answer.json()]).toMatchObject([200, { ready: true }]);
    expect(await (await fetch(`${base}/live`)).text()).toBe("live");
    await sessions.drain();
    expect((await fetch(`${base}/ready`, { method: "HEAD" })).status).toBe(503);
    expect((await fetch(`${base}/ready`, { method: "POST" })).status).toBe(405);
  });
});
