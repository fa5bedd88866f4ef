import { afterEach, describe, expect, it, vi } from "vitest";
import { equalBytes, openSecretRing, readSecretOption } from "../src/base/crypto.ts";

const issuer = "https://api.example.com";
const secret = "0123456789abcdef0123456789abcdef";
const data = new TextEncoder().encode("data");

afterEach(() => {
  vi.unstubAllGlobals();
  vi.resetModules();
});

describe("readSecretOption", () => {
  it.each([
    ["31 bytes", secret.slice(1)],
    ["one of several too short", [secret, "short"]],
    ["none", []],
    ["31 bytes of binary", new Uint8Array(31)],
  ])("refuses: %s", (_name, option) => {
    expect(() => readSecretOption(option)).toThrow(TypeError);
  });

  it("counts bytes, not characters", () => {
    expect(readSecretOption("ü".repeat(16))).toHaveLength(1);
  });

  it("never puts the secret into a message", () => {
    expect(() => readSecretOption("hunter2")).not.toThrow(/hunter2/);
  });
});

describe("openSecretRing", () => {
  it("derives different keys for each purpose, issuer and secret", async () => {
    const rings = await Promise.all([
      openSecretRing(readSecretOption(secret), issuer),
      openSecretRing(readSecretOption(secret), "https://other.example"),
      openSecretRing(readSecretOption(`${secret}!`), issuer),
    ]);
    const codes = await Promise.all(
      rings.flatMap(({ current }) =>
        [current.refreshTag, current.refreshCheck, current.antiCsrf].map(async (mac) =>
          mac.sign(data),
        ),
      ),
    );
    expect(new Set(codes.map((code) => Buffer.from(code).toString("hex"))).size).toBe(9);
    expect(new Set(rings.map((ring) => ring.current.id)).size).toBe(3);
  });

  it("uses the first secret for new tokens, and finds all of them", async () => {
    const ring = await openSecretRing(readSecretOption([secret, `${secret}!`]), issuer);
    const second = await openSecretRing(readSecretOption(`${secret}!`), issuer);
    expect(ring.current.id).not.toBe(second.current.id);
    expect(ring.byId.get(second.current.id)).toBeDefined();
    expect(ring.byId.get("nobody's")).toBeUndefined();
  });

  it("computes the same codes without node:crypto", async () => {
    const here = await openSecretRing(readSecretOption(secret), issuer);
    vi.stubGlobal("process", { ...process, getBuiltinModule: undefined });
    vi.resetModules();
    const elsewhere = await import("../src/base/crypto.ts");
    const ring = await elsewhere.openSecretRing(elsewhere.readSecretOption(secret), issuer);
    const [a, b] = [here.current.refreshTag.sign(data), ring.current.refreshTag.sign(data)];
    expect(b).toBeInstanceOf(Promise);
    expect(Buffer.from(await b)).toEqual(Buffer.from(await a));
    expect(await ring.current.refreshTag.verify(data, await a)).toBe(true);
    expect(await ring.current.refreshTag.verify(data, (await a).subarray(1))).toBe(false);
    expect(elsewhere.equalBytes(await a, await b)).toBe(true);
    expect(elsewhere.equalBytes(await a, new Uint8Array(32))).toBe(false);
    expect(elsewhere.equalBytes(await a, (await b).subarray(1))).toBe(false);
  });
});

describe("equalBytes", () => {
  it.each([
    [[], [], true],
    [[1, 2], [1, 2], true],
    [[1, 2], [1, 3], false],
    [[1, 2], [1, 2, 0], false],
    [[0], [], false],
  ])("%j and %j: %s", (a, b, equal) => {
    expect(equalBytes(Uint8Array.from(a), Uint8Array.from(b))).toBe(equal);
  });
});
