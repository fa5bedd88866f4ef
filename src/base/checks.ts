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

/**
 * For those who write without types: what is misspelt would be taken for what is left out.
 *
 * @param what the name of the option, for the message
 * @param known every member there is; the values do not matter
 * @throws TypeError when it is no object, or has a member that there is none of
 */
export function assertMembers<T extends object>(
  what: string,
  value: T,
  known: Readonly<Record<keyof T, unknown>>,
): void {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new TypeError(`${what}: must be an object`);
  }
  const unknown = Object.keys(value).find((name) => !Object.hasOwn(known, name));
  if (unknown !== undefined) {
    const names = Object.keys(known).join(", ");
    throw new TypeError(`${what}: there is no option "${unknown}"; there are ${names}`);
  }
}

/** @throws TypeError unless it is the URL of a service */
export function readIssuer(issuer: string): URL {
  const url = URL.canParse(issuer) ? new URL(issuer) : undefined;
  const plain =
    url !== undefined &&
    (url.protocol === "https:" || url.protocol === "http:") &&
    url.search === "" &&
    url.hash === "" &&
    url.username === "" &&
    /^[\x21-\x7e]+$/.test(issuer) &&
    !/["\\]/.test(issuer);
  if (!plain) {
    throw new TypeError(
      `issuer: ${JSON.stringify(issuer)} must be the URL of this service, such as "https://api.example.com"`,
    );
  }
  return url;
}

/** @throws TypeError when it is no text */
export function readAudience(audience: string): string {
  if (typeof audience !== "string" || audience === "") {
    throw new TypeError("audience: must be a string that is not empty");
  }
  return audience;
}

/**
 * One of several words, the first of them by default.
 * @throws TypeError when it is none of them
 */
export function readChoice<T extends string>(
  option: string,
  value: T | undefined,
  choices: readonly [T, ...T[]],
): T {
  const chosen = value ?? choices[0];
  if (!choices.includes(chosen)) {
    throw new TypeError(`${option}: "${chosen}" is none of ${choices.join(", ")}`);
  }
  return chosen;
}

/** @throws TypeError when it is longer than a minute, or no whole seconds */
export function readClockSkew(value: Duration): number {
  const ms = durationMs("clockSkew", value, { max: 60_000 });
  if (ms % 1000 !== 0) {
    throw new TypeError(`clockSkew: "${value}" must be whole seconds, as times in tokens are`);
  }
  return ms;
}
