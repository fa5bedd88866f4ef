import fc from "fast-check";
import { Cookie, CookieJar } from "tough-cookie";
import { describe, expect, it } from "vitest";
import type { CookieOptions } from "../../src/request/cookie-options.ts";
import { SessionCookies } from "../../src/request/cookies.ts";
import { readCookie, withoutCookies } from "../../src/request/tokens.ts";

const https = new URL("https://api.example.com");
const http = new URL("http://localhost:8080");
const name = "__Host-Http-rpcsession-access";

/** Tokens consist of base64url and dots. */
const token = fc.stringMatching(/^[\w.-]{1,300}$/);

describe("sec:C08 golden Set-Cookie strings", () => {
  interface Golden {
    readonly row: string;
    readonly options: CookieOptions;
    readonly set: string;
    readonly expire: readonly string[];
  }
  const gone = "Max-Age=0; Path=/; Expires=Thu, 01 Jan 1970 00:00:00 GMT; HttpOnly; Secure";
  const rows: readonly Golden[] = [
    {
      row: "default",
      options: {},
      set: `${name}=a.b; Max-Age=60; Path=/; HttpOnly; Secure; SameSite=Lax`,
      expire: [`${name}=; ${gone}; SameSite=Lax`, `${name}=; ${gone}; Partitioned; SameSite=Lax`],
    },
    {
      row: "strict",
      options: { sameSite: "strict" },
      set: `${name}=a.b; Max-Age=60; Path=/; HttpOnly; Secure; SameSite=Strict`,
      expire: [
        `${name}=; ${gone}; SameSite=Strict`,
        `${name}=; ${gone}; Partitioned; SameSite=Strict`,
      ],
    },
    {
      row: "none",
      options: { sameSite: "none" },
      set: `${name}=a.b; Max-Age=60; Path=/; HttpOnly; Secure; SameSite=None`,
      expire: [`${name}=; ${gone}; SameSite=None`, `${name}=; ${gone}; Partitioned; SameSite=None`],
    },
    {
      row: "partitioned",
      options: { sameSite: "none", partitioned: true },
      set: `${name}=a.b; Max-Age=60; Path=/; HttpOnly; Secure; Partitioned; SameSite=None`,
      expire: [`${name}=; ${gone}; SameSite=None`, `${name}=; ${gone}; Partitioned; SameSite=None`],
    },
  ];
  it.each(rows)("$row", ({ options, set, expire }) => {
    const cookies = new SessionCookies(https, options);
    expect(cookies.hostOnly).toBe(true);
    expect(cookies.names).toEqual({ access: name, refresh: "__Host-Http-rpcsession-refresh" });
    expect(cookies.set(name, "a.b", 60)).toBe(set);
    expect(cookies.expire(name)).toEqual(expire);
  });

  it("insecure", () => {
    const cookies = new SessionCookies(http, { insecure: true });
    const { access } = cookies.names;
    expect(cookies.hostOnly).toBe(false);
    expect(cookies.set(access, "a.b", 60)).toBe(
      "rpcsession-access-8080=a.b; Max-Age=60; Path=/; HttpOnly; SameSite=Lax",
    );
    expect(cookies.expire(access)).toEqual([
      "rpcsession-access-8080=; Max-Age=0; Path=/; Expires=Thu, 01 Jan 1970 00:00:00 GMT; HttpOnly; SameSite=Lax",
    ]);
  });

  it.each<[string, URL, CookieOptions, RegExp]>([
    [
      "insecure with an https issuer",
      https,
      { insecure: true },
      /^cookies\.insecure cannot be combined with an https issuer; leave it out$/,
    ],
    [
      "insecure with SameSite=None",
      http,
      { insecure: true, sameSite: "none" },
      /^cookies\.insecure cannot be combined with SameSite=None or Partitioned/,
    ],
    [
      "insecure with partitioned",
      http,
      { insecure: true, partitioned: true },
      /^cookies\.insecure cannot be combined with SameSite=None or Partitioned/,
    ],
    [
      "an unknown sameSite",
      https,
      { sameSite: "Lax" as "lax" },
      /^cookies\.sameSite must be "lax", "strict" or "none", got "Lax"$/,
    ],
  ])("feat:A6 feat:I2 refuses %s", (_, issuer, options, message) => {
    expect(() => new SessionCookies(issuer, options)).toThrow(TypeError);
    expect(() => new SessionCookies(issuer, options)).toThrow(message);
  });
});

