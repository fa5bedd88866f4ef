import { describe, expect, it } from "vitest";
import { readArguments } from "../../bench/revocation/options.ts";
import { percentile, summarize } from "../../bench/revocation/summary.ts";

describe("bench:revocation", () => {
  it("counts the refusal of every other process and the end of every stream", () => {
    const samples = Array.from({ length: 100 }, (_, i) => ({
      refusals: [i + 1, i + 1, i + 1],
      stream: 2 * (i + 1),
    }));
    expect(summarize({ samples, calls: 400, reads: 2 })).toEqual({
      ...{ p50_ms: 50, p99_ms: 99, max_ms: 100 },
      ...{ streams_p50_ms: 100, streams_p99_ms: 198, streams_max_ms: 200 },
      ...{ store_reads_per_call: 0.005, revocations: 100, calls: 400 },
    });
  });

  it("rounds percentiles of few values up to the next value", () => {
    expect(percentile([3, 1, 2], 0.5)).toBe(2);
    expect(percentile([3, 1, 2], 0.99)).toBe(3);
    expect(percentile([7.04], 0.5)).toBe(7);
    expect(percentile([], 1)).toBeNaN();
  });

  it("does less with --quick and rejects unknown arguments", () => {
    expect(readArguments([])).toMatchObject({ processes: 4, sessions: 10_000, streams: 1_000 });
    expect(readArguments(["--quick"]).sessions).toBeLessThan(10_000);
    expect(() => readArguments(["--quik"])).toThrow(/quik/);
  });
});
