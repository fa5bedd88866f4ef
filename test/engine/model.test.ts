import { describe, expect, it } from "vitest";
import { removals } from "../../verification/model/rules.ts";
import { runModel } from "../../verification/model/run.ts";
import { Tally } from "../../verification/model/tally.ts";

const none = new Tally().violations;

describe("the model", () => {
  it("finds nothing wrong in 10,000 steps", { timeout: 60_000 }, async () => {
    const { tally, failure } = await runModel({ steps: 10_000, seed: 20_261_123 });
    expect(failure).toBeUndefined();
    expect(tally.violations).toEqual(none);
    expect(tally.refreshes).toBeGreaterThan(500);
  });

  it("nor in 1,000 steps on SQLite", { timeout: 60_000 }, async () => {
    const { failure } = await runModel({ steps: 1_000, seed: 1, store: "sqlite" });
    expect(failure).toBeUndefined();
  });

  it("plays the same seed the same way twice", { timeout: 60_000 }, async () => {
    const run = () => runModel({ steps: 2_000, seed: 5 });
    expect((await run()).tally).toEqual((await run()).tally);
  });

  // The seeds are ones that find it soon; any seed does in the end.
  it.each(Object.keys(removals))(
    "finds what goes wrong without: %s",
    { timeout: 60_000 },
    async (rule) => {
      const seed = seeds[rule] ?? 1;
      const { failure } = await runModel({ steps: 20_000, seed, without: rule, shrinkFor: 0 });
      expect(failure?.violation.kind).toBe(consequences[rule] ?? "false_logouts");
    },
  );
});

const seeds: Readonly<Record<string, number>> = {
  "conditional-write": 2,
  "revoked-write": 5,
};

/** What comes of taking a rule away, where it is no false logout. */
const consequences: Readonly<Record<string, string>> = {
  theft: "missed_thefts",
  revoked: "unexplained",
  expired: "unexplained",
  "conditional-write": "forks",
  "revoked-write": "resurrected",
  "store-clock": "missed_thefts",
};
