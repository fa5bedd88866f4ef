import { describe, expect, it, test } from "vitest";
import type { CookieOptions } from "../../src/request/cookie-options.ts";
import { SessionCookies } from "../../src/request/cookies.ts";

const issuer = new URL("https://api.example.com");
const own = { access: "__Host-app-a", refresh: "__Host-app-r" };

function make(options: CookieOptions, at: URL = issuer) {
  const cookies = new SessionCookies(at, options);
  const { names, hostOnly } = cookies;
  return {
    ...{ names, hostOnly, set: cookies.set(names.access, "a.b", 60) },
    expire: (name: string) => cookies.expire(name),
    expireOlder: (name: string) => cookies.expireOlder(name),
  };
}

/** Domain, path and jar of every copy that is expired, in order; the path only if it is not "/". */
function copies(options: CookieOptions, at: URL = issuer, requestPath?: string): string[] {
  const { access } = make(options, at).names;
  return new SessionCookies(at, options).expire(access, { requestPath }).map((cookie) => {
    expect(cookie).toContain(`${access}=; Max-Age=0; `);
    const domain = /; Domain=([^;]+)/.exec(cookie)?.[1] ?? "host";
    const path = /; Path=\/([^;]*)/.exec(cookie)?.[1] ?? "none";
    const place = path === "" ? domain : `${domain}/${path}`;
    return `${place}${cookie.includes("; Partitioned") ? " partitioned" : ""}`;
  });
}

/** The same in the common jar only. */
function common(options: CookieOptions, at: URL = issuer, requestPath?: string): string[] {
  return copies(options, at, requestPath).filter((copy) => !copy.endsWith(" partitioned"));
}

/** What many responses expire together, in the common jar, sorted. */
function everExpired(options: CookieOptions, at: URL, requestPath: string): string[] {
  const all = Array.from({ length: 500 }, () => common(options, at, requestPath));
  return [...new Set(all.flat())].sort();
}

test("feat:I5 custom cookie names with any allowed prefix", () => {
  const { names, hostOnly, set } = make({ names: own });
  expect(names).toEqual(own);
  expect(hostOnly).toBe(true);
  expect(set).toBe("__Host-app-a=a.b; Max-Age=60; Path=/; HttpOnly; Secure; SameSite=Lax");
  for (const prefix of ["__Secure-", "__Http-", ""]) {
    const bare = { access: `${prefix}a`, refresh: `${prefix}r` };
    expect(make({ names: bare })).toMatchObject({ names: bare, hostOnly: false });
  }
  const http = { access: "__Host-Http-a", refresh: "__Host-Http-r" };
  expect(make({ names: http })).toMatchObject({ names: http, hostOnly: true });
});

test("feat:I9 the default names have the prefix __Host-Http-, and __Host- with prefix: host", () => {
  const of = (prefix: string) => ({
    access: `${prefix}rpcsession-access`,
    refresh: `${prefix}rpcsession-refresh`,
  });
  const plan = (options: CookieOptions) => new SessionCookies(issuer, options);
  expect(plan({})).toMatchObject({ names: of("__Host-Http-"), otherNames: of("__Host-") });
  expect(plan({ prefix: "host-http" }).names).toEqual(of("__Host-Http-"));
  const back = plan({ prefix: "host" });
  expect(back).toMatchObject({ names: of("__Host-"), otherNames: of("__Host-Http-") });
  expect([plan({}).hostOnly, back.hostOnly]).toEqual([true, true]);
  for (const options of [
    { otherPrefix: "ignore" },
    { names: own },
    { domain: "example.com" },
    { path: "/api" },
  ] as const) {
    expect(plan(options).otherNames).toBeUndefined();
  }
  const local = new URL("http://localhost:8080");
  expect(new SessionCookies(local).otherNames?.access).toBe("__Host-rpcsession-access-8080");
  expect(new SessionCookies(local, { insecure: true }).otherNames).toBeUndefined();
});

test("feat:I9 sec:C08 both cookies are HttpOnly, Secure, for the host alone and for all its paths, as the prefix demands", () => {
  const cookies = new SessionCookies(issuer);
  for (const name of [cookies.names.access, cookies.names.refresh]) {
    for (const line of [cookies.set(name, "a.b", 60), ...cookies.expire(name)]) {
      expect(line).toMatch(/^__Host-Http-rpcsession-\w+=/);
      expect(line.split("; ")).toEqual(expect.arrayContaining(["HttpOnly", "Secure", "Path=/"]));
      expect(line).not.toContain("Domain");
    }
  }
});

