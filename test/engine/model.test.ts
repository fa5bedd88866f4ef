import { describe, expect, it } from "vitest";
import { removals } from "../../verification/model/rules.ts";
import { runModel } from "../../verification/model/run.ts";
import { Tally } from "../../verification/model/tally.ts";

const none = new Tally().violations;

describe("the model", () => {
  it("finds no violation in 10,000 steps", async () => {
    const { tally, failure } = await runModel({ steps: 10_000, seed: 20_261_123 });
    expect(failure).toBeUndefined();
    expect(tally.violations).toEqual(none);
    expect(tally.refreshes).toBeGreaterThan(500);
    expect(tally.boundRefreshes).toBeGreaterThan(50);
    expect(tally.newNonces).toBeGreaterThan(50);
    expect(tally.boundTries).toBeGreaterThan(20);
  });

  it("finds no violation in 1,000 steps on SQLite", async () => {
    const { failure } = await runModel({ steps: 1_000, seed: 1, store: "sqlite" });
    expect(failure).toBeUndefined();
  });

  it("finds no violation while one server mints the former format of tokens and one the new one", async () => {
    const { tally, failure } = await runModel({ steps: 10_000, seed: 3, mixedFormats: true });
    expect(failure).toBeUndefined();
    expect(tally.forged).toBeGreaterThan(50);
  });

  it("replays a seed identically", async () => {
    const run = () => runModel({ steps: 2_000, seed: 5 });
    expect((await run()).tally).toEqual((await run()).tally);
  });

  // These seeds find the violation quickly; every seed finds it in the end.
  it.each(Object.keys(removals))("finds a violation if this rule is removed: %s", async (rule) => {
    const seed = seeds[rule] ?? 1;
    const { failure } = await runModel({ steps: 20_000, seed, without: rule, shrinkFor: 0 });
    expect(failure?.violation.kind).toBe(consequences[rule] ?? "false_logouts");
  });
});

const seeds: Readonly<Record<string, number>> = {
  overlap: 88,
  sent: 3,
  "revoked-write": 3,
  "confirm-write": 2,
  "proof-first": 5,
  "store-clock": 1,
};

/** The kind of violation after a rule is removed, unless it is a false logout. */
const consequences: Readonly<Record<string, string>> = {
  theft: "missed_thefts",
  revoked: "unexplained",
  expired: "unexplained",
  "conditional-write": "forks",
  "revoked-write": "resurrected",
  "store-clock": "missed_thefts",
  root: "forged",
  "former-secret": "forged",
  proof: "bound_thief_refreshes",
  "proof-demand": "bound_thief_proof_calls",
  "token-end": "bound_thief_calls_after_expiry",
};
