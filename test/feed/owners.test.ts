import { describe, expect, it } from "vitest";
import { memoryStore } from "../../src/stores/memory/index.ts";
import { ask, startServer } from "./servers.ts";

/** Two servers on one store. The second one gets no wake-ups and reads the log when it is stale. */
async function twoServers() {
  const store = memoryStore();
  const here = await startServer(store);
  const there = await startServer(store);
  const issue = async (userId: string, tenantId?: string) => {
    const given = tenantId === undefined ? { userId } : { userId, tenantId };
    const { session, tokens } = await here.issue(given);
    return { id: session.id, access: tokens.accessToken };
  };
  return {
    here,
    there,
    issue,
    async [Symbol.asyncDispose]() {
      await Promise.all([here.close(), there.close()]);
    },
  };
}

describe("sec:V05 feat:G3 ending many sessions", () => {
  it("of a user: every server refuses all of them and no others; a later sign-in is accepted", async () => {
    await using world = await twoServers();
    const { here, there, issue } = world;
    const ended = [await issue("alice"), await issue("alice", "acme"), await issue("alice")];
    const other = await issue("bob");
    await here.revokeAll({ userId: "alice" });
    const after = await issue("alice");
    for (const session of ended) {
      await expect.poll(() => ask(there, session)).toBe("SESSION_REVOKED");
      expect(await ask(here, session)).toBe("SESSION_REVOKED");
    }
    expect(await ask(there, other)).toBe("accepted");
    expect(await ask(there, after)).toBe("accepted");
  });

  it("of a tenant: ends those of every user in it, and no others", async () => {
    await using world = await twoServers();
    const { here, there, issue } = world;
    const ended = [await issue("alice", "acme"), await issue("bob", "acme")];
    const others = [await issue("alice"), await issue("alice", "other")];
    await here.revokeAll({ tenantId: "acme" });
    for (const session of ended) {
      await expect.poll(() => ask(there, session)).toBe("SESSION_REVOKED");
    }
    for (const session of others) {
      expect(await ask(there, session)).toBe("accepted");
    }
  });

  it("of a user except one: the excepted session continues", async () => {
    await using world = await twoServers();
    const { here, there, issue } = world;
    const [kept, ended] = [await issue("alice"), await issue("alice")];
    await here.revokeAll({ userId: "alice", except: kept.id });
    await expect.poll(() => ask(there, ended)).toBe("SESSION_REVOKED");
    expect(await ask(there, kept)).toBe("accepted");
  });

  it("while new sessions begin: no earlier session survives", async () => {
    await using world = await twoServers();
    const { here, there, issue } = world;
    const begun: Awaited<ReturnType<typeof issue>>[] = [];
    const beginning = Array.from({ length: 50 }, async () => void begun.push(await issue("eve")));
    await Promise.all([...beginning.slice(0, 25), here.revokeAll({ userId: "eve" })]);
    await Promise.all(beginning);
    await here.revokeAll({ userId: "eve" });
    expect(begun).toHaveLength(50);
    for (const session of begun) {
      await expect.poll(() => ask(there, session)).toBe("SESSION_REVOKED");
    }
    expect((await here.list({ userId: "eve" })).sessions).toEqual([]);
  });
});
