import nodeCrypto from "node:crypto";
import { decodeProtectedHeader, jwtVerify } from "jose";
import { afterEach, describe, expect, it, vi } from "vitest";
import type { SigningAlgorithm } from "../../src/jwt/jwk.ts";
import { accessClaims, accessPayload, now, verifierOf } from "./fixture.ts";

afterEach(() => {
  vi.unstubAllGlobals();
  vi.restoreAllMocks();
  vi.resetModules();
});

const runtimes = {
  "with node:crypto": () => {},
  "without node:crypto": () => {
    vi.stubGlobal("process", { ...process, getBuiltinModule: undefined });
  },
};

/** The signing of a runtime, loaded anew, as it looks for node:crypto when it is loaded. */
async function load(runtime: keyof typeof runtimes, alg: SigningAlgorithm) {
  runtimes[runtime]();
  vi.resetModules();
  const { signAccessToken } = await import("../../src/jwt/keys.ts");
  const { signWith } = await import("../../src/jwt/keys.ts");
  return { signAccessToken, signWith, ...(await makeKeys(alg)) };
}

async function makeKeys(alg: SigningAlgorithm) {
  const keys = await import("../../src/jwt/keys.ts");
  const { generateSigningKey, importSigningKey, importVerificationKey } = keys;
  const { privateJwk, publicJwk } = await generateSigningKey(alg);
  return {
    signing: await importSigningKey(privateJwk),
    verification: await importVerificationKey(publicJwk),
  };
}

describe.each(Object.keys(runtimes) as (keyof typeof runtimes)[])("signing %s", (runtime) => {
  it.each(["ES256", "RS256", "EdDSA"] as const)(
    "makes a token of %s that other libraries verify",
    async (alg) => {
      const { signAccessToken, signing, verification } = await load(runtime, alg);
      // Twice, since the second time the key is known.
      await signAccessToken(accessClaims, signing);
      const token = await signAccessToken(accessClaims, signing);

      expect(decodeProtectedHeader(token)).toEqual({ alg, kid: signing.kid, typ: "at+jwt" });
      const theirs = await jwtVerify(token, verification.key, {
        algorithms: [alg],
        currentDate: new Date(now),
      });
      expect(theirs.payload).toEqual(accessPayload);
      const ours = await verifierOf([verification])(token, now);
      expect(ours).toEqual({ status: "valid", claims: accessClaims });
    },
  );

  it("refuses a key that is not meant for signing", async () => {
    const { signAccessToken, verification } = await load(runtime, "ES256");
    await expect(signAccessToken(accessClaims, verification)).rejects.toThrow();
  });

  it("refuses a key of another algorithm", async () => {
    const { signAccessToken, signing } = await load(runtime, "EdDSA");
    const misnamed = { ...signing, alg: "ES256" } as const;
    await expect(signAccessToken(accessClaims, misnamed)).rejects.toThrow();
  });
});

describe("signing by node:crypto", () => {
  it.each(["ES256", "EdDSA"] as const)("signs %s on this thread", async (alg) => {
    const { signWith, signing } = await load("with node:crypto", alg);
    const subtle = vi.spyOn(crypto.subtle, "sign");
    await signWith(signing, new Uint8Array(32));
    expect(subtle).not.toHaveBeenCalled();
  });

  it("signs with Web Crypto if node:crypto cannot read JWKs", async () => {
    const read = vi.spyOn(nodeCrypto, "createPrivateKey").mockImplementation(() => {
      throw new Error("not implemented");
    });
    const { signAccessToken, signing, verification } = await load("with node:crypto", "ES256");
    expect(read).toHaveBeenCalledOnce();
    const token = await signAccessToken(accessClaims, signing);
    expect((await verifierOf([verification])(token, now)).status).toBe("valid");
  });

  it("causes no deprecation warning", async () => {
    const warn = vi.spyOn(process, "emitWarning").mockReturnValue();
    const { signWith, signing } = await load("with node:crypto", "ES256");
    await signWith(signing, new Uint8Array(32));
    expect(warn).not.toHaveBeenCalled();
  });

  it("leaves RS256, which is slow, to another thread", async () => {
    const { signWith, signing } = await load("with node:crypto", "RS256");
    const subtle = vi.spyOn(crypto.subtle, "sign");
    await signWith(signing, new Uint8Array(32));
    expect(subtle).toHaveBeenCalledOnce();
  });
});