test("feat:I2 with a domain, the cookies are sent to all of its hosts and have the prefix __Secure-", () => {
  const { names, hostOnly, set } = make({ domain: "example.com" });
  expect(names).toEqual({
    access: "__Secure-rpcsession-access",
    refresh: "__Secure-rpcsession-refresh",
  });
  expect(hostOnly).toBe(false);
  expect(set).toBe(
    "__Secure-rpcsession-access=a.b; Max-Age=60; Domain=example.com; Path=/; HttpOnly; Secure; SameSite=Lax",
  );
  expect(make({ domain: "api.example.com" }).set).toContain("; Domain=api.example.com; ");
});

test("feat:I2 a path is written to the cookies", () => {
  const { names, set } = make({ path: "/api" });
  expect(names.access).toBe("__Secure-rpcsession-access");
  expect(set).toContain("; Path=/api; ");
});

test("feat:I5 on localhost the default names carry the port, because ports share their cookies", () => {
  const at = (url: string, options: CookieOptions = {}) => make(options, new URL(url)).names.access;
  expect(at("http://localhost:8080")).toBe("__Host-Http-rpcsession-access-8080");
  expect(at("http://api.localhost:8081")).toBe("__Host-Http-rpcsession-access-8081");
  expect(at("http://127.0.0.1:3000", { insecure: true })).toBe("rpcsession-access-3000");
  expect(at("http://[::1]:3000/v1", { path: "/v1" })).toBe("__Secure-rpcsession-access-3000");
  // Without a port, off this machine, and with own names nothing changes.
  expect(at("http://localhost")).toBe("__Host-Http-rpcsession-access");
  expect(at("https://api.example.com:8443")).toBe("__Host-Http-rpcsession-access");
  expect(at("http://localhost:8080", { names: own })).toBe(own.access);
});

test("feat:I2 feat:I6 accepts SameSite=Strict, and None with Partitioned", () => {
  expect(make({ sameSite: "strict" }).set).toMatch(/; SameSite=Strict$/);
  expect(make({ sameSite: "none" }).set).toMatch(/; Secure; SameSite=None$/);
  expect(make({ sameSite: "none", partitioned: true }).set).toMatch(
    /; Secure; Partitioned; SameSite=None$/,
  );
});

describe("expired copies", () => {
  const here = ["host", "host partitioned"];
  const above = ["api.example.com", "api.example.com partitioned"];
  const top = ["example.com", "example.com partitioned"];

  it.each<[string, CookieOptions, readonly string[]]>([
    ["with __Host-, expires one cookie because there can be no other copy", {}, here],
    [
      "with a domain, also expires the cookies of the host and of all parent domains",
      { domain: "example.com" },
      [...here, ...above, ...top],
    ],
    [
      "without __Host-, also expires cookies that a sibling host may have planted",
      { names: { access: "a", refresh: "r" } },
      [...above, ...top, ...here],
    ],
  ])("feat:I4 %s", (_, options, expected) => {
    expect(copies(options)).toEqual(expected);
  });

  it("feat:I4 expires at most four domains of a long host, and none of an IP address", () => {
    const bare = { names: { access: "a", refresh: "r" } };
    const long = new URL("https://a.b.c.d.e.f.example.com");
    const domains = ["d.e.f.example.com", "e.f.example.com", "f.example.com", "example.com"];
    expect(common(bare, long)).toEqual([...domains, "host"]);
    expect(copies(bare, new URL("https://192.0.2.7"))).toEqual(here);
    expect(copies(bare, new URL("https://[2001:db8::1]"))).toEqual(here);
  });

  it("feat:I4 with a path, also expires the cookies of all paths above it", () => {
    const at = new URL("https://shop.test");
    const of = (path: string) => [`host${path}`, `shop.test${path}`];
    expect(common({ path: "/api/v1" }, at)).toEqual([
      ...[...of(""), ...of("/api"), ...of("/api/")],
      ...["shop.test/api/v1", "host/api/v1"],
    ]);
  });

  it("feat:I4 with the path of a request, also expires what was planted below", () => {
    const at = new URL("https://shop.test");
    const of = (path: string) => [`host${path}`, `shop.test${path}`];
    const below = [...of("/s.v1.S"), ...of("/s.v1.S/"), ...of("/s.v1.S/Add")];
    const bare = { names: { access: "a", refresh: "r" } };
    expect(common(bare, at, "/s.v1.S/Add")).toEqual(["shop.test", ...below, "host"]);
    // Browsers would not take such a path, and nobody serves one of more than four segments.
    expect(common(bare, at, "/a;b")).toEqual(["shop.test", "host"]);
    expect(everExpired(bare, at, "/a/b/c/d/e/f").at(-1)).toBe("shop.test/a/b/c/d/");
    // No other host or path can have set a copy of these.
    expect(common({}, at, "/s.v1.S/Add")).toEqual(["host"]);
  });

  it("feat:I4 one response expires the known places and at most 12 others, and later ones the rest", () => {
    const long = new URL("https://a.b.c.example.com");
    const cookies = { path: "/api/v2", olderPath: "/v1" };
    for (let i = 0; i < 50; i++) {
      const once = common(cookies, long, "/api/v2/s.v1.S/Add");
      expect([once.length, ...once.slice(-2)]).toEqual([14, "host/v1", "host/api/v2"]);
    }
    // Five domains with eight paths, and the older path.
    expect(everExpired(cookies, long, "/api/v2/s.v1.S/Add")).toHaveLength(5 * 8 + 1);
  });

  it("feat:I4 every write expires the cookie of the older domain only", () => {
    const { names, expireOlder } = make({ path: "/api", olderDomain: "example.com" });
    const gone = `${names.refresh}=; Max-Age=0; Domain=example.com; Path=/api; Expires=Thu, 01 Jan 1970 00:00:00 GMT; HttpOnly; Secure`;
    expect(expireOlder(names.refresh)).toEqual([
      `${gone}; SameSite=Lax`,
      `${gone}; Partitioned; SameSite=Lax`,
    ]);
    const path = make({ names: { access: "a", refresh: "r" }, olderPath: "/api" });
    expect(path.expireOlder("a").join()).toMatch(/^a=; Max-Age=0; Path=\/api; .*; Path=\/api; /);
    const both = make({ path: "/v2", olderPath: "/", olderDomain: "example.com" });
    expect(both.expireOlder("a")[0]).toMatch(/^a=; Max-Age=0; Domain=example\.com; Path=\/; /);
    const host = make({ domain: "example.com", olderDomain: null });
    expect(host.expireOlder(host.names.access).join()).not.toContain("Domain");
    expect(make({}).expireOlder("__Host-Http-rpcsession-access")).toEqual([]);
  });
});

