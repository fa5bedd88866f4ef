import { beforeAll, describe, expect, it, vi } from "vitest";
import { signAccessToken } from "../../src/jwt/keys.ts";
import type { KeyFinder } from "../../src/jwt/verifier.ts";
import {
  accessClaims,
  accessPayload,
  clockSkew,
  forge,
  issuedAt,
  type Keys,
  lookWith,
  makeKeys,
  malformed,
  maxLife,
  now,
  type Part,
  verifierOf,
} from "./fixture.ts";

let keys: Keys;
let token: string;

beforeAll(async () => {
  keys = await makeKeys();
  token = await signAccessToken(accessClaims, keys.signing);
});

type Status = "foreign" | "valid" | "expired" | "invalid" | "malformed";

async function statusOf(payload: Part, at = now): Promise<Status> {
  const { kid } = keys.signing;
  const forged = await forge({ alg: "ES256", kid, typ: "at+jwt" }, payload, keys.signing);
  return (await verifierOf([keys.verification])(forged, at)).status;
}

describe("time", () => {
  const exp = issuedAt + 900;
  it.each<[string, number, Status]>([
    ["when it was issued", now, "valid"],
    ["1 s before exp", (exp - 1) * 1000, "valid"],
    ["1 ms before exp", exp * 1000 - 1, "valid"],
    ["at exp", exp * 1000, "expired"],
    ["1 ms after exp", exp * 1000 + 1, "expired"],
    ["1 s after exp", (exp + 1) * 1000, "expired"],
    ["at exp + skew", (exp + clockSkew) * 1000, "expired"],
    ["a year later", now + 31_536_000_000, "expired"],
    ["iat 1 s within the skew", (issuedAt - clockSkew + 1) * 1000, "valid"],
    ["iat just within the skew", (issuedAt - clockSkew) * 1000, "valid"],
    ["iat 1 ms beyond the skew", (issuedAt - clockSkew) * 1000 - 1, "invalid"],
    ["iat 1 s beyond the skew", (issuedAt - clockSkew - 1) * 1000, "invalid"],
    ["a clock at 1970", 0, "invalid"],
    ["a clock that is not a number", Number.NaN, "invalid"],
    ["an infinite clock", Number.POSITIVE_INFINITY, "expired"],
  ])("sec:J12 %s", async (_, at, status) => {
    expect((await verifierOf([keys.verification])(token, at)).status).toBe(status);
  });

  it("returns the claims of an expired token", async () => {
    const late = await verifierOf([keys.verification])(token, exp * 1000);
    expect(late).toEqual({ status: "expired", claims: accessClaims });
  });

  it.each<[string, object, Status]>([
    ["nbf in the past", { nbf: 0 }, "valid"],
    ["nbf just within the skew", { nbf: issuedAt + clockSkew }, "valid"],
    ["nbf 1 s beyond the skew", { nbf: issuedAt + clockSkew + 1 }, "invalid"],
    ["the longest lifetime", { exp: issuedAt + maxLife }, "valid"],
    ["a lifetime 1 s too long", { exp: issuedAt + maxLife + 1 }, "invalid"],
    ["a lifetime of 0 s", { exp: issuedAt }, "invalid"],
    ["a negative lifetime", { exp: issuedAt - 1 }, "invalid"],
    ["a lifetime of centuries", { exp: Number.MAX_SAFE_INTEGER }, "invalid"],
  ])("sec:J12 %s", async (_, change, status) => {
    expect(await statusOf({ ...accessPayload, ...change })).toBe(status);
  });

  it("sec:J12 a token with too long a lifetime stays invalid after its end", async () => {
    const payload = { ...accessPayload, exp: issuedAt + maxLife + 1 };
    expect(await statusOf(payload, now + 10_000_000)).toBe("invalid");
  });
});