describe("sec:C01 in a cookie jar that follows RFC 6265bis", () => {
  const url = "https://api.example.com/rpcsession.v1.SessionService/Refresh";
  const strict = () => new CookieJar(undefined, { prefixSecurity: "strict" });

  it("is stored, and expired again", async () => {
    const jar = strict();
    const cookies = new SessionCookies(https);
    await jar.setCookie(cookies.set(name, "a.b", 60), url);
    expect(await jar.getCookieString(url)).toBe(`${name}=a.b`);
    expect(await jar.getCookieString("https://evil.example.com/")).toBe("");
    for (const gone of cookies.expire(name)) {
      await jar.setCookie(gone, url);
    }
    expect(await jar.getCookieString(url)).toBe("");
  });

  it.each([
    ["Domain", `${name}=x; Secure; Path=/; Domain=example.com`],
    ["a narrow Path", `${name}=x; Secure; Path=/rpcsession.v1.SessionService`],
    ["no Secure", `${name}=x; Path=/`],
  ])("cannot be planted by a sibling host with %s", async (_, planted) => {
    const jar = strict();
    await jar.setCookie(planted, "https://evil.example.com/", { ignoreError: true });
    await jar.setCookie(planted, url, { ignoreError: true });
    expect(await jar.getCookieString(url)).toBe("");
  });

  it.each([
    ["a no-break space before", `\u00a0${name}=planted`],
    ["a no-break space before the equals sign", `${name}\u00a0=planted`],
    ["a vertical tab before", `\u000b${name}=planted`],
    ["a form feed before", `\u000c${name}=planted`],
    ["a NUL before", `\u0000${name}=planted`],
    ["a quote before", `"${name}=planted"`],
    ["no name", `=${name}=planted`],
    ["another case", `${name.toLowerCase()}=planted`],
    ["percent encoding", `__Host%2DHttp-rpcsession-access=planted`],
    ["a longer name", `${name}-2=planted`],
    ["a comma instead of a semicolon", `a=1, ${name}=planted`],
  ])("is not confused with a cookie whose name has %s", (_, pair) => {
    // A sibling may set these for the whole domain: the prefix does not protect them.
    expect(readCookie(`${pair}; ${name}=real`, name, 3)).toEqual(["real"]);
    expect(withoutCookies(`${pair}; ${name}=real`, [name])).toBe(pair);
  });
});

describe("sec:C02 readCookie with duplicates", () => {
  it.each<[string, string, readonly string[]]>([
    ["one", `${name}=1`, ["1"]],
    ["two, in order", `${name}=1; ${name}=2`, ["1", "2"]],
    ["the other order", `${name}=2; ${name}=1`, ["2", "1"]],
    ["with others between", `a=b; ${name}=1; c; ${name}=2; d=e`, ["1", "2"]],
    ["no spaces", `${name}=1;${name}=2`, ["1", "2"]],
    ["tabs and spaces", ` \t${name}=1 \t;\t ${name}=2\t`, ["1", "2"]],
    ["empty pairs", `;;; ;${name}=1;;`, ["1"]],
    ["empty values", `${name}=; ${name}=1`, ["", "1"]],
    ["a name without a value", `${name}; ${name}=1`, ["1"]],
    ["a value with equals signs", `${name}=a=b=`, ["a=b="]],
    ["a value in quotes keeps its quotes", `${name}="1"`, ['"1"']],
    ["percent signs are not decoded", `${name}=%`, ["%"]],
    ["more than the limit", `${name}=1; ${name}=2; ${name}=3; ${name}=4`, ["1", "2", "3"]],
    ["none", "a=b", []],
    ["nothing", "", []],
  ])("%s", (_, header, values) => {
    expect(readCookie(header, name, 3)).toEqual(values);
  });

  it("returns nothing without a header", () => {
    expect(readCookie(null, name, 3)).toEqual([]);
  });
});

