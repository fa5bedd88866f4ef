import type { TokenTransport } from "../../base/wire.ts";
import type { EndedBy, SessionRecord } from "../store.ts";

/** The input of the rule. `generation` is called g in the table below. */
export type RefreshState = Pick<
  SessionRecord,
  | "generation"
  | "createdAt"
  | "confirmedAt"
  | "sentAt"
  | "prolonged"
  | "idleExpiresAt"
  | "expiresAt"
  | "revokedAt"
  | "endedBy"
>;

/** Milliseconds. See `refresh` in the options of `createSessions`. */
interface RefreshTimes {
  readonly overlap: number;
  readonly settle: number;
}

/**
 * How long re-sends of one generation may prolong its settling in all, as a multiple of `settle`.
 * Without a limit, a thief who asks for the token again and again would keep it unconfirmed, and so
 * would never be found.
 */
export const prolongedMax = 10;

/** The outcome for a refresh token of a proven generation. */
export type RefreshDecision =
  /** Mint generation g+1 and send its refresh token. */
  | { readonly kind: "advance" }
  /** Send a new access token of g, but no refresh token; confirms g once it is settled. */
  | { readonly kind: "keep" }
  /**
   * The response was lost: send the refresh token of g again. With `prolonged`, g settles anew, and
   * this is how long re-sends have prolonged its settling by now. It is null if the limit is reached.
   */
  | { readonly kind: "resend"; readonly prolonged: number | null }
  /** The store has lost generations: move it forward to the presented one. */
  | { readonly kind: "forward" }
  /** The session is too young for the presented generation: refuse it, change nothing, raise an alarm. */
  | { readonly kind: "impossible" }
  /** Reuse detected: the token was used after its successor. Revoke the session. */
  | { readonly kind: "theft" }
  | { readonly kind: "expired" }
  | { readonly kind: "revoked"; readonly at: number; readonly endedBy: EndedBy };

/** The signature of {@link decideRefresh}. */
export type RefreshRule = (
  record: SessionRecord,
  presented: number,
  times: RefreshTimes & { readonly now: number },
) => RefreshDecision;

/**
 * Decides a refresh. A pure function: the decision depends on record, generation and time only.
 *
 * | presented p | state of g | decision |
 * |---|---|---|
 * | any | session revoked, or past an end | revoked, expired |
 * | p = g | confirmed more than `overlap` ago | advance |
 * | p = g | otherwise | keep |
 * | p = g−1 | unconfirmed, or confirmed at most `overlap` ago | resend |
 * | p = g−1 | otherwise | theft |
 * | p < g−1 | | theft |
 * | p > g | the session is old enough for p | forward |
 * | p > g | otherwise | impossible |
 *
 * Each generation takes at least `settle` + `overlap`: it must settle before it is confirmed, and it
 * advances more than `overlap` after that. So the age of a session limits its generation.
 *
 * A re-send is always answered. It also lets g settle anew, because a client may crash before it has
 * stored the answer. All re-sends of one generation prolong its settling by 10 × `settle` at most.
 *
 * @param presented the generation of a refresh token that was proven to be of this session
 * @param now milliseconds by the store's clock; a later confirmation time counts as now
 */
export function decideRefresh(
  state: RefreshState,
  presented: number,
  { now, overlap, settle }: RefreshTimes & { readonly now: number },
): RefreshDecision {
  if (state.revokedAt !== null) {
    return { kind: "revoked", at: state.revokedAt, endedBy: state.endedBy ?? "revoked" };
  }
  if (now >= state.idleExpiresAt || now >= state.expiresAt) {
    return { kind: "expired" };
  }
  const greatest = (createdAt: number): number => 1 + (now - createdAt) / (settle + overlap);
  const settledDown = state.confirmedAt !== null && now - state.confirmedAt > overlap;
  switch (presented - state.generation) {
    case 0:
      return { kind: settledDown ? "advance" : "keep" };
    case -1:
      return settledDown
        ? { kind: "theft" }
        : { kind: "resend", prolonged: prolongedBy(state, { now, settle }) };
    default:
      if (presented < state.generation) {
        return { kind: "theft" };
      }
      return { kind: presented <= greatest(state.createdAt) ? "forward" : "impossible" };
  }
}

/** Adds what this re-send prolongs: the time since the last one, but `settle` at most. */
function prolongedBy(
  { sentAt, prolonged }: RefreshState,
  { now, settle }: { readonly now: number; readonly settle: number },
): number | null {
  const sum = prolonged + Math.min(Math.max(0, now - sentAt), settle);
  return sum > prolongedMax * settle ? null : sum;
}

/**
 * How long ago the refresh token of a generation must have been sent in order that a use confirms it, if
 * the server asks the store only now. The generation must have settled when the use arrived: since then,
 * the client may have crashed and lost the token.
 *
 * @param settle milliseconds
 * @param waited milliseconds since the use arrived at the server, by a monotonic clock
 */
export function neededAge(settle: number, waited: number): number {
  return settle + Math.floor(waited);
}

/**
 * Whether a refresh that has waited for the store may still be called a theft. Its token may have been
 * valid when it arrived. The token before stays valid for `overlap`, and a request may take
 * `clientTimeout` to arrive.
 *
 * @param waited milliseconds since the refresh arrived at the server, by a monotonic clock
 */
export function isInTime(
  waited: number,
  { overlap, clientTimeout }: { readonly overlap: number; readonly clientTimeout: number },
): boolean {
  return waited <= overlap - clientTimeout;
}

/** The use of an access token, as far as the rule of confirmation looks at it. */
export interface TokenUse {
  readonly transport: TokenTransport;
  /** The generation of the access token. */
  readonly generation: number;
}

/**
 * Decides whether the use of an access token shows that its client holds the refresh token of the
 * same generation. Only then may the use confirm the generation, once it has settled.
 *
 * A client that uses headers stores both tokens of a response together. Cookies arrive one by one: a
 * proxy or a server-side renderer may pass on only the first `Set-Cookie`. There the refresh cookie
 * beside the access cookie must name the generation.
 *
 * @param beside the generations that the refresh cookies of the same request name
 */
export function showsReceipt(
  { transport, generation }: TokenUse,
  beside: readonly number[],
): boolean {
  return transport === "header" || beside.includes(generation);
}
