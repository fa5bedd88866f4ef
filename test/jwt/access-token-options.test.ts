import { describe, expect, it } from "vitest";
import {
  type AccessTokenVerifierOptions,
  createAccessTokenVerifier,
  signAccessToken,
} from "../../src/jwt/verifier.ts";
import { accessClaims, clockSkew, makeKeys, maxLife, now, verifierOf } from "./fixture.ts";

describe("createAccessTokenVerifier options", () => {
  it.each<[string, Partial<AccessTokenVerifierOptions>]>([
    ["issuer", { issuer: "" }],
    ["audience", { audience: "" }],
    ["maxLife", { maxLife: 0 }],
    ["maxLife", { maxLife: Number.POSITIVE_INFINITY }],
    ["maxLife", { maxLife: Number.NaN }],
    ["clockSkew", { clockSkew: -1 }],
    ["clockSkew", { clockSkew: Number.NaN }],
  ])("refuses an invalid %s", (name, change) => {
    expect(() => verifierOf([], change)).toThrow(name);
  });

  it("are read only once", async () => {
    const keys = await makeKeys();
    const token = await signAccessToken(accessClaims, keys.signing);
    const options = {
      ...{ issuer: accessClaims.iss, audience: accessClaims.aud, maxLife, clockSkew },
      keys: { find: () => keys.verification },
    };
    const verify = createAccessTokenVerifier(options);
    options.issuer = "https://evil.example";
    expect((await verify(token, now)).status).toBe("valid");
  });
});
