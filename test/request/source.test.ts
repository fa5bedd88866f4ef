import { describe, expect, it } from "vitest";
import { takeTokens } from "../../src/request/tokens.ts";

const names = {
  access: "__Host-Http-rpcsession-access",
  refresh: "__Host-Http-rpcsession-refresh",
};

describe("sec:C04 the Authorization header", () => {
  it.each<[string, string | undefined, string | undefined]>([
    ["absent", undefined, undefined],
    ["Bearer", "Bearer a.b.c", "a.b.c"],
    ["another case", "bEARER a.b.c", "a.b.c"],
    ["more spaces", "Bearer   a.b.c", "a.b.c"],
    ["no token", "Bearer", ""],
    ["no token, a space", "Bearer ", ""],
    ["another scheme", "Basic YTpi", undefined],
    ["another scheme with the same beginning", "Bearers a", undefined],
    ["DPoP", "DPoP a.b.c", "a.b.c"],
    ["Session, in another case", "SESSION a.b.c", "a.b.c"],
    ["DPoP with a longer name", "DPoPs a.b.c", undefined],
    ["no scheme", "a.b.c", undefined],
    ["two tokens, joined", "Bearer a, Bearer b", "a, Bearer b"],
    ["Bearer twice", "Bearer Bearer a", "Bearer a"],
    ["8192 characters", `Bearer ${"a".repeat(8192)}`, "a".repeat(8192)],
    ["8193 characters", `Bearer ${"a".repeat(8193)}`, ""],
  ])("%s", (_, authorization, bearer) => {
    const headers = new Headers(authorization === undefined ? {} : { authorization });
    expect(takeTokens(headers, { names }).bearer).toBe(bearer);
  });

  it("two Authorization headers count as one malformed token", () => {
    const headers = new Headers();
    headers.append("authorization", "Bearer a");
    headers.append("authorization", "Bearer b");
    expect(takeTokens(headers, { names }).bearer).toBe("a, Bearer b");
  });
});

describe("sec:C02 sec:C05 cookies", () => {
  it("reads at most sixteen of each", () => {
    const sent = Array.from({ length: 17 }, (_, n) => n);
    const cookie = sent
      .flatMap((n) => [`${names.access}=a${n}`, `${names.refresh}=r${n}`])
      .join("; ");
    const read = sent.slice(0, 16);
    expect(takeTokens(new Headers({ cookie }), { names })).toMatchObject({
      accessCookies: read.map((n) => `a${n}`),
      refreshCookies: read.map((n) => `r${n}`),
    });
  });

  it("sec:C28 cookies under other names count only in the absence of those under the present ones", () => {
    const otherNames = { access: "__Host-rpcsession-access", refresh: "__Host-rpcsession-refresh" };
    const take = (cookie: string) => {
      const headers = new Headers({ cookie });
      const { accessCookies, refreshCookies, otherCookies, hasCookies } = takeTokens(headers, {
        ...{ names, otherNames },
      });
      expect(headers.get("cookie")).toBe("a=1");
      return [accessCookies, refreshCookies, otherCookies, hasCookies];
    };
    const others = `${otherNames.access}=oa; ${otherNames.refresh}=or; a=1`;
    const both = { access: ["oa"], refresh: ["or"] };
    expect(take(others)).toEqual([["oa"], ["or"], both, true]);
    expect(take(`${others}; ${names.access}=a`)).toEqual([["a"], ["or"], both, true]);
    expect(take(`${others}; ${names.refresh}=r`)).toEqual([["oa"], ["r"], both, true]);
    expect(take(`${names.access}=a; ${names.refresh}=r; a=1`)).toEqual([
      ...[["a"], ["r"]],
      ...[{ access: [], refresh: [] }, true],
    ]);
  });

  it("secure and insecure names are not mixed up", () => {
    const cookie = "rpcsession-access=planted; __Host-Http-rpcsession-access=real";
    expect(takeTokens(new Headers({ cookie }), { names }).accessCookies).toEqual(["real"]);
    const bare = { access: "rpcsession-access", refresh: "rpcsession-refresh" };
    expect(takeTokens(new Headers({ cookie }), { names: bare }).accessCookies).toEqual(["planted"]);
  });
});

describe("the headers that handlers see", () => {
  it.each<[string, string | undefined, string | null]>([
    ["no cookies", undefined, null],
    ["only other cookies", "a=1;b=2", "a=1;b=2"],
    ["only session cookies", `${names.access}=x; ${names.refresh}=y`, null],
    ["both", `a=1; ${names.access}=x; b=2; ${names.refresh}=y`, "a=1; b=2"],
    ["a session cookie twice", `${names.access}=x; a=1; ${names.access}=y`, "a=1"],
    ["a longer name", `${names.access}s=x`, `${names.access}s=x`],
  ])("%s", (_, cookie, left) => {
    const headers = new Headers(cookie === undefined ? {} : { cookie });
    takeTokens(headers, { names });
    expect(headers.get("cookie")).toBe(left);
  });

  it("keep the Authorization header", () => {
    const headers = new Headers({ authorization: "Bearer a" });
    takeTokens(headers, { names });
    expect(headers.get("authorization")).toBe("Bearer a");
  });
});