describe("feat:I5 options that browsers would not accept are refused at construction", () => {
  const wrong = (options: object): CookieOptions => options as CookieOptions;
  const named = (access: string, refresh: string, rest: CookieOptions = {}): CookieOptions => ({
    names: { access, refresh },
    ...rest,
  });

  it.each<[string, CookieOptions, RegExp, string?]>([
    [
      "__Host- with a domain",
      { names: own, domain: "example.com" },
      /^cookies\.names: .*__Host-app-a.* without a Domain/,
    ],
    ["__Host- with a path", { names: own, path: "/api" }, /^cookies\.names: .* with Path=\//],
    [
      "__Host-Http- with a domain",
      named("__Host-Http-a", "__Host-Http-r", { domain: "example.com" }),
      /^cookies\.names/,
    ],
    [
      "__Host- without Secure",
      { names: own, insecure: true },
      /^cookies\.names: .* only with Secure/,
      "http://localhost",
    ],
    [
      "__Secure- without Secure",
      named("__Secure-a", "__Secure-r", { insecure: true }),
      /^cookies\.names/,
      "http://localhost",
    ],
    [
      "a prefix in another case",
      named("__host-a", "__host-r"),
      /^cookies\.names: the prefix of "__host-a" must be written as/,
    ],
    ["two prefixes", named("__Host-a", "__Secure-r"), /^cookies\.names must have the same prefix/],
    [
      "the same name for both cookies",
      named("__Host-a", "__Host-a"),
      /^cookies\.names must differ, got "__Host-a" for both/,
    ],
    ["an empty name", named("", "r"), /^cookies\.names: "" is not a valid cookie name/],
    ["a name with a space", named("a b", "r"), /^cookies\.names: "a b" is not a valid cookie name/],
    ["a name with a semicolon", named("a;Domain=evil.example", "r"), /^cookies\.names/],
    ["a name with an equals sign", named("a=b", "r"), /^cookies\.names/],
    ["a name with a line break", named("a\r\nset-cookie: x", "r"), /^cookies\.names/],
    ["a name of 97 characters", named("a".repeat(97), "r"), /^cookies\.names/],
    [
      "a missing name",
      wrong({ names: { access: "a" } }),
      /^cookies\.names: undefined is not a valid cookie name/,
    ],
    [
      "a domain that does not contain the host",
      { domain: "example.org" },
      /^cookies\.domain must be the issuer's host api\.example\.com or a parent .*, got "example\.org"$/,
    ],
    ["a subdomain of the host", { domain: "x.api.example.com" }, /^cookies\.domain/],
    [
      "a domain that begins inside a label of the host",
      { domain: "ample.com" },
      /^cookies\.domain/,
    ],
    ["a domain with a leading dot", { domain: ".example.com" }, /^cookies\.domain/],
    ["a top-level domain", { domain: "com" }, /^cookies\.domain/],
    ["a domain in capitals", { domain: "Example.com" }, /^cookies\.domain/],
    ["an empty domain", { domain: "" }, /^cookies\.domain/],
    ["a domain with an attribute", { domain: "example.com; Path=/" }, /^cookies\.domain/],
    ["an IP address", { domain: "192.0.2.7" }, /^cookies\.domain/, "https://192.0.2.7"],
    ["localhost", { domain: "localhost" }, /^cookies\.domain/, "http://localhost"],
    [
      "a path without a slash",
      { path: "api" },
      /^cookies\.path must begin with "\/", .*, got "api"$/,
    ],
    ["a path with a semicolon", { path: "/a; Domain=example.com" }, /^cookies\.path/],
    ["a path that browsers ignore", { path: `/${"a".repeat(1024)}` }, /^cookies\.path/],
    [
      "an older domain with the prefix __Host-",
      { olderDomain: "example.com" },
      /^cookies\.olderDomain has no effect, because cookies with the prefix __Host- never have a domain/,
    ],
    [
      "the current domain as the older one",
      { domain: "example.com", olderDomain: "example.com" },
      /^cookies\.olderDomain is the domain that the cookies have now/,
    ],
    [
      "no older domain and no current domain",
      { path: "/api", olderDomain: null },
      /^cookies\.olderDomain is the domain that the cookies have now/,
    ],
    [
      "a prefix with own names",
      { names: own, prefix: "host" },
      /^cookies\.prefix has no effect with cookies\.names, domain, path or insecure/,
    ],
    [
      "a prefix with a domain",
      { domain: "example.com", prefix: "host-http" },
      /^cookies\.prefix has no effect/,
    ],
    [
      "another prefix with a path",
      { path: "/api", otherPrefix: "ignore" },
      /^cookies\.otherPrefix has no effect/,
    ],
    [
      "an unknown prefix",
      { prefix: "__Host-" } as never,
      /^cookies\.prefix must be "host-http" or "host", got "__Host-"/,
    ],
    [
      "an unknown word for the other prefix",
      { otherPrefix: "expire" } as never,
      /^cookies\.otherPrefix must be "read" or "ignore", got "expire"/,
    ],
    [
      "an older path with the prefix __Host-",
      { olderPath: "/api" },
      /^cookies\.olderPath has no effect, because cookies with the prefix __Host- never have/,
    ],
    [
      "the current path as the older one",
      { path: "/api", olderPath: "/api" },
      /^cookies\.olderPath is the path that the cookies have now/,
    ],
    [
      "an older path without a slash",
      { path: "/api", olderPath: "old" },
      /^cookies\.olderPath must begin with "\/", .*, got "old"$/,
    ],
    [
      "an older domain that does not contain the host",
      { path: "/api", olderDomain: "example.org" },
      /^cookies\.olderDomain must be .*, got "example\.org"$/,
    ],
    [
      "Partitioned without None",
      { partitioned: true },
      /^cookies\.partitioned has no effect with SameSite=lax, .*; set sameSite: "none"/,
    ],
    [
      "an unknown option",
      wrong({ samesite: "none" }),
      /^unknown option "samesite" for cookies; the options are insecure, sameSite, /,
    ],
    [
      "a string instead of a boolean",
      wrong({ insecure: "false" }),
      /^cookies\.insecure must be of type boolean, got string$/,
      "http://localhost",
    ],
    [
      "a string instead of names",
      wrong({ names: "a" }),
      /^cookies\.names must be of type object, got string$/,
    ],
    [
      "null instead of names",
      wrong({ names: null }),
      /^cookies\.names must be of type object, got null$/,
    ],
    [
      "a domain that is a list",
      wrong({ domain: ["example.com"] }),
      /^cookies\.domain must be of type string, got object$/,
    ],
  ])("feat:I5 %s", (_, options, message, at = issuer.href) => {
    expect(() => new SessionCookies(new URL(at), options)).toThrow(TypeError);
    expect(() => new SessionCookies(new URL(at), options)).toThrow(message);
  });

  it.each<[string, CookieOptions, string]>([
    ["a domain over plain http", { insecure: true, domain: "dev.test" }, "http://api.dev.test"],
    ["a path over plain http", { insecure: true, path: "/api" }, "http://localhost:8080"],
    ["the longest names", named("a".repeat(96), "r".repeat(96)), "https://api.example.com"],
    ["a host of two labels as its own domain", { domain: "example.com" }, "https://example.com"],
  ])("feat:I2 accepts %s", (_, options, at) => {
    expect(() => new SessionCookies(new URL(at), options)).not.toThrow();
  });
});
