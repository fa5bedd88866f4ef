import { describe, expect, it } from "vitest";
import { UsedOnce } from "../../src/server/authenticate/used-once.ts";

describe("what is used once", () => {
  it("is remembered for its life", () => {
    const used = new UsedOnce();
    expect(used.isFirst("a", 0, 100)).toBe(true);
    expect(used.isFirst("a", 99, 100)).toBe(false);
    expect(used.isFirst("a", 100, 100)).toBe(true);
  });

  it("has a limit, beyond which the oldest is forgotten", () => {
    const used = new UsedOnce();
    for (let use = 0; use <= 100_000; use++) {
      used.isFirst(String(use), 0, 100);
    }
    expect(used.isFirst("1", 0, 100)).toBe(false);
    expect(used.isFirst("0", 0, 100)).toBe(true);
  });
});