describe("the payload", () => {
  it.each<[string, unknown]>([
    ["sec:J13 another audience", { aud: "https://other.example" }],
    ["sec:J13 the audience in capitals", { aud: accessClaims.aud.toUpperCase() }],
    ["sec:J15 the audience of another environment", { aud: "https://staging.example.com" }],
  ])("%s is invalid", async (_, change) => {
    expect(await statusOf({ ...accessPayload, ...(change as object) })).toBe("invalid");
  });

  it.each([
    ["another issuer", "https://evil.example"],
    ["the issuer with a slash", `${accessClaims.iss}/`],
    ["the issuer in capitals", accessClaims.iss.toUpperCase()],
    ["no issuer's URL", ""],
  ])("sec:J13 %s is foreign, and its key is not looked up", async (_, iss) => {
    const findKey = vi.fn<KeyFinder["find"]>(() => keys.verification);
    const header = { alg: "ES256", kid: keys.signing.kid, typ: "at+jwt" };
    const signed = await forge(header, { ...accessPayload, iss }, keys.signing);
    const [first = "", second = ""] = signed.split(".");
    for (const token of [signed, `${first}.${second}.`, `${first}.${second}`, `e30.${second}.AA`]) {
      expect(await verifierOf([], { findKey })(token, now)).toEqual({ status: "foreign" });
    }
    expect(findKey).not.toHaveBeenCalled();
  });

  it.each<[string, Part]>([
    ["sec:J11 no exp", { ...accessPayload, exp: undefined }],
    ["sec:J11 exp null", { ...accessPayload, exp: null }],
    ["sec:J11 exp as string", { ...accessPayload, exp: String(accessClaims.exp) }],
    ["sec:J11 exp with a fraction", { ...accessPayload, exp: accessClaims.exp + 0.5 }],
    ["sec:J11 nbf as string", { ...accessPayload, nbf: "0" }],
    ["sec:J11 nbf null", { ...accessPayload, nbf: null }],
    ["sec:J11 no iat", { ...accessPayload, iat: undefined }],
    ["sec:J11 iat as string", { ...accessPayload, iat: String(issuedAt) }],
    ["sec:J11 iat negative", { ...accessPayload, iat: -1 }],
    ["sec:J13 aud as array", { ...accessPayload, aud: [accessClaims.aud] }],
    ["sec:J13 aud empty", { ...accessPayload, aud: "" }],
    ["sec:J13 no iss", { ...accessPayload, iss: undefined }],
    [
      "sec:J14 an id token",
      { iss: accessClaims.iss, aud: accessClaims.aud, sub: "alice", iat: issuedAt },
    ],
    ["sec:J08 sub twice", JSON.stringify(accessPayload).replace("{", '{"sub":"mallory",')],
    ["sec:J08 __proto__", JSON.stringify(accessPayload).replace("{", '{"__proto__":{},')],
    ["a binding to a key that nobody checks", { ...accessPayload, cnf: { jkt: "x" } }],
  ])("%s is malformed", async (_, payload) => {
    expect(await statusOf(payload)).toBe("malformed");
  });
});

describe("the key lookup", () => {
  it("receives the exact kid and the unproven iat, once", async () => {
    const findKey = vi.fn<KeyFinder["find"]>(() => keys.verification);
    await verifierOf([], { findKey })(token, now);
    expect(findKey.mock.calls).toEqual([[keys.signing.kid, issuedAt]]);
  });

  it.each([undefined, null, String(issuedAt), -1, 1.5, {}])(
    "sec:J11 does not happen with iat %j",
    async (iat) => {
      const { kid } = keys.signing;
      const header = { alg: "ES256", kid, typ: "at+jwt" };
      const forged = await forge(header, { ...accessPayload, iat }, keys.signing);
      expect(await lookWith(keys.verification, forged)).toEqual(malformed);
    },
  );

  it("is awaited", async () => {
    const verify = verifierOf([], { findKey: async () => keys.verification });
    expect(await verify(token, now)).toEqual({ status: "valid", claims: accessClaims });
  });

  it("sec:J16 has the same result for an unknown key and a bad signature", async () => {
    const stranger = await makeKeys();
    const unknown = await verifierOf([stranger.verification])(token, now);
    const asOurs = { ...stranger.verification, kid: keys.signing.kid };
    expect(await verifierOf([asOurs])(token, now)).toEqual(unknown);
    expect(unknown).toEqual({ status: "invalid" });
  });

  it("sec:J16 reveals nothing about the payload before the signature is proven", async () => {
    const header = { alg: "ES256", kid: keys.signing.kid, typ: "at+jwt" };
    const { signing } = await makeKeys();
    const payloads = [{ iat: 1 }, { ...accessPayload, exp: 1 }, { ...accessPayload, iss: 1 }];
    for (const payload of payloads) {
      const forged = await forge(header, payload, signing);
      const seen = await verifierOf([keys.verification])(forged, now);
      expect(seen).toEqual({ status: "invalid" });
    }
  });

  it("feat:B10, sec:J13 restricts an issuer to its own keys", async () => {
    const other = await makeKeys();
    const forged = await signAccessToken(accessClaims, other.signing);
    const ofOther = verifierOf([other.verification], { issuer: "https://other.example" });
    expect(await verifierOf([keys.verification])(forged, now)).toEqual({ status: "invalid" });
    expect(await ofOther(forged, now)).toEqual({ status: "foreign" });
  });

  it("rejects the verification in an outage", async () => {
    const outage = new Error("store out of reach");
    const rejects = verifierOf([], { findKey: () => Promise.reject(outage) });
    await expect(rejects(token, now)).rejects.toBe(outage);
    const throws = verifierOf([], {
      findKey: () => {
        throw outage;
      },
    });
    await expect(throws(token, now)).rejects.toBe(outage);
  });

  it("rejects for a key that cannot be used, instead of calling the token invalid", async () => {
    const verify = verifierOf([], { findKey: () => keys.signing });
    await expect(verify(token, now)).rejects.toThrow("not meant for verifying");
  });
});
