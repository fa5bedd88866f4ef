import type { TokenTransport } from "../../base/wire.ts";
import type { ForeignTimes } from "../../engine/adoption/once.ts";
import type { ExternalId } from "../../engine/store.ts";
import type { Exchange } from "../call/exchange.ts";
import { readExternalId } from "./by-id.ts";
import type { SessionFacts } from "./sign-in.ts";

/** What `adopt` needs to know about the session of another system. Your code has verified all of it. */
export interface AdoptedFacts {
  /**
   * The other system by a fixed name, and its own id of the session. The session is known by both, so use
   * the same name always. `list` and `revokeAll` find the new session by them.
   *
   * The store keeps `sid` in plain text. If it is a secret there, such as the value of a cookie, pass its
   * SHA-256 instead.
   */
  readonly externalId: ExternalId & { readonly sid: string };
  /**
   * When the session began in the other system. The new session ends by `lifetimes.absolute` after it.
   * Up to `clockSkew` in the future counts as now.
   */
  readonly createdAt: Date;
  /** When its user last authenticated there; `freshWithin` counts from then on. Default: `createdAt`. */
  readonly authTime?: Date;
  /** When the session would end in the other system at the latest. Default: not known. */
  readonly endsBy?: Date;
}

/** The options of `adopt`; the schema checks the claims at run time. */
export type AdoptedSession = SessionFacts &
  AdoptedFacts & { readonly claims?: object; readonly transport?: TokenTransport };

/** Whether `adopt` was called without an exchange: its only argument is the options. */
export function isAdopted(
  given: Exchange | AdoptedSession,
  options: AdoptedSession | undefined,
): given is AdoptedSession {
  return options === undefined && typeof given === "object" && given !== null && "userId" in given;
}

/**
 * Takes the facts about the other session out of the options.
 * @throws TypeError if one of them is missing or wrong
 */
export function readAdopted(given: AdoptedSession | undefined): {
  readonly options: Omit<AdoptedSession, "createdAt" | "authTime" | "endsBy">;
  readonly foreign: ForeignTimes;
} {
  if (typeof given !== "object" || given === null) {
    throw new TypeError(`sessions.adopt needs options: userId, externalId and createdAt`);
  }
  const { createdAt, authTime = createdAt, endsBy, ...options } = given;
  if (readExternalId(options.externalId).sid === undefined) {
    throw new TypeError(
      "sessions.adopt: externalId.sid is missing; pass the id of the session in the other system",
    );
  }
  if ("afterRedirect" in options) {
    throw new TypeError(
      "sessions.adopt has no option afterRedirect; let the page send a POST request of its own",
    );
  }
  return {
    options,
    foreign: {
      createdAt: timeOf("createdAt", createdAt),
      authTime: timeOf("authTime", authTime),
      endsBy: endsBy === undefined ? null : timeOf("endsBy", endsBy),
    },
  };
}

/** @throws TypeError unless it is a Date since 1970 */
function timeOf(name: string, date: Date): number {
  const time = date instanceof Date ? date.getTime() : Number.NaN;
  if (!(time >= 0)) {
    throw new TypeError(`sessions.adopt: ${name} must be a Date, and not before 1970`);
  }
  return time;
}
