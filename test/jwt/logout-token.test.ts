import { describe, expect, it } from "vitest";
import { generateSigningKey, importSigningKey, importVerificationKey } from "../../src/jwt/keys.ts";
import { type LogoutTokenRules, verifyLogoutToken } from "../../src/jwt/logout-token.ts";
import { base64url, forge, issuedAt, makeKeys, now, signParts } from "./fixture.ts";

const keys = await makeKeys();
const { kid } = keys.signing;
const event = "http://schemas.openid.net/event/backchannel-logout";
const header = { alg: "ES256", kid, typ: "logout+jwt" };
const payload = {
  iss: "https://login.example.com",
  aud: "notes",
  iat: issuedAt,
  exp: issuedAt + 120,
  jti: "token-1",
  sid: "session-1",
  sub: "user-1",
  events: { [event]: {} },
};
const logout = { jti: "token-1", sid: "session-1", sub: "user-1" };

interface Asked {
  lookups: number;
}

function rulesOf(given: Partial<LogoutTokenRules> = {}, asked: Asked = { lookups: 0 }) {
  return {
    issuer: "https://login.example.com",
    clientIds: ["other", "notes"],
    algorithms: ["ES256", "RS256", "EdDSA"],
    keys: {
      find(id: string) {
        asked.lookups++;
        return id === kid ? keys.verification : undefined;
      },
    },
    clockSkew: 60,
    maxAge: 3600,
    untyped: false,
    withoutExpiry: false,
    ...given,
  } satisfies LogoutTokenRules;
}

/** Verifies a well-signed token with changed members; `undefined` removes one. */
async function verify(
  changed: { readonly header?: object; readonly payload?: object } = {},
  rules: LogoutTokenRules = rulesOf(),
  at: number = now,
) {
  const token = await forge(
    { ...header, ...changed.header },
    { ...payload, ...changed.payload },
    keys.signing,
  );
  return verifyLogoutToken(token, rules, at);
}

