import { type Duration, durationMs } from "./duration.ts";

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
