import { describe, expect, it } from "vitest";
import { search } from "../../verification/search/search.ts";
import { rules } from "../../verification/search/server.ts";

// `npm run search` does the same with two tabs.
const limits = { tabs: 1, crashes: true };

describe("the exhaustive search", () => {
  it("finds no false theft in any state of a browser with one tab", { timeout: 120_000 }, () => {
    const { falseTheft, states, edges } = search(rules.nothing, limits);
    expect(falseTheft).toBeUndefined();
    // Fewer would mean that something can no longer happen.
    expect(states).toBe(7_549);
    expect(edges).toBe(81_446);
  });

  it("finds one if a use confirms whatever refresh cookie is beside it", {
    timeout: 120_000,
  }, () => {
    const { falseTheft = [] } = search(rules.receipt, limits);
    expect(falseTheft).toContain("its answer arrives without the refresh cookie");
    expect(falseTheft.at(-1)).toBe("a refresh of -1 reaches a server");
  });

  it("finds one if a re-send does not let its generation settle anew", { timeout: 120_000 }, () => {
    const { falseTheft = [] } = search(rules.sent, limits);
    expect(falseTheft.filter((step) => step.startsWith("a crash"))).toHaveLength(1);
    expect(falseTheft.at(-1)).toBe("a refresh of -1 reaches a server");
  });

  describe("with a server that renders pages", () => {
    // Without crashes it is smaller. A way to a false theft takes fewer than 25,000 states.
    const pages = { tabs: 1, crashes: false, pages: true, states: 40_000 };

    it("sec:C22 finds no false theft in the nearest states", { timeout: 300_000 }, () => {
      const { falseTheft, states } = search(rules.nothing, pages);
      expect(falseTheft).toBeUndefined();
      expect(states).toBeGreaterThanOrEqual(pages.states);
    });

    it("finds one if a page presents a refresh cookie that the browser may never get", {
      timeout: 300_000,
    }, () => {
      const { falseTheft = [] } = search(rules.cookie, pages);
      expect(falseTheft).toContain("the page makes a call");
      expect(falseTheft.at(-1)).toBe("a refresh of -1 reaches a server");
    });

    it("finds one if a page presents the refresh cookie of its request for too long", {
      timeout: 300_000,
    }, () => {
      const { falseTheft = [] } = search(rules.stop, pages);
      expect(falseTheft.at(-1)).toBe("the page refreshes with -1");
    });
  });
});
