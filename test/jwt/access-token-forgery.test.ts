import { createHmac, createPublicKey } from "node:crypto";
import { exportJWK, generateKeyPair, SignJWT } from "jose";
import { beforeAll, describe, expect, it, vi } from "vitest";
import type { VerificationKey } from "../../src/jwt/keys.ts";
import { signAccessToken } from "../../src/jwt/verifier.ts";
import {
  accepted,
  accessClaims,
  accessPayload,
  base64url,
  forge,
  type Keys,
  type Look,
  lookWith,
  makeKeys,
  malformed,
  now,
  refused,
  refusedEarly,
  verifierOf,
} from "./fixture.ts";

let keys: Keys;
let token: string;

beforeAll(async () => {
  keys = await makeKeys();
  token = await signAccessToken(accessClaims, keys.signing);
});

const look = (candidate: string): Promise<Look> => lookWith(keys.verification, candidate);
const headerOf = (change: object): object => ({
  ...{ alg: "ES256", kid: keys.signing.kid, typ: "at+jwt" },
  ...change,
});
describe("feat:B10 alg", () => {
  it.each(["none", "nOnE", "None", "NONE", "", "es256", "ES256 ", "HS256", "RS256", "ES384"])(
    "sec:J01 refuses %j before any key lookup, even with a valid signature",
    async (alg) => {
      expect(await look(await forge(headerOf({ alg }), accessPayload, keys.signing))).toEqual(
        refusedEarly,
      );
    },
  );

  it.each([undefined, null, 256, ["ES256"], { ES256: 1 }, true])(
    "sec:J01 refuses %j as malformed",
    async (alg) => {
      expect(await look(await forge(headerOf({ alg }), accessPayload, keys.signing))).toEqual(
        malformed,
      );
    },
  );

  it("sec:J01 refuses a token without signature", async () => {
    const input = `${base64url(headerOf({ alg: "none" }))}.${base64url(accessPayload)}`;
    expect(await look(`${input}.`)).toEqual(malformed);
    expect(await look(`${input}.AA`)).toEqual(refusedEarly);
  });

  it.each(["HS256", "HS384", "HS512", "ES256"])(
    "sec:J02 refuses %s with the public key as its secret",
    async (alg) => {
      const publicJwk = await exportJWK(keys.verification.key);
      const node = createPublicKey({ key: publicJwk, format: "jwk" });
      const pem = String(node.export({ type: "spki", format: "pem" }));
      const jwk = JSON.stringify(publicJwk);
      const der = node.export({ type: "spki", format: "der" });
      const input = `${base64url(headerOf({ alg }))}.${base64url(accessPayload)}`;
      for (const secret of [pem, ` ${pem}`, pem.trim(), der, jwk, ` ${jwk}`]) {
        const hash = `sha${alg.slice(-3)}`;
        const mac = createHmac(hash, secret).update(input).digest();
        expect(await look(`${input}.${base64url(mac)}`)).toEqual(refusedEarly);
      }
    },
  );

  it.each([
    ["ES384", refusedEarly],
    ["ES512", refusedEarly],
    ["PS256", refusedEarly],
    ["RS256", refused],
    ["EdDSA", refused],
    ["Ed25519", refused],
  ])(
    "sec:J03 refuses a valid signature of %s, with its own alg and with the key's",
    async (alg, expected) => {
      const { privateKey } = await generateKeyPair(alg, { extractable: true });
      const { kid } = keys.signing;
      const own = await new SignJWT(accessPayload)
        .setProtectedHeader({ alg, kid, typ: "at+jwt" })
        .sign(privateKey);
      expect(await look(own)).toEqual(expected);
      const renamed = [base64url(headerOf({})), ...own.split(".").slice(1)].join(".");
      expect((await look(renamed)).status).toBe("invalid");
    },
  );

  it("sec:J03 uses the algorithm of the key", async () => {
    const other = { ...keys.verification, alg: "ES384" } as unknown as VerificationKey;
    expect(await verifierOf([other])(token, now)).toEqual({ status: "invalid" });
  });
});

describe("feat:B10 typ and the other header members", () => {
  it.each(["at+jwt", "AT+JWT", "At+Jwt", "application/at+jwt", "APPLICATION/AT+jwt"])(
    "sec:J13 accepts typ %s",
    async (typ) => {
      expect(await look(await forge(headerOf({ typ }), accessPayload, keys.signing))).toEqual(
        accepted,
      );
    },
  );

  it.each([
    ...["JWT", "jwt", "rt+jwt", "id+jwt", "refresh", "", "at+jwt ", " at+jwt", "at+jwtx"],
    ...["application/jwt", "application/application/at+jwt", "text/at+jwt", "/at+jwt", "at jwt"],
  ])("sec:J13 sec:J14 refuses typ %j before any key lookup", async (typ) => {
    expect(await look(await forge(headerOf({ typ }), accessPayload, keys.signing))).toEqual(
      refusedEarly,
    );
  });

  it("sec:J05 never uses a key inside the token", async () => {
    const thief = await makeKeys();
    const jwk = await exportJWK(thief.verification.key);
    const fetched = vi.spyOn(globalThis, "fetch");
    const url = "https://evil.example/jwks";
    for (const extra of [{ jwk }, { jku: url }, { x5u: url }, { x5c: ["AAAA"] }]) {
      for (const { signing } of [thief, keys]) {
        expect(await look(await forge(headerOf(extra), accessPayload, signing))).toEqual(malformed);
      }
    }
    expect(fetched).not.toHaveBeenCalled();
    fetched.mockRestore();
  });

  it.each([
    { crit: ["exp"] },
    { crit: [] },
    { b64: true },
    { b64: false, crit: ["b64"] },
    { zip: "DEF" },
    { cty: "JWT" },
  ])("sec:J06 refuses %j, although the signature is valid", async (extra) => {
    expect(await look(await forge(headerOf(extra), accessPayload, keys.signing))).toEqual(
      malformed,
    );
  });

  it.each(["__proto__", "constructor", "toString", "unknown", "k".repeat(64)])(
    "sec:J04 finds no key with the id %s",
    async (kid) => {
      const forged = await forge(headerOf({ kid }), accessPayload, keys.signing);
      const verify = verifierOf([keys.verification]);
      expect(await verify(forged, now)).toEqual({ status: "invalid" });
    },
  );

  it.each(["../../dev/null", "a' or 1=1 --", "k".repeat(5000), "\u0000", "", "kéy", "a b"])(
    "sec:J04 looks up no key with the id %j",
    async (kid) => {
      expect(await look(await forge(headerOf({ kid }), accessPayload, keys.signing))).toEqual(
        malformed,
      );
    },
  );
});
