import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { readBenchOptions } from "../../bench/lib/options.ts";
import { summarize } from "../../bench/lib/profile.ts";
import {
  between,
  headlineKeys,
  headlineOf,
  markdown,
  type Table,
  written,
} from "../../bench/lib/report.ts";
import { type Contestant, cpuRounds, rotated } from "../../bench/lib/rounds.ts";
import { pairedRatio, quantile, slopePerDecade, spreadOf } from "../../bench/lib/stats.ts";

describe("statistics", () => {
  it("compute the median and quartiles of values in any order", () => {
    expect(spreadOf([5, 1, 4, 2, 3])).toEqual({ median: 3, q1: 2, q3: 4, rounds: 5 });
    expect(spreadOf([2, 1])).toEqual({ median: 1.5, q1: 1.25, q3: 1.75, rounds: 2 });
    expect(spreadOf([7])).toEqual({ median: 7, q1: 7, q3: 7, rounds: 1 });
    expect(() => spreadOf([])).toThrow(RangeError);
    expect(quantile([1, 2, 3, 4, 5], 0.99)).toBeCloseTo(4.96);
  });

  it("compare two figures round by round", () => {
    // Both took three times as long in the second round because of noise.
    expect(pairedRatio([10, 30, 11], [5, 15, 5.5])).toBe(2);
    expect(pairedRatio([1], undefined)).toBeNull();
    expect(pairedRatio(undefined, [1])).toBeNull();
    expect(pairedRatio([1], [])).toBeNull();
  });

  it("compute slopes per tenfold growth", () => {
    const values = [10, 100, 1_000].map((n, i) => ({ n, value: 50 + 7 * i }));
    expect(slopePerDecade(values)).toBeCloseTo(7);
    expect(slopePerDecade(values.map(({ n }) => ({ n, value: 3 })))).toBeCloseTo(0);
  });
});

describe("rounds", () => {
  it("give every contestant every position in turn", () => {
    expect([0, 1, 2, 3].map((round) => rotated(["a", "b", "c"], round).join(""))).toEqual([
      "abc",
      "bca",
      "cab",
      "abc",
    ]);
    expect(rotated(["a", "b", "c"], -1).join("")).toBe("cab");
  });

  it("prepare each batch first and discard two warm-up rounds", async () => {
    const log: string[] = [];
    const contestant = (name: string): Contestant => ({
      name,
      ops: 1,
      prepare: () => void log.push(`prepare ${name}`),
      batch: () => void log.push(`run ${name}`),
    });
    const found = await cpuRounds([contestant("a"), contestant("b")], 3);
    expect([...found].map(([name, values]) => [name, values.length])).toEqual([
      ["a", 3],
      ["b", 3],
    ]);
    expect(log.slice(0, 4)).toEqual(["prepare a", "run a", "prepare b", "run b"]);
    expect(log).toHaveLength(20);
  });
});

describe("the last line", () => {
  const promised = [
    ...["warm_verify_ns", "warm_vs_jose", "warm_vs_fastjwt_cache", "cold_vs_raw"],
    ...["cpu_added_http1", "cpu_added_grpc", "cpu_vs_jose_http1", "cpu_vs_jose_grpc"],
    ...["refresh_vs_floor_sqlite", "refresh_vs_floor_postgres", "bytes_per_session"],
  ];

  it("has every key, even if nothing was measured", () => {
    const line = JSON.parse(JSON.stringify(headlineOf([]))) as Record<string, unknown>;
    expect(Object.keys(line)).toEqual([...headlineKeys]);
    expect(Object.keys(line)).toEqual(expect.arrayContaining(promised));
    expect(new Set(Object.values(line))).toEqual(new Set([null]));
  });

  it("reports figures with three digits, and null for values that are not finite", () => {
    const line = headlineOf([
      { warm_verify_ns: 139.876, cpu_added_http1: 0.0412345 },
      { install_kb: 3_760.4, cold_vs_raw: Number.NaN, warm_vs_jose: Number.POSITIVE_INFINITY },
    ]);
    expect(line).toMatchObject({
      ...{ warm_verify_ns: 140, cpu_added_http1: 0.0412, install_kb: 3_760 },
      ...{ cold_vs_raw: null, warm_vs_jose: null, cpu_added_grpc: null },
    });
  });
});

describe("the tables", () => {
  const table: Table = {
    title: "verify",
    columns: ["µs", "×"],
    rows: [
      { name: "raw", cells: [{ median: 59.53, q1: 59, q3: 60.1, rounds: 9 }, 1] },
      { name: "missing", cells: [null, "none"] },
    ],
  };

  it("are Markdown", () => {
    expect(markdown(table)).toBe(
      [
        "| verify | µs | × |",
        "| --- | --: | --: |",
        "| raw | 59.5 (59–60.1) | 1 |",
        "| missing | – | none |",
      ].join("\n"),
    );
    expect(written(12_345.6)).toBe("12,346");
  });

  it("replace only the text between their markers", () => {
    const text = "before\n<!-- bench:begin -->\nold\n<!-- bench:end -->\nafter";
    const once = between(text, "bench", "new");
    expect(once).toBe("before\n<!-- bench:begin -->\nnew\n<!-- bench:end -->\nafter");
    expect(between(once, "bench", "new")).toBe(once);
    expect(() => between("nothing", "bench", "new")).toThrow(/no markers/);
  });

  it("have markers in docs/benchmarks.md", () => {
    const page = readFileSync(join(import.meta.dirname, "../../docs/benchmarks.md"), "utf8");
    expect(between(page, "bench", "x")).toContain("\nx\n");
  });
});

describe("the options", () => {
  it("make a quick run measure the same sections in fewer rounds", () => {
    const [quick, full] = [readBenchOptions(["--quick"]), readBenchOptions([])];
    expect(quick).toMatchObject({ quick: true, only: [], write: true });
    expect(full.fewRounds).toBeGreaterThanOrEqual(15);
    expect(full.rounds).toBeGreaterThan(quick.rounds);
  });

  it("do not write the page if only some sections run", () => {
    expect(readBenchOptions(["verify"])).toMatchObject({ only: ["verify"], write: false });
    expect(() => readBenchOptions(["--fast"])).toThrow(TypeError);
  });
});

it("a profile attributes time to the owner of the code, without idle time", () => {
  const frame = (id: number, functionName: string, url: string) => ({
    id,
    callFrame: { functionName, url, lineNumber: 9 },
  });
  const summary = summarize({
    nodes: [
      frame(1, "get", "file:///app/src/jwt/verified-cache.ts"),
      frame(2, "next", "file:///app/node_modules/@connectrpc/connect/dist/a.js"),
      frame(3, "set", "node:internal/deps/undici/undici"),
      frame(4, "(idle)", ""),
      frame(5, "(garbage collector)", ""),
    ],
    samples: [1, 2, 3, 4, 5, 1],
    timeDeltas: [10, 20, 30, 1_000, 5, 15],
  });
  expect(summary.owners).toEqual([
    { name: "node: Headers", microseconds: 30 },
    { name: "rpc-session", microseconds: 25 },
    { name: "@connectrpc/connect", microseconds: 20 },
    { name: "(garbage collector)", microseconds: 5 },
  ]);
  expect(summary.functions[1]).toEqual({
    name: "get jwt/verified-cache.ts:10",
    owner: "rpc-session",
    microseconds: 25,
  });
});
