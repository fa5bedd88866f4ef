import { createPublicKey, verify } from "node:crypto";
import { createVerifier } from "fast-jwt";
import { createRemoteJWKSet, type JSONWebKeySet, jwtVerify } from "jose";
import { describe, expect, it } from "vitest";
import type { SigningAlgorithm } from "../../src/jwt/jwk.ts";
import { createFakeClock } from "../../src/testing/fake-clock.ts";
import { startIssuer } from "../helpers/issuer.ts";

const issuer = "https://test.example";
const algorithms: readonly SigningAlgorithm[] = ["ES256", "RS256", "EdDSA"];

/** A token of a running issuer, issued now by the wall clock that other verifiers use. */
async function issued(algorithm: SigningAlgorithm) {
  const at = await startIssuer({ algorithm, clock: createFakeClock(Date.now()) });
  const claims = { role: "admin" };
  const { tokens, session } = await at.sessions.issue({
    userId: "alice",
    tenantId: "acme",
    claims,
  });
  return { at, token: tokens.accessToken, session };
}

async function fetchKey(url: string, token: string) {
  const { kid } = JSON.parse(atob(token.split(".")[0] ?? "")) as { kid: string };
  const { keys } = (await (await fetch(url)).json()) as JSONWebKeySet;
  const jwk = keys.find((key) => key.kid === kid);
  return createPublicKey({ key: { ...jwk }, format: "jwk" });
}

describe.each(algorithms)("feat:H1 other libraries verify access tokens: %s", (algorithm) => {
  it("jose, with the published keys over HTTP", async () => {
    const { at, token, session } = await issued(algorithm);
    const { payload, protectedHeader } = await jwtVerify(
      token,
      createRemoteJWKSet(new URL(at.jwks)),
      { issuer, audience: issuer, typ: "at+jwt", algorithms: [algorithm], requiredClaims: ["sid"] },
    );
    expect(protectedHeader.alg).toBe(algorithm);
    expect(payload).toMatchObject({ sub: "alice", tid: "acme", role: "admin", sid: session.id });
  });

  it("fast-jwt", async () => {
    const { at, token, session } = await issued(algorithm);
    const key = await fetchKey(at.jwks, token);
    const check = createVerifier({
      key: String(key.export({ type: "spki", format: "pem" })),
      algorithms: [algorithm],
      allowedIss: issuer,
      allowedAud: issuer,
    });
    expect(check(token)).toMatchObject({ sub: "alice", sid: session.id });
    const [header, , signature] = token.split(".");
    const forged = btoa(JSON.stringify({ iss: issuer, aud: issuer, sub: "bob" }));
    expect(() => check(`${header}.${forged.replaceAll("=", "")}.${signature}`)).toThrow(
      expect.objectContaining({ code: "FAST_JWT_INVALID_SIGNATURE" }),
    );
  });

  it("node:crypto without a JWT library", async () => {
    const { at, token } = await issued(algorithm);
    const key = await fetchKey(at.jwks, token);
    const [header, payload, signature] = token.split(".");
    const signed = Buffer.from(`${header}.${payload}`);
    const hash = algorithm === "EdDSA" ? null : "sha256";
    const bytes = Buffer.from(signature ?? "", "base64url");
    const options = { key, dsaEncoding: "ieee-p1363" } as const;
    expect(verify(hash, signed, options, bytes)).toBe(true);
    expect(verify(hash, Buffer.from(`${header}.${payload}A`), options, bytes)).toBe(false);
  });
});
