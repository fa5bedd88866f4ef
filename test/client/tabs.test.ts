import { describe, expect, it, onTestFinished, vi } from "vitest";
import { TabLock } from "../../src/client/refresh/refresher.ts";
import { FakeClock } from "./helpers/clock.ts";
import { realm } from "./helpers/fake-server.ts";
import { latch, type Setup, settle, setup, signedIn } from "./helpers/setup.ts";

/** Another tab of the same browser. */
function tab({ server, clock, jar }: Setup, options = {}): Setup {
  return setup("cookie", { server, clock, jar, ...options });
}

async function holds(check: () => void): Promise<void> {
  await vi.waitFor(check, { interval: 1 });
}

describe("two tabs that share cookies", () => {
  it("feat:P6 learn of each other's sign-in and sign-out", async () => {
    const one = await signedIn("cookie", { realm });
    const two = tab(one, { realm });
    await one.session.signOut();
    await holds(() => expect(two.session.state.status).toBe("signedOut"));
    expect(two.events.at(-1)).toEqual({ type: "signedOut", sessionId: "s1", by: "otherTab" });
    await one.notes.signIn({});
    await holds(() => expect(two.session.state.status).toBe("signedIn"));
    expect(two.session.state.sessionId).toBe(one.session.state.sessionId);
  });

  it("feat:P6 follow the sign-out of a tab that has just loaded its page and does not know its session", async () => {
    const one = await signedIn("cookie");
    const two = tab(one);
    await settle();
    expect(two.session.state).toEqual({ status: "unknown" });
    await two.session.signOut();
    await holds(() => expect(one.session.state.status).toBe("signedOut"));
    expect(one.events.at(-1)).toEqual({ type: "signedOut", sessionId: "s1", by: "otherTab" });
  });

  it("feat:P6 after a sign-in in another tab, a client that does not know its realm asks its own service", async () => {
    const one = setup("cookie");
    const two = tab(one);
    await two.session.signOut();
    expect(two.session.state).toEqual({ status: "signedOut" });
    await settle();
    await one.notes.signIn({});
    // The other tab may have signed in to another service, so the message alone does not count.
    const known = { status: "signedIn", sessionId: "s1", realm };
    await holds(() => expect(two.session.state).toMatchObject(known));
    expect(one.server.count("Refresh")).toBe(1);
    expect(one.server.sessions[0]?.generation).toBe(1);
  });

  it("feat:P2 do not refresh again after one of them has refreshed", async () => {
    const one = await signedIn("cookie");
    const two = tab(one);
    await two.session.refresh();
    one.clock.advance(800_000);
    const refreshes = one.server.count("Refresh");
    await one.session.refresh();
    await holds(() => expect(two.session.state.sessionId).toBe("s1"));
    await settle();
    await two.notes.addNote({});
    await settle();
    expect(one.server.count("Refresh")).toBe(refreshes + 1);
  });

  it("feat:P2 refresh one after the other, and check first whether a refresh is still necessary", async () => {
    const one = await signedIn("cookie");
    const two = tab(one);
    await two.session.refresh();
    await settle();
    const refreshes = one.server.count("Refresh");
    const slow = latch();
    one.server.hold.Refresh = slow.promise;
    const both = [one.session.refresh(), two.session.refresh()];
    await settle();
    expect(one.server.count("Refresh")).toBe(refreshes + 1);
    slow.open();
    await Promise.all(both);
    expect(one.server.count("Refresh")).toBeLessThanOrEqual(refreshes + 2);
  });

  it("ignore messages about another realm or session, and malformed messages", async () => {
    const one = await signedIn("cookie");
    const channel = new BroadcastChannel("rpc-session");
    onTestFinished(() => channel.close());
    channel.postMessage({ type: "signedOut", session: "s1", realm: "https://other" });
    channel.postMessage({ type: "signedOut", session: "s9", realm });
    channel.postMessage("junk");
    channel.postMessage({ type: "signedIn" });
    channel.postMessage({ type: "refreshed", session: "s1", realm, order: null, expiresIn: 1_000 });
    channel.postMessage({ type: "refreshed", session: "s1", realm, order: {} });
    await settle();
    expect(one.session.state.status).toBe("signedIn");
  });

  it("send no token in their messages and do not answer them", async () => {
    const messages: unknown[] = [];
    const channel = new BroadcastChannel("rpc-session");
    onTestFinished(() => channel.close());
    channel.onmessage = (event) => messages.push((event as MessageEvent<unknown>).data);
    const one = await signedIn("cookie");
    tab(one);
    await one.session.refresh();
    await one.session.signOut();
    await holds(() => expect(messages).toHaveLength(3));
    await settle();
    expect(messages).toMatchObject([
      { type: "signedIn" },
      { type: "refreshed" },
      { type: "signedOut" },
    ]);
    expect(JSON.stringify(messages)).not.toMatch(/[ar]t\.s1/);
  });

  it("exchange no messages after session.close(), while the closed client keeps working", async () => {
    const one = await signedIn("cookie");
    const two = tab(one);
    await two.session.refresh();
    one.session.close();
    await one.session.refresh();
    await one.notes.addNote({});
    await one.session.signOut();
    await settle();
    expect(one.session.state.status).toBe("signedOut");
    expect(two.session.state.status).toBe("signedIn");
  });

  it("send no messages in header mode", async () => {
    const one = await signedIn("header");
    const two = tab(one);
    await one.session.signOut();
    await settle();
    expect(two.session.state.status).toBe("unknown");
  });
});

