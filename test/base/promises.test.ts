import { runInNewContext } from "node:vm";
import { afterEach, describe, expect, it, vi } from "vitest";
import { isPromise, whenKnown } from "../../src/base/promises.ts";
import type { VerifiedToken } from "../../src/jwt/verifier.ts";
import { accessClaims, clockSkew, maxLife, now } from "../jwt/fixture.ts";

afterEach(() => {
  vi.unstubAllGlobals();
  vi.resetModules();
});

/** Returns a promise of another realm, for which `instanceof Promise` is false. */
const ofAnotherRealm = runInNewContext("async (value) => value") as <T>(
  value: T,
) => Promise<Awaited<T>>;

describe("a promise of another class", () => {
  it("is recognised, and waited for", async () => {
    const promise = ofAnotherRealm(2);
    expect(promise).not.toBeInstanceOf(Promise);
    expect(isPromise(promise)).toBe(true);
    expect(await whenKnown(promise, (value) => value + 1)).toBe(3);
  });

  it.each([[undefined], [null], [true], [2], ["text"], [{}]])("is not %o", (value) => {
    expect(isPromise<unknown>(value)).toBe(false);
    expect(whenKnown<unknown, string>(value, () => "at once")).toBe("at once");
  });

  it.each([
    ["at hand", <T>(key: T) => key],
    ["looked up", ofAnotherRealm],
  ])("of Web Crypto does not make a forged token valid: key %s", async (_, found) => {
    vi.stubGlobal("process", { ...process, getBuiltinModule: undefined });
    vi.resetModules();
    const { createAccessTokenVerifier } = await import("../../src/jwt/verifier.ts");
    const keys = await import("../../src/jwt/keys.ts");
    const { privateJwk, publicJwk } = await keys.generateSigningKey("ES256");
    const verification = await keys.importVerificationKey(publicJwk);
    const token = await keys.signAccessToken(accessClaims, await keys.importSigningKey(privateJwk));
    const forged = `${token.slice(0, token.lastIndexOf("."))}.${"A".repeat(86)}`;
    const { iss: issuer, aud: audience } = accessClaims;
    const verify = createAccessTokenVerifier({
      ...{ issuer, audience, maxLife, clockSkew },
      keys: { find: () => found(verification) },
    });
    const { subtle } = crypto;
    const verifyOfWebCrypto = vi.fn<typeof subtle.verify>((...given) =>
      ofAnotherRealm(subtle.verify(...given)),
    );
    vi.stubGlobal("crypto", { subtle: { verify: verifyOfWebCrypto } });
    const statusOf = async (text: string): Promise<VerifiedToken["status"]> =>
      (await verify(text, now)).status;
    expect(await statusOf(token)).toBe("valid");
    expect(await statusOf(forged)).toBe("invalid");
    expect(verifyOfWebCrypto).toHaveBeenCalled();
  });
});
