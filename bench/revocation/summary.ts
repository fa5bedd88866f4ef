import type { Measured } from "./measure.ts";

/** The results of a run; times are in milliseconds. */
export interface Summary {
  readonly p50_ms: number;
  readonly p99_ms: number;
  readonly max_ms: number;
  readonly streams_p50_ms: number;
  readonly streams_p99_ms: number;
  readonly streams_max_ms: number;
  readonly store_reads_per_call: number;
  readonly revocations: number;
  readonly calls: number;
}

export function summarize({ samples, calls, reads }: Measured): Summary {
  const refusals = samples.flatMap((sample) => sample.refusals);
  const streams = samples.map(({ stream }) => stream);
  return {
    p50_ms: percentile(refusals, 0.5),
    p99_ms: percentile(refusals, 0.99),
    max_ms: percentile(refusals, 1),
    streams_p50_ms: percentile(streams, 0.5),
    streams_p99_ms: percentile(streams, 0.99),
    streams_max_ms: percentile(streams, 1),
    store_reads_per_call: calls === 0 ? Number.NaN : reads / calls,
    revocations: samples.length,
    calls,
  };
}

/** Returns a percentile (nearest rank), rounded to a tenth; NaN if there are no values. */
export function percentile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  const value = sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)] ?? Number.NaN;
  return Math.round(value * 10) / 10;
}
