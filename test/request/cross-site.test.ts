import { describe, expect, it } from "vitest";
import { isTrustedSite } from "../../src/request/origins.ts";

const origins = new Set(["https://app.example.com", "http://localhost:5173"]);
const listed = "https://app.example.com";
const other = "https://evil.example";
const rule = { origins, issuer: "https://api.example.com/v1" };

interface Row {
  readonly row: string;
  readonly site?: string | readonly string[];
  readonly origin?: string;
  readonly headers?: Readonly<Record<string, string>>;
  /** [POST, GET] */
  readonly trusted: readonly [boolean, boolean];
}

function check(rows: readonly Row[]): void {
  it.each(rows)("$row", ({ site, origin, headers, trusted }) => {
    const given = new Headers(headers);
    for (const value of [site ?? []].flat()) {
      given.append("sec-fetch-site", value);
    }
    if (origin !== undefined) {
      given.set("origin", origin);
    }
    expect(
      ["POST", "GET"].map((m) => isTrustedSite(rule, { requestHeader: given, requestMethod: m })),
    ).toEqual(trusted);
  });
}

describe("sec:C13 sec:C14 sec:C16 Sec-Fetch-Site", () => {
  check([
    { row: "same-origin", site: "same-origin", trusted: [true, true] },
    {
      row: "same-origin, origin not listed: a contradiction",
      site: "same-origin",
      origin: other,
      trusted: [false, false],
    },
    {
      row: "same-origin, an opaque origin: a contradiction",
      site: "same-origin",
      origin: "null",
      trusted: [false, false],
    },
    {
      row: "same-origin, an opaque origin, the form of a page with Referrer-Policy: no-referrer",
      site: "same-origin",
      origin: "null",
      headers: { "sec-fetch-mode": "navigate", "sec-fetch-dest": "document" },
      trusted: [true, true],
    },
    {
      row: "cross-site, an opaque origin, a form",
      site: "cross-site",
      origin: "null",
      headers: { "sec-fetch-mode": "navigate", "sec-fetch-dest": "document" },
      trusted: [false, false],
    },
    {
      row: "same-origin, an opaque origin, the form of a frame",
      site: "same-origin",
      origin: "null",
      headers: { "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe" },
      trusted: [false, false],
    },
    {
      row: "same-origin, the issuer's own origin, which is not listed",
      site: "same-origin",
      origin: "https://api.example.com",
      trusted: [true, true],
    },
    {
      row: "same-origin, the origin of another name of the service",
      site: "same-origin",
      origin: "https://shop.example",
      headers: { host: "shop.example" },
      trusted: [true, true],
    },
    {
      row: "same-origin, the origin of another port of the same host",
      site: "same-origin",
      origin: "https://shop.example:8443",
      headers: { host: "shop.example" },
      trusted: [false, false],
    },
    {
      row: "the origin of another name of the service, without Sec-Fetch-Site",
      origin: "https://shop.example",
      headers: { host: "shop.example" },
      trusted: [false, false],
    },
    { row: "none: typed into the address bar", site: "none", trusted: [false, true] },
    { row: "none, origin not listed", site: "none", origin: other, trusted: [false, false] },
    { row: "none, origin listed", site: "none", origin: listed, trusted: [true, true] },
    { row: "same-site: a sibling", site: "same-site", trusted: [false, false] },
    { row: "same-site, origin listed", site: "same-site", origin: listed, trusted: [true, true] },
    {
      row: "same-site, origin not listed",
      site: "same-site",
      origin: other,
      trusted: [false, false],
    },
    { row: "cross-site", site: "cross-site", trusted: [false, false] },
    { row: "cross-site, origin listed", site: "cross-site", origin: listed, trusted: [true, true] },
    {
      row: "cross-site, origin not listed",
      site: "cross-site",
      origin: other,
      trusted: [false, false],
    },
    { row: "absent", trusted: [false, false] },
    { row: "absent, origin listed", origin: listed, trusted: [true, true] },
    { row: "absent, origin not listed", origin: other, trusted: [false, false] },
    { row: "empty", site: "", trusted: [false, false] },
    { row: "unknown", site: "same-planet", trusted: [false, false] },
    { row: "unknown, origin listed", site: "same-planet", origin: listed, trusted: [true, true] },
    { row: "another case", site: "Same-Origin", trusted: [false, false] },
    {
      row: "twice, the trusted value first",
      site: ["same-origin", "cross-site"],
      trusted: [false, false],
    },
    {
      row: "twice, the trusted value last",
      site: ["cross-site", "same-origin"],
      trusted: [false, false],
    },
    {
      row: "twice the trusted value",
      site: ["same-origin", "same-origin"],
      trusted: [false, false],
    },
    {
      row: "twice, origin listed",
      site: ["same-origin", "none"],
      origin: listed,
      trusted: [true, true],
    },
  ]);
});