describe("TabLock", () => {
  it("feat:P2 runs the work without the lock after its timeout", async () => {
    const clock = new FakeClock();
    const held = latch();
    const one = new TabLock({ name: "test", ms: 500, clock });
    const two = new TabLock({ name: "test", ms: 500, clock });
    const first = one.run(() => held.promise);
    await settle();
    const second = two.run(async () => "done");
    await settle();
    clock.advance(500);
    expect(await second).toBe("done");
    held.open();
    await first;
    expect(clock.pending).toBe(0);
  });

  it("waits once for a lock that a frozen tab holds, and takes turns again when it is free", async () => {
    const clock = new FakeClock();
    const frozen = latch();
    const orphan = new TabLock({ name: "orphan", ms: 500, clock }).run(() => frozen.promise);
    await settle();
    const lock = new TabLock({ name: "orphan", ms: 500, clock });
    const first = lock.run(async () => "waited");
    await settle();
    clock.advance(500);
    expect(await first).toBe("waited");
    // The clock stands still from now on.
    expect(await lock.run(async () => "at once")).toBe("at once");
    expect(await lock.run(async () => "at once")).toBe("at once");
    frozen.open();
    await orphan;
    const turn = latch();
    const order: string[] = [];
    const holding = lock.run(async () => {
      await turn.promise;
      order.push("first");
    });
    await settle();
    const other = new TabLock({ name: "orphan", ms: 500, clock });
    const waiting = other.run(async () => void order.push("second"));
    await settle();
    turn.open();
    await Promise.all([holding, waiting]);
    expect(order).toEqual(["first", "second"]);
    expect(clock.pending).toBe(0);
  });

  it("runs the work once and rethrows its error", async () => {
    let runs = 0;
    const work = async (): Promise<void> => {
      runs += 1;
      throw new Error("work");
    };
    const lock = new TabLock({ name: "test", ms: 500, clock: new FakeClock() });
    await expect(lock.run(work)).rejects.toThrow("work");
    expect(runs).toBe(1);
  });

  it("works without Web Locks and BroadcastChannel", async () => {
    vi.stubGlobal("navigator", undefined);
    vi.stubGlobal("BroadcastChannel", undefined);
    onTestFinished(() => {
      vi.unstubAllGlobals();
    });
    const { server, notes } = await signedIn("cookie");
    server.expireAll();
    await notes.addNote({});
    expect(server.count("Refresh")).toBe(1);
  });
});
