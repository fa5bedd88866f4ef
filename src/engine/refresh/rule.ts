import type { EndedBy, SessionRecord } from "../store.ts";

/** The input of the rule. `generation` is called g in the table below. */
export type RefreshState = Pick<
  SessionRecord,
  "generation" | "confirmedAt" | "idleExpiresAt" | "expiresAt" | "revokedAt" | "endedBy"
>;

/** Milliseconds. See `refresh` in the options of `createSessions`. */
interface RefreshTimes {
  readonly overlap: number;
}

/** The outcome for a refresh token of a proven generation. */
export type RefreshDecision =
  /** Mint generation g+1 and send its refresh token. */
  | { readonly kind: "advance" }
  /** Send a new access token of g, but no refresh token; confirms g once it is settled. */
  | { readonly kind: "keep" }
  /** The response was lost: send the refresh token of g again. */
  | { readonly kind: "resend" }
  /** The store has lost generations: move it forward to the presented one. */
  | { readonly kind: "forward" }
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
 * | p > g | | forward |
 *
 * @param presented the generation of a refresh token whose tag was verified
 * @param now milliseconds by the store's clock; a later confirmation time counts as now
 */
export function decideRefresh(
  state: RefreshState,
  presented: number,
  { now, overlap }: RefreshTimes & { readonly now: number },
): RefreshDecision {
  if (state.revokedAt !== null) {
    return { kind: "revoked", at: state.revokedAt, endedBy: state.endedBy ?? "revoked" };
  }
  if (now >= state.idleExpiresAt || now >= state.expiresAt) {
    return { kind: "expired" };
  }
  const settledDown = state.confirmedAt !== null && now - state.confirmedAt > overlap;
  switch (presented - state.generation) {
    case 0:
      return { kind: settledDown ? "advance" : "keep" };
    case -1:
      return { kind: settledDown ? "theft" : "resend" };
    default:
      return { kind: presented > state.generation ? "forward" : "theft" };
  }
}
