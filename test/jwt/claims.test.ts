import { describe, expect, it } from "vitest";
import type { JsonObject } from "../../src/base/json.ts";
import {
  fromPayload,
  reservedClaimNames,
  type TokenClaims,
  toPayload,
} from "../../src/jwt/claims.ts";
import { accessClaims, accessPayload } from "./fixture.ts";

const times = ["iat", "exp", "gen", "gat", "cv", "auth_time", "session_iat", "session_exp"];
const texts = ["iss", "aud", "sub", "sid", "jti", "client_id"];
const required = [...times, ...texts, "transport"];
const read = (payload: object): TokenClaims | undefined => fromPayload(payload as JsonObject);
const product = (names: string[], values: unknown[]): [string, unknown][] =>
  names.flatMap((name) => values.map((value): [string, unknown] => [name, value]));

describe("toPayload", () => {
  it("puts the user's claims at the root", () => {
    expect(toPayload(accessClaims)).toEqual(accessPayload);
  });

  it("omits an absent tenant", () => {
    const { tid: _, ...untenanted } = accessClaims;
    expect(Object.keys(toPayload(untenanted))).not.toContain("tid");
  });

  it("gives the token's own claims precedence", () => {
    expect(toPayload({ ...accessClaims, claims: { sub: "mallory" } }).sub).toBe("alice");
  });
});

describe("fromPayload", () => {
  it("is the reverse of toPayload", () => {
    expect(fromPayload(toPayload(accessClaims))).toEqual(accessClaims);
  });

  it.each(required)("sec:J11 refuses a payload without %s", (name) => {
    const { [name]: _, ...rest } = accessPayload;
    expect(read(rest)).toBeUndefined();
  });

  it.each(
    product(
      [...times, "nbf"],
      [
        ...["1700000000", null, 1.5, -1, Number.NaN, 2 ** 53, true, [1], {}],
        Number.POSITIVE_INFINITY,
      ],
    ),
  )("sec:J11 refuses %s = %j", (name, value) => {
    expect(read({ ...accessPayload, [name]: value })).toBeUndefined();
  });

  it.each(product([...texts, "tid"], ["", null, 1, true, ["alice"], {}, "\ud800"]))(
    "sec:J11 refuses %s = %j",
    (name, value) => {
      expect(read({ ...accessPayload, [name]: value })).toBeUndefined();
    },
  );

  it.each(["Cookie", "", null, 1, ["cookie"]])("sec:J11 refuses transport = %j", (transport) => {
    expect(read({ ...accessPayload, transport })).toBeUndefined();
  });

  it.each(["cookie", "header"])("reads transport %s", (transport) => {
    expect(read({ ...accessPayload, transport })?.transport).toBe(transport);
  });

  it.each(product(times, [0, 2 ** 53 - 1]))("reads %s = %j", (name, value) => {
    expect(read({ ...accessPayload, [name]: value })).toMatchObject({ [name]: value });
  });

  it("reads a payload with nbf, which does not belong to the user's claims", () => {
    expect(read({ ...accessPayload, nbf: 1 })).toEqual(accessClaims);
  });

  it.each(["cnf", "constructor", "prototype"])("refuses the reserved name %s", (name) => {
    expect(read({ ...accessPayload, [name]: {} })).toBeUndefined();
  });

  it("refuses __proto__", () => {
    expect(read(JSON.parse('{"__proto__":{}}'))).toBeUndefined();
    const withProto = JSON.parse(`{"__proto__":{},${JSON.stringify(accessPayload).slice(1)}`);
    expect(read(withProto)).toBeUndefined();
  });

  it("returns claims without a prototype", () => {
    const claims = read(accessPayload)?.claims;
    expect(Object.getPrototypeOf(claims)).toBeNull();
    expect("toString" in (claims ?? {})).toBe(false);
  });
});

describe("reservedClaimNames", () => {
  it("contains every name of a payload", () => {
    for (const name of [...required, "tid", "nbf", "cnf", "__proto__"]) {
      expect(reservedClaimNames).toContain(name);
    }
  });
});
