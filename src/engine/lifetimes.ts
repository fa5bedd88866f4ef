import {
  assertMembers,
  type Duration,
  type DurationBounds,
  durationMs,
  durationOf,
} from "../base/checks.ts";

/** How long things live. */
export interface LifetimeOptions {
  /** An access token, minus up to 5 % so that not all expire at once. Default "15m"; 2s to 1h. */
  readonly access?: Duration;
  /** A session without a refresh. Default "14d"; from `access` to `absolute`. */
  readonly idle?: Duration;
  /** A session in any case. Default "90d"; from `access` to 400d, the longest a browser keeps a cookie. */
  readonly absolute?: Duration;
}

/** How refresh tokens rotate. Must keep `clientTimeout` < `overlap` < half of `access`. */
export interface RefreshOptions {
  /** How long the former refresh token is good after its successor was confirmed. Default "30s". */
  readonly overlap?: Duration;
  /** How old a generation must be before its use confirms it. Default "60s"; 0s to 1h. */
  readonly settle?: Duration;
  /** The longest a client waits for a refresh: the `refreshTimeout` of the clients. Default "10s". */
  readonly clientTimeout?: Duration;
}

/** The options as milliseconds. */
export interface Lifetimes {
  readonly access: number;
  readonly idle: number;
  readonly absolute: number;
  readonly overlap: number;
  readonly settle: number;
  /** The longest a client waits for a refresh. */
  readonly clientTimeout: number;
}

/** The longest any access token may live, in milliseconds. */
export const maxAccessLife = 3_600_000;

/** A shorter life for one session; each default is the service's. */
export interface OwnLifetimes {
  /** An access token. At most the service's, more than twice `refresh.overlap`. */
  readonly access?: Duration;
  /** The session without a refresh. At most the service's, at least `access`. */
  readonly idle?: Duration;
  /** The session in any case. At most the service's, at least `access`. */
  readonly absolute?: Duration;
}

/** The life of one session, in milliseconds; null where the service's holds. */
export interface SessionLife {
  readonly accessLife: number | null;
  readonly idleLife: number | null;
  /** The service's where the session has none of its own. */
  readonly absolute: number;
}

/**
 * Resolves and checks the life of one session.
 * @throws TypeError when a span is longer than the service's, or too short
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

/**
 * Resolves and checks the options.
 * @throws TypeError when a span is out of bounds or they do not fit together
 */
export function readLifetimes(lifetimes: LifetimeOptions, refresh: RefreshOptions): Lifetimes {
  assertMembers("lifetimes", lifetimes, spans);
  assertMembers("refresh", refresh, { overlap: 0, settle: 0, clientTimeout: 0 });
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
      `refresh.overlap: ${durationOf(overlap)} is too short; a client may still wait ${durationOf(clientTimeout)} for the answer of a refresh, so make it longer than refresh.clientTimeout`,
    );
  }
  if (overlap >= access / 2) {
    throw new TypeError(
      `refresh.overlap: ${durationOf(overlap)} is too long for access tokens of ${durationOf(access)}; make it shorter than half of lifetimes.access`,
    );
  }
  return { access, idle, absolute, overlap, settle, clientTimeout };
}

const spans = { access: 0, idle: 0, absolute: 0 } as const;