describe("sec:C06 values survive a round trip", () => {
  const cookies = new SessionCookies(https);
  const pairOf = (setCookie: string): string => setCookie.slice(0, setCookie.indexOf(";"));

  it("readCookie returns every token, at any position", () => {
    const others = fc.array(fc.stringMatching(/^[a-z]{1,5}=[^;\s]{0,20}$/), { maxLength: 5 });
    fc.assert(
      fc.property(token, others, others, (value, before, after) => {
        const header = [...before, pairOf(cookies.set(name, value, 60)), ...after].join("; ");
        expect(readCookie(header, name, 3)).toEqual([value]);
      }),
    );
  });

  it("no value adds an attribute or a line", () => {
    fc.assert(
      fc.property(fc.string({ unit: "grapheme", maxLength: 100 }), (value) => {
        const written = cookies.set(name, value, 60);
        expect(written).not.toMatch(/[\r\n\0]/);
        expect(written.split("; ").slice(1)).toEqual([
          "Max-Age=60",
          "Path=/",
          "HttpOnly",
          "Secure",
          "SameSite=Lax",
        ]);
        expect(decodeURIComponent(Cookie.parse(written)?.value ?? "")).toBe(value);
      }),
    );
  });
});

describe("withoutCookies", () => {
  const others = fc.array(
    // Everything that Headers accepts except the semicolon, including quotes, commas and non-ASCII bytes.
    fc.stringMatching(
      /^[a-z]{1,4}=([!-:<-~\u0080-\u00ff]([ -:<-~\u0080-\u00ff]{0,10}[!-:<-~\u0080-\u00ff])?)?$/,
    ),
    { maxLength: 6 },
  );

  it("keeps the other cookies byte for byte and in order", () => {
    fc.assert(
      fc.property(others, fc.array(token, { maxLength: 3 }), fc.nat(), (kept, ours, seed) => {
        const mixed = [...kept];
        ours.forEach((value, i) => {
          mixed.splice((seed + i) % (mixed.length + 1), 0, `${name}=${value}`);
        });
        const rest = withoutCookies(mixed.join("; "), [name]);
        expect(rest).toBe(kept.join("; "));
        expect(readCookie(rest, name, 3)).toEqual([]);
      }),
    );
  });

  it("hides everything that readCookie would find", () => {
    fc.assert(
      fc.property(
        fc.string({ unit: fc.constantFrom("a", "b", "=", ";", " ", "\t", "\u00a0") }),
        (header) => {
          expect(readCookie(withoutCookies(header, ["a"]), "a", 9)).toEqual([]);
        },
      ),
    );
  });
});

describe("sec:C07 the size of a cookie", () => {
  const cookies = new SessionCookies(https);
  it.each([
    [4095, true],
    [4096, true],
    [4097, false],
  ])("feat:I7 cookie size guard: name and value of %i bytes", (size, kept) => {
    const set = () => cookies.set(name, "x".repeat(size - name.length), 60);
    if (kept) {
      expect(set()).toContain("x");
    } else {
      expect(set).toThrow(RangeError);
      expect(set).toThrow(/4097 bytes.*4096; put fewer or shorter claims/);
    }
  });
});

describe("sec:C05 junk", () => {
  /** A String that counts how many characters the parser examines. */
  function workOn(header: string): number {
    let looked = 0;
    const counted = new Proxy(new String(header), {
      get(target, key) {
        if (key === "length") {
          return target.length;
        }
        const member: unknown = Reflect.get(target, key);
        if (typeof member !== "function") {
          return member;
        }
        return (...args: unknown[]): unknown => {
          const result: unknown = Reflect.apply(member, header, args);
          // The characters that a search passed, or the length of a slice.
          looked +=
            key === "indexOf"
              ? ((result as number) < 0 ? header.length : (result as number)) - Number(args[1] ?? 0)
              : String(result).length;
          return result;
        };
      },
    });
    readCookie(counted as unknown as string, name, 3);
    return looked;
  }

  it.each([
    ["semicolons", ";"],
    ["spaces", " "],
    ["tabs", "\t"],
    ["equals signs", "="],
    ["the cookie's name, repeated", `${name}=x; `],
    ["almost the cookie's name, repeated", `${name.slice(0, -1)}; `],
    ["quotes", '"'],
    ["percent signs", "%"],
    ["spaces, then a letter", `${" ".repeat(50)}a`],
  ])("1 MB of %s takes linear time", (_, unit) => {
    const of = (size: number): number => workOn(unit.repeat(Math.ceil(size / unit.length)));
    const small = of(10_000);
    expect(of(1_000_000)).toBeLessThan(small * 110 + 1000);
  });
});
