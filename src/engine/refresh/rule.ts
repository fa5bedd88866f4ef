import type { EndedBy, SessionRecord } from "../store.ts";

/** What the rule looks at: `generation` is named g in the table below. */
export type RefreshState = Pick<
  SessionRecord,
  "generation" | "confirmedAt" | "idleExpiresAt" | "expiresAt" | "revokedAt" | "endedBy"
>;

/** Milliseconds. See `refresh` in the options of `createSessions`. */
export interface RefreshTimes {
  readonly overlap: number;
}

/** What a refresh token of a proven generation leads to. */
export type RefreshDecision =
  /** Mint generation g+1; the answer carries its refresh token. */
  | { readonly kind: "advance" }
  /** A new access token of g, and no refresh token; confirms g once it is settled. */
  | { readonly kind: "keep" }
  /** The answer got lost: send the refresh token of g again. */
  | { readonly kind: "resend" }
  /** The store has lost generations it once had: move it forward to the presented one. */
  | { readonly kind: "forward" }
  /** The token was used after its successor was: revoke. */
  | { readonly kind: "theft" }
  | { readonly kind: "expired" }
  | { readonly kind: "revoked"; readonly at: number; readonly endedBy: EndedBy };

/** The form of {@link decideRefresh}. */
export type RefreshRule = (
  record: SessionRecord,
  presented: number,
  times: RefreshTimes & { readonly now: number },
) => RefreshDecision;

/**
 * Decides a refresh. Pure: the same record, generation and time always give the same decision.
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
 * @param now milliseconds by the store's clock; a confirmation in its future counts as just now
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
