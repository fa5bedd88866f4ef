import { describe, expect, it } from "vitest";
import { decodeNotice, encodeNotice, type SessionNotice } from "../../src/base/wire.ts";

const notice: SessionNotice = {
  event: "created",
  session: "s1",
  realm: "https://api.example.com",
  generation: 2,
  claimsVersion: 3,
  expiresAt: 1_000,
  expiresIn: 900,
};

/** The notice with some of its fields as other text. */
const altered = (change: Record<string, string>): string => {
  const fields = new URLSearchParams(encodeNotice(notice));
  for (const [name, value] of Object.entries(change)) {
    fields.set(name, value);
  }
  return fields.toString();
};

describe("decodeNotice", () => {
  it("returns what encodeNotice was given", () => {
    const full = { ...notice, claims: { a: "ü &=+%" }, olderRealms: ["https://old.example"] };
    expect(decodeNotice(encodeNotice(notice))).toEqual(notice);
    expect(decodeNotice(encodeNotice(full))).toEqual(full);
  });

  it.each(["null", "[1]", "5", '"text"', "{", ""])("leaves out claims that are %s", (claims) => {
    expect(decodeNotice(altered({ claims }))).toEqual(notice);
  });

  it.each([
    ["an unknown event", { event: "stolen" }],
    ["no session", { session: "" }],
    ["no realm", { realm: "" }],
    ["a generation that is not a number", { generation: "x" }],
    ["a fraction", { claimsVersion: "1.5" }],
    ["an endless time", { expiresAt: "Infinity" }],
    ["a field that is too long", { session: "s".repeat(20_000) }],
  ])("returns undefined for %s", (_, change) => {
    expect(decodeNotice(altered(change as Record<string, string>))).toBeUndefined();
  });

  it("returns undefined without the header, and for a missing number", () => {
    expect(decodeNotice(null)).toBeUndefined();
    expect(decodeNotice(encodeNotice(notice).replace("expiresIn=900", ""))).toBeUndefined();
  });
});
