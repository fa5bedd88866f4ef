import { SessionError } from "rpc-session";
import { describe, expect, it } from "vitest";
import { chooseTransport } from "../../src/server/session/sign-in.ts";

/** wanted, fromBrowser, trustedSite, browserHeaderTransport */
type Case = readonly [string | undefined, boolean, boolean, boolean];

const all: readonly (readonly [...Case, "cookie" | "header" | "refused"])[] = [
  // A program without a preference gets headers, whatever its Origin.
  [undefined, false, false, false, "header"],
  [undefined, false, false, true, "header"],
  [undefined, false, true, false, "header"],
  [undefined, false, true, true, "header"],
  // A browser gets cookies if it would keep them.
  [undefined, true, true, false, "cookie"],
  [undefined, true, true, true, "cookie"],
  [undefined, true, false, false, "refused"],
  [undefined, true, false, true, "header"],
  // Clients that ask for cookies get them; the cross-site check comes later.
  ["cookie", false, false, false, "cookie"],
  ["cookie", false, false, true, "cookie"],
  ["cookie", false, true, false, "cookie"],
  ["cookie", false, true, true, "cookie"],
  ["cookie", true, false, false, "cookie"],
  ["cookie", true, false, true, "cookie"],
  ["cookie", true, true, false, "cookie"],
  ["cookie", true, true, true, "cookie"],
  // A browser gets headers only if the service allows it.
  ["header", false, false, false, "header"],
  ["header", false, false, true, "header"],
  ["header", false, true, false, "header"],
  ["header", false, true, true, "header"],
  ["header", true, false, false, "refused"],
  ["header", true, false, true, "header"],
  ["header", true, true, false, "refused"],
  ["header", true, true, true, "header"],
  // No other transport is accepted.
  ["", false, true, true, "refused"],
  ["Cookie", false, true, true, "refused"],
  ["cookie, header", false, true, true, "refused"],
  ["any", true, true, true, "refused"],
];

describe("chooseTransport", () => {
  it.each(all)(
    "wanted: %s, from a browser: %s, trusted site: %s, header transport allowed: %s; chooses %s",
    (wanted, fromBrowser, trustedSite, browserHeaderTransport, result) => {
      const choose = () =>
        chooseTransport({ wanted, fromBrowser, trustedSite, browserHeaderTransport });
      if (result !== "refused") {
        expect(choose()).toBe(result);
        return;
      }
      expect(choose).toThrow(SessionError);
      expect(choose).toThrow(
        expect.objectContaining({ kind: "forbidden", reason: "TRANSPORT_REFUSED" }),
      );
    },
  );
});
