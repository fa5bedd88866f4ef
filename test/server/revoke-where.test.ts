import type { SessionEvent, SessionStore } from "rpc-session";
import { fromFetch } from "rpc-session/http";
import { memoryStore } from "rpc-session/stores/memory";
import { testSessions } from "rpc-session/testing";
import { describe, expect, it } from "vitest";
import { watchedStore } from "../helpers/watched-store.ts";

/** A server that takes the address of a client from a header. */
function world(store: SessionStore = memoryStore(), events: SessionEvent[] = []) {
  const sessions = testSessions({
    ...{ store, auditLog: {}, onEvent: (event) => events.push(event) },
    clientIp: ({ requestHeader }) => requestHeader.get("x-test-ip") ?? undefined,
  });
  const signIn = async (ip: string | undefined, userAgent = "Agent/1.0") => {
    const headers = { "user-agent": userAgent, "rpcsession-transport": "header" };
    const request = new Request("https://test.example/login", {
      ...{
        method: "POST",
        headers: { ...headers, ...(ip === undefined ? {} : { "x-test-ip": ip }) },
      },
    });
    return (await sessions.create(fromFetch(request), { userId: "alice" })).id;
  };
  const live = async (...userIds: readonly string[]) => {
    const lists = await Promise.all(userIds.map((userId) => sessions.list({ userId })));
    return lists.flatMap((list) => list.sessions.map(({ id }) => id)).toSorted();
  };
  return { sessions, signIn, live };
}

