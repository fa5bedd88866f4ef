import { describe, expect, it } from "vitest";
import { patientThief } from "../../verification/search/patient.ts";
import { search } from "../../verification/search/search.ts";
import { type RuleName, rules } from "../../verification/search/server.ts";
import type { Limits } from "../../verification/search/steps.ts";

// `npm run search` does the same with two tabs, and with more at once.
const limits: Limits = { tabs: 1, crashes: true, requests: 3, slow: 0, thief: false };
const slow: Limits = { ...limits, requests: 2, slow: 1 };
const thief: Limits = { ...limits, crashes: false, requests: 1, thief: true };
const timeout = 300_000;

describe("the exhaustive search", () => {
  it("finds no false theft in any state of a browser with one tab and two servers", {
    timeout,
  }, () => {
    const { violation, states, edges } = search(rules.nothing, limits);
    expect(violation).toBeUndefined();
    // Fewer would mean that something can no longer happen.
    expect(states).toBe(9_509);
    expect(edges).toBe(97_230);
  });

  it("finds none if a server waits for the store", { timeout }, () => {
    const { violation, states } = search(rules.nothing, slow);
    expect(violation).toBeUndefined();
    expect(states).toBe(35_252);
  });

  it.each<[string, RuleName, Limits, string]>([
    [
      "a use confirms whatever refresh cookie is beside it",
      "receipt",
      limits,
      "its answer arrives without the refresh cookie",
    ],
    [
      "a use confirms at once",
      "settle",
      limits,
      "a crash, after which 1 writes of the jar are lost",
    ],
    [
      "a re-send does not let its generation settle anew",
      "sent",
      limits,
      "a crash, after which 1 writes of the jar are lost",
    ],
    [
      "a use that is written late confirms by its age at that time",
      "age",
      limits,
      "server 0 writes what it has gathered",
    ],
    [
      "a refresh confirms by the time at which the store answers",
      "arrival",
      slow,
      "the server reads the row for 0, and writes it",
    ],
    [
      "an old token is theft at once",
      "overlap",
      { ...limits, crashes: false },
      "a refresh is doubled",
    ],
    [
      "the statement that advances needs no time since the confirmation",
      "statement",
      { ...limits, crashes: false },
      "a refresh is doubled",
    ],
    ["an unconfirmed generation is replaced", "keep", limits, "a refresh is doubled"],
    [
      "a use of an older generation confirms the current one",
      "generation",
      limits,
      "server 0 writes what it has gathered",
    ],
    [
      "a server writes what it has decided by an older row",
      "condition",
      { ...limits, slow: 1 },
      "the server writes: advance",
    ],
    [
      "a refresh that has waited is decided by the time of the answer",
      "late",
      slow,
      "a refresh of -1 reaches a server that waits for the store",
    ],
  ])("finds one if %s", { timeout }, (_, without, within, step) => {
    const { violation } = search(rules[without], within);
    expect(violation?.kind).toBe("false theft");
    expect(violation?.way).toContain(step);
  });

  describe("with a thief", () => {
    it("finds every theft, by the owner or by the thief, whoever is second", { timeout }, () => {
      const { violation, found, states } = search(rules.nothing, thief);
      expect(violation).toBeUndefined();
      // Fewer would mean that something can no longer happen.
      expect(states).toBe(40_995);
      expect(found["found by the owner"]).toBeGreaterThan(0);
      expect(found["found by the thief"]).toBeGreaterThan(0);
      const patient = patientThief(rules.nothing);
      expect(patient.violation).toBeUndefined();
      expect(patient.found["found by the thief"]).toBeGreaterThan(0);
    });

    it.each<[string, RuleName]>([
      ["an old token is never theft", "theft"],
      ["servers never write what they have gathered", "calls"],
      ["a server that has seen one generation confirmed never asks again", "knows"],
    ])("misses one if %s", { timeout }, (_, without) => {
      expect(search(rules[without], thief).violation?.kind).toBe("missed theft");
    });

    it("misses a patient thief if re-sends prolong the settling without limit", { timeout }, () => {
      expect(patientThief(rules.limit).violation?.kind).toBe("missed theft");
    });
  });

  describe("with a server that renders pages", () => {
    // A way to a false theft takes fewer than 45,000 states.
    const pages: Limits = { ...limits, crashes: false, pages: true, states: 60_000 };

    it("sec:C22 finds no false theft in the nearest states", { timeout }, () => {
      const { violation, states } = search(rules.nothing, pages);
      expect(violation).toBeUndefined();
      expect(states).toBeGreaterThanOrEqual(60_000);
    });

    it("finds one if a page presents a refresh cookie that the browser may never get", {
      timeout,
    }, () => {
      const { violation } = search(rules.cookie, pages);
      expect(violation?.kind).toBe("false theft");
      expect(violation?.way.at(-1)).toBe("a refresh of -1 reaches a server");
    });

    it("finds one if a page presents the refresh cookie of its request for too long", {
      timeout,
    }, () => {
      const { violation } = search(rules.stop, pages);
      expect(violation?.kind).toBe("false theft");
      expect(violation?.way.at(-1)).toBe("the page refreshes with -1");
    });
  });
});
