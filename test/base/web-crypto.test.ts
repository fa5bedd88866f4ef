import { memoryStore } from "rpc-session/stores/memory";
import { afterEach, describe, expect, it, vi } from "vitest";
import * as withNode from "../../src/base/crypto.ts";
import { createSessions } from "../../src/create-sessions.ts";
import { AntiCsrf } from "../../src/engine/macs/anti-csrf.ts";
import { testSessions } from "../../src/testing/test-sessions.ts";
import { verifySessions } from "../../src/verify.ts";
import { accessOf, apiOf } from "../helpers/api.ts";

type CryptoModule = typeof withNode;

/** Runtimes without `node:crypto` use Web Crypto. Loads modules again as they see the runtime. */
async function withoutNode<T>(load: () => Promise<T>): Promise<T> {
  vi.spyOn(process, "getBuiltinModule").mockReturnValue(undefined as never);
  vi.resetModules();
  return load();
}

afterEach(() => {
  vi.unstubAllGlobals();
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

  it.each(["node:crypto", "Web Crypto"])(
    "a refresh token with any part changed is refused by %s, and the token of either runtime is accepted",
    async (runtime) => {
      const web = await withoutNode(() => import("../../src/testing/test-sessions.ts"));
      const store = memoryStore();
      const options = { secret: "a".repeat(32), store };
      const [ours, theirs] = [testSessions(options), web.testSessions(options)];
      const server = runtime === "node:crypto" ? ours : theirs;
      const api = apiOf(server);
      for (const issuing of [ours, theirs]) {
        const { tokens } = await issuing.issue({ userId: "alice", transport: "header" });
        const parts = tokens.refreshToken.split(".");
        for (const [i, part] of parts.entries()) {
          const other = part.startsWith("A") ? "B" : "A";
          const forged = parts.with(i, `${other}${part.slice(1)}`).join(".");
          expect((await api.refresh("header", forged)).error?.code).not.toBeUndefined();
        }
        const refreshed = await api.refresh("header", tokens.refreshToken);
        expect(refreshed.error).toBeUndefined();
        expect((await api.call({ bearer: accessOf(refreshed) ?? "" }, () => {})).error).toBe(
          undefined,
        );
      }
      await Promise.all([ours.close(), theirs.close()]);
    },
  );

  it("the anti-CSRF token of one session does not serve another, and that of the other runtime does", async () => {
    const web = await withoutNode(() => import("../../src/engine/macs/anti-csrf.ts"));
    const webCrypto = await import("../../src/base/crypto.ts");
    const [ours, theirs] = [
      new AntiCsrf(await withNode.openSecretRing(secret, issuer)),
      new web.AntiCsrf(await webCrypto.openSecretRing(secret, issuer)),
    ];
    expect(webCrypto.nodeCrypto).toBeUndefined();
    for (const minting of [ours, theirs]) {
      const token = await minting.mint("s1");
      for (const verifying of [ours, theirs]) {
        expect(await verifying.verify("s1", token)).toBe(true);
        expect(await verifying.verify("s2", token)).toBe(false);
        expect(await verifying.verify("s1", `${token.slice(0, -1)}A`)).toBe(token.endsWith("A"));
        expect(await verifying.verify("s1", "")).toBe(false);
      }
    }
  });

  it.each(["ES256", "RS256", "EdDSA"] as const)(
    "signs %s so that node:crypto accepts it, and reads stored keys that it sealed",
    async (algorithm) => {
      const web = await withoutNode(() => import("../../src/testing/test-sessions.ts"));
      const store = memoryStore();
      const options = { secret: "a".repeat(32), store, algorithm };
      const [first, second] = [web.testSessions(options), testSessions(options)];
      for (const [signing, verifying] of [
        [first, second],
        [second, first],
      ] as const) {
        const { tokens } = await signing.issue({ userId: "alice" });
        const answer = await apiOf(verifying).call({ bearer: tokens.accessToken }, () => {});
        expect(answer.error).toBeUndefined();
      }
      await Promise.all([first.close(), second.close()]);
    },
  );
});

describe("a platform without Web Crypto", () => {
  const store = memoryStore();
  const secretOption = "a".repeat(32);

  it.each([
    ["createSessions", () => createSessions({ issuer, secret: secretOption, store })],
    ["verifySessions", () => verifySessions({ issuer, jwks: { keys: [] } })],
    ["memoryStore", () => memoryStore()],
  ])("%s throws before anything is opened", (_name, create) => {
    expect(create).not.toThrow();
    for (const lacking of [{ getRandomValues: () => {} }, undefined]) {
      vi.stubGlobal("crypto", lacking);
      expect(create).toThrow(TypeError);
      expect(create).toThrow("crypto.subtle is missing");
    }
  });

  it.each([
    ["a page over plain http", { userAgent: "Mozilla/5.0" }, false, /Mozilla.*over https/],
    ["jsdom", { userAgent: "Mozilla/5.0 jsdom/26" }, false, /jsdom\/26.*docs\/testing\.md/],
    ["React Native", { product: "ReactNative" }, undefined, /\(ReactNative\).*\/client/],
    ["an old runtime", { userAgent: "Node.js/18" }, undefined, /Node\.js\/18.*22\.13/],
    ["a runtime without a name", undefined, undefined, /\(unknown\).*docs\/runtimes\.md/],
  ])("the error names %s, and says what to do", (_name, navigator, isSecureContext, expected) => {
    vi.stubGlobal("crypto", {});
    vi.stubGlobal("navigator", navigator);
    vi.stubGlobal("isSecureContext", isSecureContext);
    expect(() => createSessions({ issuer, secret: secretOption, store })).toThrow(expected);
  });
});