describe("feat:G5 revokeWhere", () => {
  it.each([
    ["203.0.113.0/24", "203.0.113.9", true],
    ["203.0.113.0/24", "203.0.114.9", false],
    ["203.0.113.77/24", "203.0.113.9", true],
    ["203.0.113.9", "203.0.113.9", true],
    ["203.0.113.9", "203.0.113.8", false],
    ["203.0.113.8/31", "203.0.113.9", true],
    ["0.0.0.0/0", "198.51.100.1", true],
    ["0.0.0.0/0", "2001:db8::1", false],
    ["203.0.113.0/24", "::ffff:203.0.113.9", true],
    ["::ffff:203.0.113.0/120", "203.0.113.9", true],
    ["::ffff:cb00:7100/120", "203.0.114.9", false],
    ["2001:db8::/32", "2001:db8:1::1", true],
    ["2001:db8::/32", "2001:db9::1", false],
    ["2001:DB8::1", "2001:db8:0:0:0:0:0:1", true],
    ["fe80::/10", "fe80::1%eth0", true],
    ["::/0", "203.0.113.9", false],
    ["::1", "::1", true],
    ["203.0.113.0/24", "unknown", false],
    ["203.0.113.0/24", undefined, false],
  ])("%s contains %s: %s", async (range, ip, isIn) => {
    const { sessions, signIn, live } = world();
    await signIn(ip);
    expect(await sessions.revokeWhere({ addresses: ["192.0.2.1", range] })).toBe(isIn ? 1 : 0);
    expect(await live("alice")).toHaveLength(isIn ? 0 : 1);
  });

  it("ends sessions by device, by a claim and by their beginning, of all users and tenants", async () => {
    const { sessions, signIn, live } = world();
    const evil = await signIn("192.0.2.1", "Evil/2.0");
    const admin = (await sessions.issue({ userId: "bob", claims: { role: "admin" } })).session.id;
    const user = { userId: "carol", tenantId: "acme", claims: { role: "user" } };
    const old = (await sessions.issue(user)).session.id;
    sessions.clock.advance("1h");
    const begin = new Date(sessions.clock.now());
    const young = (await sessions.issue(user)).session.id;
    const all = () => live("alice", "bob", "carol");

    const isEvil = {
      where: ({ device }: { device: { userAgent?: string } }) =>
        device.userAgent?.startsWith("Evil/") === true,
    };
    expect(await sessions.revokeWhere(isEvil)).toBe(1);
    expect(await all()).toEqual([admin, old, young].toSorted());
    expect(evil).not.toBe(admin);
    expect(await sessions.revokeWhere({ where: ({ claims }) => claims?.role === "admin" })).toBe(1);
    expect(await all()).toEqual([old, young].toSorted());
    // Every member must be met.
    expect(await sessions.revokeWhere({ createdBefore: begin, where: () => false })).toBe(0);
    expect(await sessions.revokeWhere({ createdBefore: begin })).toBe(1);
    expect(await all()).toEqual([young]);
  });

  it("takes batches of 500, reads few sessions at a time, and reports and records each end", async () => {
    const { store, calls } = watchedStore();
    let reading = 0;
    let most = 0;
    const counted = new Proxy(store, {
      get: (target, name) =>
        name !== "load"
          ? Reflect.get(target, name)
          : async (id: string) => {
              reading += 1;
              most = Math.max(most, reading);
              const found = await target.load(id);
              reading -= 1;
              return found;
            },
    });
    const events: SessionEvent[] = [];
    const { sessions } = world(counted, events);
    for (let i = 0; i < 1_100; i++) {
      await sessions.issue({ userId: i % 2 === 0 ? "even" : "odd" });
    }
    sessions.clock.advance("1s");
    calls.splice(0);
    const cause = { by: "admin:7", reason: "even users" };
    expect(await sessions.revokeWhere({ where: ({ userId }) => userId === "even" }, cause)).toBe(
      550,
    );
    expect(calls.filter((name) => name === "revokeAll")).toHaveLength(3);
    expect(most).toBeLessThanOrEqual(8);
    expect(events.filter((e) => e.type === "revoked" && e.by === "admin:7")).toHaveLength(550);
    const { entries } = await sessions.auditLog.list({ userId: "even", pageSize: 1_000 });
    expect(entries.filter((e) => e.reason === "even users")).toHaveLength(550);
  });

  it("fails as unavailable in an outage, and can be called again", async () => {
    const { store, failing } = watchedStore();
    const { sessions } = world(store);
    await sessions.issue({ userId: "alice" });
    for (const method of ["liveIds", "load", "revokeAll"] as const) {
      failing.add(method);
      await expect(sessions.revokeWhere({ where: () => true })).rejects.toMatchObject({
        kind: "unavailable",
      });
      failing.clear();
    }
    expect(await sessions.revokeWhere({ where: () => true })).toBe(1);
  });

  it.each([
    [{}, "the condition is empty; set addresses, createdBefore or where"],
    [{ adresses: ["192.0.2.1"] }, "adresses"],
    [{ addresses: [] }, "addresses must be an array of 1 to 1000"],
    [{ addresses: "192.0.2.1" }, "addresses must be an array"],
    ...[
      "",
      "192.0.2",
      "192.0.2.256",
      "192.0.2.01",
      "192.0.2.0/33",
      "192.0.2.0/",
      "::/129",
      "1::2::3",
    ]
      .concat(
        "::ffff:192.0.2.0/95",
        ":::",
        "12345::",
        "1:2:3:4:5:6:7",
        "1:2:3:4:5:6:7:8:9",
        "::1.2.3",
      )
      .map((text): [object, string] => [
        { addresses: [text] },
        "addresses[0] must be an IP address",
      ]),
    [{ createdBefore: "2026-01-01" }, "createdBefore must be a valid Date"],
    [{ createdBefore: new Date(Number.NaN) }, "createdBefore must be a valid Date"],
    [{ where: "all" }, "where must be a function, got string"],
    [{ where: async () => false }, "where must return true or false, got object"],
  ])("refuses %j and ends nothing", async (condition, message) => {
    const { sessions, live } = world();
    await sessions.issue({ userId: "alice" });
    const call = sessions.revokeWhere(condition as never);
    await expect(call).rejects.toThrow(TypeError);
    await expect(call).rejects.toThrow(message);
    expect(await live("alice")).toHaveLength(1);
  });
});
