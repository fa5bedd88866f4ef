/** A span of time such as `"15m"`, `"500ms"` or `"90d"`. */
export type Duration = `${number}${"ms" | "s" | "m" | "h" | "d"}`;

/** Bounds of a duration option, in milliseconds, both inclusive. */
export interface DurationBounds {
  readonly min?: number;
  readonly max?: number;
}

const unitMs = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 } as const;
const pattern = /^(\d{1,9}(?:\.\d{1,3})?)(ms|s|m|h|d)$/;

/**
 * Reads a duration option as milliseconds.
 *
 * @param option the name of the option, for the message
 * @throws TypeError when it is no duration or out of bounds
 */
export function durationMs(option: string, value: Duration, bounds: DurationBounds = {}): number {
  const match = pattern.exec(value);
  if (match === null) {
    throw new TypeError(`${option}: ${JSON.stringify(value)} is no duration; write "15m" or "30s"`);
  }
  const ms = Math.round(Number(match[1]) * unitMs[match[2] as keyof typeof unitMs]);
  if (bounds.min !== undefined && ms < bounds.min) {
    throw new TypeError(`${option}: "${value}" is too short; at least ${durationOf(bounds.min)}`);
  }
  if (bounds.max !== undefined && ms > bounds.max) {
    throw new TypeError(`${option}: "${value}" is too long; at most ${durationOf(bounds.max)}`);
  }
  return ms;
}

/** Milliseconds as one would write them, for messages: 900,000 are "15m". */
export function durationOf(ms: number): Duration {
  const units = ["d", "h", "m", "s"] as const;
  const unit = units.find((name) => ms > 0 && ms % unitMs[name] === 0) ?? "ms";
  return `${ms / unitMs[unit]}${unit}`;
}