describe("feat:G10 a logout token", () => {
  it("is accepted with a sid, with a sub, or with both", async () => {
    expect(await verify()).toEqual({ logout });
    expect(await verify({ payload: { sub: undefined } })).toEqual({
      logout: { ...logout, sub: undefined },
    });
    expect(await verify({ payload: { sid: undefined } })).toEqual({
      logout: { ...logout, sid: undefined },
    });
  });

  it("is accepted with what the standard leaves open", async () => {
    for (const changed of [
      { header: { typ: "application/logout+jwt" } },
      { header: { typ: "LOGOUT+JWT" } },
      // Members that are not understood are ignored, in the header, in the claims and in the event.
      {
        header: { x5t: "AAAA", cty: "x", jku: "https://mallory.example.com", jwk: { kty: "oct" } },
      },
      { payload: { aud: ["x", "notes"], azp: "notes", trace: { a: [1] } } },
      { payload: { events: { [event]: { reason: "x" }, "https://other.example.com/e": null } } },
      { payload: { nbf: issuedAt } },
    ]) {
      expect(await verify(changed), JSON.stringify(changed)).toEqual({ logout });
    }
  });

  it.each<[string, { readonly header?: object; readonly payload?: object }, string]>([
    ["another typ", { header: { typ: "JWT" } }, "typ"],
    ["the typ of an access token", { header: { typ: "at+jwt" } }, "typ"],
    ["no typ", { header: { typ: undefined } }, "typ"],
    ["a critical extension", { header: { crit: ["x"] } }, "extension"],
    ["an unencoded payload", { header: { b64: false } }, "extension"],
    ["no kid", { header: { kid: undefined } }, "kid"],
    ["a kid that is not text", { header: { kid: 1 } }, "kid"],
    ["an unknown kid", { header: { kid: "unknown" } }, "has signed"],
    ["the algorithm none", { header: { alg: "none" } }, "algorithm"],
    ["an algorithm with a shared secret", { header: { alg: "HS256" } }, "algorithm"],
    ["no algorithm", { header: { alg: undefined } }, "algorithm"],
    ["another issuer", { payload: { iss: "https://login.example.com/" } }, "issuer"],
    ["no issuer", { payload: { iss: undefined } }, "issuer"],
    ["another audience", { payload: { aud: "mallory" } }, "aud"],
    ["a longer audience", { payload: { aud: ["notes2"] } }, "aud"],
    ["an audience that is not text", { payload: { aud: ["notes", 1] } }, "aud"],
    ["no audience", { payload: { aud: undefined } }, "aud"],
    ["no iat", { payload: { iat: undefined } }, "iat"],
    ["an iat that is not a time", { payload: { iat: "1700000000" } }, "iat"],
    ["an nbf that is not a time", { payload: { nbf: "now" } }, "iat"],
    ["an iat in the future", { payload: { iat: issuedAt + 61, exp: issuedAt + 99 } }, "future"],
    ["an nbf in the future", { payload: { nbf: issuedAt + 61 } }, "future"],
    ["no exp", { payload: { exp: undefined } }, "exp"],
    ["an exp that is not a time", { payload: { exp: "never" } }, "exp"],
    ["an exp that is null", { payload: { exp: null } }, "exp"],
    ["an exp of this second", { payload: { exp: issuedAt } }, "expired"],
    ["no events", { payload: { events: undefined } }, "events"],
    ["another event", { payload: { events: { "https://other.example.com/e": {} } } }, "events"],
    ["an event that is no object", { payload: { events: { [event]: true } } }, "events"],
    ["events as a list", { payload: { events: [event] } }, "events"],
    ["a nonce", { payload: { nonce: "n" } }, "nonce"],
    ["a nonce that is null", { payload: { nonce: null } }, "nonce"],
    ["no jti", { payload: { jti: undefined } }, "jti"],
    ["an empty jti", { payload: { jti: "" } }, "jti"],
    ["a jti that is too long", { payload: { jti: "x".repeat(256) } }, "jti"],
    ["neither sid nor sub", { payload: { sid: undefined, sub: undefined } }, "sid"],
    ["a sid that is not text", { payload: { sid: 1 } }, "sid"],
    ["a sub that is not text", { payload: { sub: null } }, "sid"],
    ["a sid that is too long", { payload: { sid: "x".repeat(256) } }, "sid"],
    ["a sub with NUL", { payload: { sub: "a\u0000" } }, "sid"],
  ])(
    "sec:J20 is refused with %s, and the answer contains no value of it",
    async (_, changed, word) => {
      const result = await verify(changed);
      expect(result).toEqual({ refused: expect.stringContaining(word) });
      const said = JSON.stringify(result);
      for (const value of ["session-1", "user-1", "token-1", "mallory", "notes", "login.example"]) {
        expect(said).not.toContain(value);
      }
    },
  );

  it("sec:J20 is refused if somebody else signed it, or changed it", async () => {
    const other = await makeKeys();
    const unknown = await forge(header, payload, other.signing);
    const [first, , third] = (await forge(header, payload, keys.signing)).split(".");
    const changed = [first, base64url({ ...payload, sid: "session-2" }), third].join(".");
    const refused = { refused: expect.stringContaining("has signed") };
    expect(await verifyLogoutToken(unknown, rulesOf(), now)).toEqual(refused);
    expect(await verifyLogoutToken(changed, rulesOf(), now)).toEqual(refused);
  });

  it("sec:J20 has exactly one spelling and one meaning", async () => {
    const [first, second] = [base64url(header), base64url(payload)];
    const twice = base64url(JSON.stringify(payload).replace('"sid"', '"sid":"x","sid"'));
    const good = await signParts(`${first}.${second}`, keys.signing);
    for (const token of [
      ...["", "a.b.c", `${good}=`, ` ${good}`, `${good}.`, good.slice(0, -4), "x".repeat(8193)],
      await signParts(`${first}.${twice}`, keys.signing),
    ]) {
      expect(await verifyLogoutToken(token, rulesOf(), now)).toHaveProperty("refused");
    }
  });

  it("sec:J20 cannot choose the algorithm of a key, and a key of an algorithm that is not listed does not count", async () => {
    expect(await verify({ header: { alg: "EdDSA" } })).toEqual({
      refused: expect.stringContaining("has signed"),
    });
    expect(await verify({}, rulesOf({ algorithms: ["RS256"] }))).toEqual({
      refused: expect.stringContaining("algorithm"),
    });
  });

  it.each(["RS256", "EdDSA"] as const)("is accepted with %s", async (alg) => {
    const { privateJwk, publicJwk } = await generateSigningKey(alg);
    const signing = await importSigningKey(privateJwk);
    const verification = await importVerificationKey(publicJwk);
    const input = [{ ...header, alg, kid: signing.kid }, payload].map(base64url).join(".");
    const parameters = alg === "RS256" ? "RSASSA-PKCS1-v1_5" : "Ed25519";
    const signature = await crypto.subtle.sign(parameters, signing.key, Buffer.from(input));
    const token = `${input}.${base64url(new Uint8Array(signature))}`;
    const rules = rulesOf({ keys: { find: () => verification } });
    expect(await verifyLogoutToken(token, rules, now)).toEqual({ logout });
  });

  it("is accepted until it expires, and at most for an hour", async () => {
    const long = { payload: { exp: issuedAt + 86_400 } };
    const at = (seconds: number) => now + seconds * 1000;
    expect(await verify({}, rulesOf(), at(119.999))).toEqual({ logout });
    expect(await verify({}, rulesOf(), at(120))).toHaveProperty("refused");
    expect(await verify(long, rulesOf(), at(3599.999))).toEqual({ logout });
    expect(await verify(long, rulesOf(), at(3600))).toHaveProperty("refused");
    expect(await verify({}, rulesOf(), at(-60))).toEqual({ logout });
    expect(await verify({}, rulesOf(), at(-60.001))).toHaveProperty("refused");
  });

  it("may have another typ, or no exp, only where that is allowed by name", async () => {
    for (const typ of ["JWT", undefined, 1]) {
      expect(await verify({ header: { typ } }, rulesOf({ untyped: true }))).toEqual({ logout });
    }
    const noExp = { payload: { exp: undefined } };
    const rules = rulesOf({ withoutExpiry: true });
    expect(await verify(noExp, rules)).toEqual({ logout });
    expect(await verify(noExp, rules, now + 3_600_000)).toHaveProperty("refused");
    expect(await verify({ payload: { exp: "never" } }, rules)).toHaveProperty("refused");
    // An ID token stays one.
    const idToken = { header: { typ: "JWT" }, payload: { events: undefined, nonce: "n" } };
    expect(await verify(idToken, rulesOf({ untyped: true }))).toHaveProperty("refused");
  });

  it("sec:J20 is refused without looking for a key if it is for somebody else or of another time", async () => {
    const asked = { lookups: 0 };
    const rules = rulesOf({}, asked);
    await verify({ payload: { iss: "https://mallory.example.com" } }, rules);
    await verify({ payload: { aud: "mallory" } }, rules);
    await verify({ header: { alg: "HS256" } }, rules);
    await verify({}, rules, now + 120_000);
    expect(asked.lookups).toBe(0);
    await verify({}, rules);
    expect(asked.lookups).toBe(1);
  });

  it("rejects if the key cannot be looked up", async () => {
    const keysDown = { find: () => Promise.reject(new Error("down")) };
    await expect(verify({}, rulesOf({ keys: keysDown }))).rejects.toThrow("down");
  });
});