describe("sec:C14 the Referer header, for a GET without Sec-Fetch-Site and Origin", () => {
  const [here, there] = [`${listed}/notes?x=1`, `${other}/${listed}`];
  check([
    { row: "a page of a listed origin", headers: { referer: here }, trusted: [false, true] },
    { row: "only the origin", headers: { referer: `${listed}/` }, trusted: [false, true] },
    {
      row: "a page of the issuer's own origin, which is not listed",
      headers: { referer: "https://api.example.com/files" },
      trusted: [false, true],
    },
    {
      row: "a page of another port of the issuer's host",
      headers: { referer: "https://api.example.com:8443/" },
      trusted: [false, false],
    },
    { row: "a foreign page", headers: { referer: there }, trusted: [false, false] },
    {
      row: "a foreign page with the listed origin as its user name",
      headers: { referer: `https://app.example.com@evil.example/` },
      trusted: [false, false],
    },
    { row: "no URL", headers: { referer: "app.example.com" }, trusted: [false, false] },
    { row: "about:blank", headers: { referer: "about:blank" }, trusted: [false, false] },
    { row: "empty", headers: { referer: "" }, trusted: [false, false] },
    {
      row: "beside a foreign origin",
      origin: other,
      headers: { referer: here },
      trusted: [false, false],
    },
    {
      row: "beside Sec-Fetch-Site: cross-site",
      site: "cross-site",
      headers: { referer: here },
      trusted: [false, false],
    },
    {
      row: "beside an empty Sec-Fetch-Site",
      site: "",
      headers: { referer: here },
      trusted: [false, false],
    },
  ]);
});

describe("sec:C15 the Origin header", () => {
  check(
    [
      "null",
      "",
      "HTTPS://APP.EXAMPLE.COM",
      "https://App.example.com",
      "https://app.example.com/",
      "https://app.example.com.",
      "https://app.example.com:443",
      "https://app.example.com:8443",
      "http://app.example.com",
      "https://app.example.com.evil.example",
      "https://evilapp.example.com",
      "https://example.com",
      "https://sub.app.example.com",
      "https://app.example.com@evil.example",
      "https://app.example.com, https://evil.example",
      "https://аpp.example.com",
      "https://xn--pp-6kc.example.com",
      "http://localhost",
      "http://localhost:51730",
    ].map((origin) => ({
      row: `"${origin}"`,
      // As UTF-8 bytes, which is how a server receives it.
      origin: Buffer.from(origin).toString("latin1"),
      trusted: [false, false] as const,
    })),
  );
  check([
    { row: "a listed origin with a port", origin: "http://localhost:5173", trusted: [true, true] },
    {
      row: "Host and the headers of proxies are ignored",
      headers: {
        host: "app.example.com",
        "x-forwarded-host": "app.example.com",
        forwarded: "host=app.example.com;proto=https",
      },
      trusted: [false, false],
    },
  ]);

  it("only GET may come from the address bar", () => {
    const headers = new Headers({ "sec-fetch-site": "none" });
    for (const method of ["POST", "PUT", "get", "HEAD", ""]) {
      const request = { requestHeader: headers, requestMethod: method };
      expect(isTrustedSite(rule, request)).toBe(false);
    }
  });
});
