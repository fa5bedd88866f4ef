import { memoryStore } from "rpc-session/stores/memory";
import { afterEach, describe, expect, it, vi } from "vitest";
import * as withNode from "../../src/base/crypto.ts";
import { createSessions } from "../../src/create-sessions.ts";

type CryptoModule = typeof withNode;

/** Runtimes without `node:crypto` use Web Crypto. Loads modules again as they see the runtime. */
async function withoutNode<T>(load: () => Promise<T>): Promise<T> {
  vi.spyOn(process, "getBuiltinModule").mockReturnValue(undefined as never);
  vi.resetModules();
  return load();
}

afterEach(() => {
  vi.restoreAllMocks();
  vi.resetModules();
});

const secret = withNode.readSecretOption("a".repeat(32));
const issuer = "https://api.example.com";
const text = new TextEncoder().encode("some data");

describe("without node:crypto", () => {
  it("the codes are those of node:crypto", async () => {
    const web = await withoutNode<CryptoModule>(() => import("../../src/base/crypto.ts"));
    expect([withNode.nodeCrypto === undefined, web.nodeCrypto]).toEqual([false, undefined]);
    const [ours, theirs] = [
      (await withNode.openSecretRing(secret, issuer)).current,
      (await web.openSecretRing(secret, issuer)).current,
    ];
    expect(theirs.id).toBe(ours.id);
    for (const [purpose, length] of [
      ["refreshTag", 32],
      ["refreshCheck", 8],
      ["antiCsrf", 32],
    ] as const) {
      const code = await theirs[purpose].sign(text);
      expect(code).toHaveLength(length);
      expect([...code]).toEqual([...(await ours[purpose].sign(text))]);
    }
  });

  it.each([
    ["equal", [1, 2, 3], [1, 2, 3], true],
    ["empty", [], [], true],
    ["different at the start", [9, 2, 3], [1, 2, 3], false],
    ["different at the end", [1, 2, 3], [1, 2, 9], false],
    ["different in one bit", [1, 2, 128], [1, 2, 0], false],
    ["shorter", [1, 2], [1, 2, 3], false],
    ["longer", [1, 2, 3], [1, 2], false],
    ["longer by zeros", [1, 2, 0], [1, 2], false],
    ["two differences that cancel out", [1, 1], [0, 0], false],
  ])("byte strings are compared: %s", async (_, a, b, expected) => {
    const web = await withoutNode<CryptoModule>(() => import("../../src/base/crypto.ts"));
    for (const { equalBytes } of [web, withNode]) {
      expect(equalBytes(Uint8Array.from(a), Uint8Array.from(b))).toBe(expected);
    }
  });

  it("a session goes on across servers with and without it", async () => {
    const web = await withoutNode(() => import("../../src/create-sessions.ts"));
    const store = memoryStore();
    const options = { issuer, secret: "a".repeat(32), store };
    const servers = [createSessions(options), web.createSessions(options)] as const;
    const tokens = await Promise.all(
      servers.map((server) => server.issue({ userId: "alice", transport: "header" })),
    );
    for (const server of servers) {
      for (const { session, tokens: issued } of tokens) {
        const exchange = (token: string) => ({
          requestHeader: new Headers({ authorization: `Bearer ${token}` }),
          responseHeader: new Headers(),
          requestMethod: "POST",
        });
        const found = await server.getSession(exchange(issued.accessToken));
        expect(found?.id).toBe(session.id);
        const forged = `${issued.accessToken.slice(0, -6)}AAAAAA`;
        await expect(server.getSession(exchange(forged))).rejects.toThrow();
      }
    }
    await Promise.all(servers.map((server) => server.close()));
  });
});
