/**
 * A span of time such as `"15m"`, `"500ms"` or `"90d"`: a number with at most nine digits and three
 * decimals, followed by its unit. It must not be negative.
 */
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
 * @param option the name of the option, used in the message
 * @throws TypeError when the value is not a duration or is out of bounds
 */
export function durationMs(option: string, value: Duration, bounds: DurationBounds = {}): number {
  const match = pattern.exec(value);
  if (match === null) {
    throw new TypeError(
      `${option}: ${JSON.stringify(value)} is not a valid duration; use a value such as "15m" or "30s"`,
    );
  }
  const ms = Math.round(Number(match[1]) * unitMs[match[2] as keyof typeof unitMs]);
  if (bounds.min !== undefined && ms < bounds.min) {
    throw new TypeError(`${option} must be at least ${durationOf(bounds.min)}, got "${value}"`);
  }
  if (bounds.max !== undefined && ms > bounds.max) {
    throw new TypeError(`${option} must be at most ${durationOf(bounds.max)}, got "${value}"`);
  }
  return ms;
}

/** Formats milliseconds as a duration, for messages: 900,000 becomes "15m". */
export function durationOf(ms: number): Duration {
  const units = ["d", "h", "m", "s"] as const;
  const unit = units.find((name) => ms > 0 && ms % unitMs[name] === 0) ?? "ms";
  return `${ms / unitMs[unit]}${unit}`;
}

/**
 * Rejects unknown members of an options object. Without types, a misspelt option would otherwise be
 * treated as absent.
 *
 * @param what the name of the options object, used in the message
 * @param known every member that exists; the values do not matter
 * @throws TypeError when the value is not an object or has an unknown member
 */
export function assertMembers<T extends object>(
  what: string,
  value: T,
  known: Readonly<Record<keyof T, unknown>>,
): void {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    const given = value === null ? "null" : Array.isArray(value) ? "an array" : typeof value;
    throw new TypeError(`${what} must be an object, got ${given}`);
  }
  const names = Object.keys(known);
  const unknown = Object.keys(value).find((name) => !names.includes(name));
  if (unknown !== undefined) {
    throw new TypeError(
      `unknown option "${unknown}" for ${what}; the options are ${names.join(", ")}`,
    );
  }
}

/** Whether a value is a string that a store and a token can hold: see {@link assertId}. */
export function isId(value: unknown): value is string {
  return hasIdLength(value) && isStorable(value);
}

/**
 * Checks an id: 1 to 255 characters of well-formed Unicode without NUL.
 * @throws TypeError unless the value is a string that a store and a token can hold
 */
export function assertId(name: string, value: unknown): asserts value is string {
  if (!hasIdLength(value)) {
    const got = typeof value === "string" ? `${value.length} characters` : typeof value;
    throw new TypeError(`${name} must be a string of 1 to 255 characters, got ${got}`);
  }
  if (!isStorable(value)) {
    throw new TypeError(`${name} must be well-formed Unicode without NUL characters`);
  }
}

/**
 * Checks a value of `acr` or `amr`. Challenges list such values in quotes and separated by spaces, so
 * they have the characters of an OAuth scope (RFC 6749 section 3.3).
 * @throws TypeError unless it is 1 to 255 of these characters
 */
export function assertAuthenticationWord(name: string, value: unknown): asserts value is string {
  if (typeof value !== "string" || !/^[\x21\x23-\x5b\x5d-\x7e]{1,255}$/.test(value)) {
    throw new TypeError(
      `${name} must be 1 to 255 printable ASCII characters without spaces, quotes and backslashes, such as "phr"`,
    );
  }
}

function hasIdLength(value: unknown): value is string {
  return typeof value === "string" && value.length > 0 && value.length <= 255;
}

function isStorable(text: string): boolean {
  return text.isWellFormed() && !text.includes("\u0000");
}

/**
 * Reads the `issuer` option: an http or https URL without a query, fragment or user name.
 * @param option the name of the option, used in the message
 * @throws TypeError for any other value
 */
export function readIssuer(issuer: string, option = "issuer"): URL {
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
      `${option} must be the http or https URL of this service without a query, fragment or user name, such as "https://api.example.com", got ${JSON.stringify(withoutCredentials(issuer))}`,
    );
  }
  return url;
}

/** An issuer whose tokens are accepted, and the audience that they name. */
export interface AcceptedIssuer {
  readonly issuer: string;
  readonly audience: string;
}

const maxOlderIssuers = 8;

/**
 * Reads the option `olderIssuers`.
 * @param audience the option `audience`; undefined if the audience is the issuer
 * @throws TypeError when a value is not an issuer, is listed twice or is `issuer` itself, or there are
 * more than 8
 */
export function readOlderIssuers(
  option: readonly string[] = [],
  { issuer, audience }: { readonly issuer: string; readonly audience?: string | undefined },
): readonly AcceptedIssuer[] {
  if (!Array.isArray(option)) {
    throw new TypeError(
      'olderIssuers must be an array of issuers, such as ["https://api.example.com"]',
    );
  }
  if (option.length > maxOlderIssuers) {
    throw new TypeError(
      `olderIssuers holds at most ${maxOlderIssuers} issuers, got ${option.length}; remove those whose sessions have ended`,
    );
  }
  option.forEach((older, i) => {
    readIssuer(older, `olderIssuers[${i}]`);
    if (older === issuer || option.indexOf(older) < i) {
      const known = older === issuer ? "is the issuer itself" : "is listed twice";
      throw new TypeError(
        `olderIssuers[${i}]: ${JSON.stringify(older)} ${known}; list only other issuers, each once`,
      );
    }
  });
  return option.map((older) => ({ issuer: older, audience: audience ?? older }));
}

/** Returns a function that tells whether a value is in the list. */
export function isAnyOf(list: readonly string[]): (value: string) => boolean {
  const values = new Set(list);
  return (value) => values.has(value);
}

/** Hides the user name and password of a URL, for messages. Returns anything but a string as it is. */
export function withoutCredentials<T>(url: T): T | string {
  return typeof url === "string" ? url.replace(/([a-z]:\/{1,2}).*@/is, "$1***@") : url;
}

/** Reads the `audience` option. @throws TypeError when it is not a string or is empty */
export function readAudience(audience: string): string {
  if (typeof audience !== "string" || audience === "") {
    throw new TypeError(`audience must be a non-empty string, got ${JSON.stringify(audience)}`);
  }
  return audience;
}

/**
 * Reads an option with a fixed set of values; the first one is the default.
 * @throws TypeError for any other value
 */
export function readChoice<T extends string>(
  option: string,
  value: T | undefined,
  choices: readonly [T, ...T[]],
): T {
  const chosen = value ?? choices[0];
  if (!choices.includes(chosen)) {
    const words = choices.map((choice) => `"${choice}"`).join(", ");
    throw new TypeError(`${option} must be one of ${words}, got ${JSON.stringify(chosen)}`);
  }
  return chosen;
}

/**
 * Reads the `clockSkew` option as milliseconds.
 * @throws TypeError when it is longer than a minute, or is not a whole number of seconds
 */
export function readClockSkew(value: Duration): number {
  const ms = durationMs("clockSkew", value, { max: 60_000 });
  if (ms % 1000 !== 0) {
    throw new TypeError(
      `clockSkew must be a whole number of seconds, the unit of token times, got "${value}"`,
    );
  }
  return ms;
}
