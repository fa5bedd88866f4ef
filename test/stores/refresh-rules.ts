import { describe } from "vitest";
import { describeRaces } from "./refresh-rules-races.ts";
import { describeTimes } from "./refresh-rules-times.ts";
import { describeTokens } from "./refresh-rules-tokens.ts";
import type { NewSharedStore } from "./rules-helpers.ts";

/** The refresh rules for servers that share a store, with at least one test each. */
export function describeRefreshRules(newStore: NewSharedStore): void {
  describe("racing refreshes", () => {
    describeRaces(newStore);
  });
  describe("refreshes over time", () => {
    describeTimes(newStore);
  });
  describe("refresh tokens", () => {
    describeTokens(newStore);
  });
}
