import { describe } from "vitest";
import { describeRaces } from "./refresh-rules-races.ts";
import { describeTimes } from "./refresh-rules-times.ts";
import { describeTokens } from "./refresh-rules-tokens.ts";
import type { NewSharedStore } from "./rules-helpers.ts";

/** The refresh rules as servers that share a store keep them, one test and more for each. */
export function describeRefreshRules(newStore: NewSharedStore): void {
  describe("refreshes that race", () => {
    describeRaces(newStore);
  });
  describe("refreshes in time", () => {
    describeTimes(newStore);
  });
  describe("refresh tokens", () => {
    describeTokens(newStore);
  });
}
