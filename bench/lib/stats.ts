/** The distribution of a figure over all rounds. */
export interface Spread {
  readonly median: number;
  /** The first and the third quartile. */
  readonly q1: number;
  readonly q3: number;
  readonly rounds: number;
}

/** @throws RangeError if `values` is empty */
export function spreadOf(values: readonly number[]): Spread {
  if (values.length === 0) {
    throw new RangeError("a spread needs at least one value");
  }
  const sorted = [...values].sort((a, b) => a - b);
  const at = (part: number): number => quantile(sorted, part);
  return { median: at(0.5), q1: at(0.25), q3: at(0.75), rounds: sorted.length };
}

/**
 * Returns a quantile, interpolated between the two nearest values.
 *
 * @param sorted ascending, not empty
 * @param part 0 to 1
 */
export function quantile(sorted: readonly number[], part: number): number {
  const place = part * (sorted.length - 1);
  const below = sorted[Math.floor(place)] ?? Number.NaN;
  const above = sorted[Math.ceil(place)] ?? Number.NaN;
  return below + (above - below) * (place - Math.floor(place));
}

/** Returns the first figure divided by the second; null if one of them was not measured. */
export function ratio(
  first: Spread | null | undefined,
  second: Spread | null | undefined,
): number | null {
  return first && second ? first.median / second.median : null;
}

/**
 * Returns the median of the ratios of two figures, round by round. Noise that affects a whole round
 * cancels out.
 */
export function pairedRatio(
  first: readonly number[] | undefined,
  second: readonly number[] | undefined,
): number | null {
  if (first === undefined || second === undefined || second.length === 0) {
    return null;
  }
  const ratios = first.map((value, i) => value / (second[i] ?? Number.NaN));
  return spreadOf(ratios).median;
}

/** Returns how much a figure rises when its cause rises tenfold: least squares over powers of ten. */
export function slopePerDecade(
  points: readonly { readonly n: number; readonly value: number }[],
): number {
  const xs = points.map(({ n }) => Math.log10(n));
  const meanX = mean(xs);
  const meanY = mean(points.map(({ value }) => value));
  const covariance = points.map(({ value }, i) => ((xs[i] ?? 0) - meanX) * (value - meanY));
  const variance = xs.map((x) => (x - meanX) ** 2);
  return mean(covariance) / mean(variance);
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}
