import {
  assertMembers,
  type Duration,
  type DurationBounds,
  durationMs,
  durationOf,
} from "../base/checks.ts";
import type { TokenFormat } from "./store.ts";

/** How long access tokens and sessions live. */
export interface LifetimeOptions {
  /**
   * Lifetime of an access token. Up to 5 % is subtracted at random, so that tokens do not all expire
   * at once. Default "15m"; from "2s" to "1h".
   *
   * A server accepts no token for longer than its own `access`, even if another server issued it with a
   * longer life. It remembers revocations for that long and one minute more.
   */
  readonly access?: Duration;
  /** Lifetime of a session without a refresh. Default "14d"; from `access` to `absolute`. */
  readonly idle?: Duration;
  /**
   * Maximum lifetime of a session, however often it is refreshed. Default "90d"; from `access` to
   * "400d", the longest time that browsers keep a cookie.
   */
  readonly absolute?: Duration;
}

/** How refresh tokens rotate. `clientTimeout` < `overlap` < half of `lifetimes.access` must hold. */
export interface RefreshOptions {
  /**
   * How long the previous refresh token stays valid after its successor was confirmed. After that,
   * using it counts as theft and ends the session. Default "30s".
   */
  readonly overlap?: Duration;
  /**
   * How long ago a refresh token must have been sent before its use, or the use of its access token,
   * confirms it. Longer than browsers take to write a cookie to disk, which is 30 s. Sending the token
   * again begins this time anew, up to ten times its length in all. Default "60s"; from "0s" to "1h".
   */
  readonly settle?: Duration;
  /**
   * The longest time that a client waits for a refresh: its `refreshTimeout`. Shorter than `overlap`.
   * Default "10s".
   */
  readonly clientTimeout?: Duration;
  /**
   * The format of new refresh tokens; both are always accepted. With 2, a copy of the database together
   * with the secret mints no refresh token, and a refresh needs one statement. Servers of versions
   * before 0.2 cannot read format 2: set it once none of them is running. Default: 2 if the store was
   * created by a version that reads both, else 1.
   */
  readonly tokenFormat?: 1 | 2;
}

/** Shorter lifetimes for one session. Each defaults to the service's. */
export interface OwnLifetimes {
  /** Lifetime of an access token. At most the service's, and more than twice `refresh.overlap`. */
  readonly access?: Duration;
  /** Lifetime of the session without a refresh. At most the service's, and at least `access`. */
  readonly idle?: Duration;
  /** Maximum lifetime of the session. At most the service's, and at least `access`. */
  readonly absolute?: Duration;
}

/** The options in milliseconds. */
export interface Lifetimes {
  /** Undefined for the store's. */
  readonly tokenFormat: TokenFormat | undefined;
  readonly access: number;
  readonly idle: number;
  readonly absolute: number;
  readonly overlap: number;
  readonly settle: number;
  /** The longest time that a client waits for a refresh. */
  readonly clientTimeout: number;
}

/** The lifetimes of one session in milliseconds; null to use the service's. */
export interface SessionLife {
  readonly accessLife: number | null;
  readonly idleLife: number | null;
  /** The service's if the session has none of its own. */
  readonly absolute: number;
}

/** Maximum lifetime of any access token, in milliseconds. */
export const maxAccessLife = 3_600_000;

/**
 * Checks the options and converts them to milliseconds.
 * @throws TypeError if a duration is out of bounds, or two of them contradict each other
 */
export function readLifetimes(lifetimes: LifetimeOptions, refresh: RefreshOptions): Lifetimes {
  assertMembers("lifetimes", lifetimes, spans);
  assertMembers("refresh", refresh, { overlap: 0, settle: 0, clientTimeout: 0, tokenFormat: 0 });
  const access = durationMs("lifetimes.access", lifetimes.access ?? "15m", {
    min: 2_000,
    max: maxAccessLife,
  });
  const absolute = durationMs("lifetimes.absolute", lifetimes.absolute ?? "90d", {
    min: access,
    max: 400 * 86_400_000,
  });
  const idle = durationMs("lifetimes.idle", lifetimes.idle ?? "14d", {
    min: access,
    max: absolute,
  });
  const overlap = durationMs("refresh.overlap", refresh.overlap ?? "30s");
  const settle = durationMs("refresh.settle", refresh.settle ?? "60s", { max: 3_600_000 });
  const clientTimeout = durationMs("refresh.clientTimeout", refresh.clientTimeout ?? "10s");
  if (clientTimeout >= overlap) {
    throw new TypeError(
      `refresh.overlap must be longer than refresh.clientTimeout (${durationOf(clientTimeout)}), got ${durationOf(overlap)}; a client may wait that long for the response to a refresh`,
    );
  }
  if (overlap >= access / 2) {
    throw new TypeError(
      `refresh.overlap must be shorter than half of lifetimes.access (${durationOf(access)}), got ${durationOf(overlap)}; ${shorter}`,
    );
  }
  const { tokenFormat } = refresh;
  if (tokenFormat !== undefined && tokenFormat !== 1 && tokenFormat !== 2) {
    throw new TypeError(`refresh.tokenFormat must be 1 or 2, got ${JSON.stringify(tokenFormat)}`);
  }
  return { access, idle, absolute, overlap, settle, clientTimeout, tokenFormat };
}

/**
 * Checks the lifetimes of one session and converts them to milliseconds.
 * @throws TypeError if a duration is longer than the service's, or too short
 */
export function readOwnLifetimes(lifetimes: Lifetimes, own: OwnLifetimes): SessionLife {
  assertMembers("lifetimes", own, spans);
  const min = 2 * lifetimes.overlap + 1;
  const read = (name: keyof OwnLifetimes, bounds: DurationBounds): number | null => {
    const value = own[name];
    return value === undefined ? null : durationMs(`lifetimes.${name}`, value, bounds);
  };
  const accessLife = read("access", { min: Math.max(2_000, min), max: lifetimes.access });
  const access = accessLife ?? lifetimes.access;
  return {
    accessLife,
    idleLife: read("idle", { min: access, max: lifetimes.idle }),
    absolute: read("absolute", { min: access, max: lifetimes.absolute }) ?? lifetimes.absolute,
  };
}

const shorter =
  "short access tokens need a short overlap and clientTimeout, such as " +
  'lifetimes: { access: "5s" }, refresh: { overlap: "2s", clientTimeout: "1s" }';

const spans = { access: 0, idle: 0, absolute: 0 } as const;
