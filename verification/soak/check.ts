// Checks a recorded history against the rules of refreshing, without knowing the servers' decisions.
import { type Exchange, generationOf, type History } from "./history.ts";
import { times } from "./options.ts";

/** A broken rule. */
export interface Violation {
  readonly kind: "false_logouts" | "missed_thefts" | "resurrected" | "forks" | "errors_unexplained";
  readonly session: string;
  readonly at: number;
  readonly why: string;
}

/** Milliseconds within which other servers may still accept access tokens of a revoked session. */
const feedBound = 3_500;
/** Milliseconds by which times seen here may differ from the store's, which are whole milliseconds. */
const slack = 20;

export function groupBySession(history: History): Map<string, Exchange[]> {
  const sessions = new Map<string, Exchange[]>();
  for (const exchange of history.exchanges) {
    const list = sessions.get(exchange.session) ?? [];
    list.push(exchange);
    sessions.set(exchange.session, list);
  }
  return sessions;
}

/** Returns the violations in the exchanges of one session. */
export function checkSession(
  exchanges: readonly Exchange[],
  { robbed, late }: { readonly robbed: boolean; readonly late: boolean },
): Violation[] {
  return [
    ...forks(exchanges),
    ...resurrected(exchanges),
    ...missedThefts(exchanges),
    ...(robbed || late ? [] : falseLogouts(exchanges)),
  ];
}

/** A generation of a session has one refresh token, whichever server made it. */
function forks(exchanges: readonly Exchange[]): Violation[] {
  const tokens = new Map<number, string>();
  const found: Violation[] = [];
  for (const exchange of exchanges) {
    const token = exchange.answer.kind === "ok" ? exchange.answer.refreshToken : undefined;
    if (token === undefined) {
      continue;
    }
    const generation = generationOf(token);
    if ((tokens.get(generation) ?? token) !== token) {
      found.push(violation("forks", exchange, `two refresh tokens of generation ${generation}`));
    }
    tokens.set(generation, token);
  }
  return found;
}

/** A request that began after the acknowledged end of the session must not succeed. */
function resurrected(exchanges: readonly Exchange[]): Violation[] {
  const end = exchanges.filter(tellsTheEnd).toSorted((a, b) => a.ended - b.ended)[0];
  if (end === undefined) {
    return [];
  }
  return exchanges
    .filter(({ what, answer }) => answer.kind === "ok" && (what === "refresh" || what === "use"))
    .filter(({ what, began }) => began > end.ended + (what === "use" ? feedBound : 0))
    .map((e) => violation("resurrected", e, `${e.what} after the end at ${seconds(end.ended)}`));
}

function tellsTheEnd({ what, answer }: Exchange): boolean {
  return answer.kind === "ok"
    ? what === "revoke" || what === "signOut"
    : answer.kind === "refused" &&
        (answer.reason === "TOKEN_THEFT" || answer.reason === "SESSION_REVOKED");
}

/**
 * A token of generation p is invalid once p+1 has certainly been confirmed for longer than the
 * overlap: a refresh with p+1 succeeded that began when p+1 had certainly settled. A refresh with p
 * sends p+1 again, and p+1 settles anew; one without an answer may do so at any later time.
 */
function missedThefts(exchanges: readonly Exchange[]): Violation[] {
  const seen = firstSeen(exchanges);
  const refreshed = exchanges.filter(
    ({ what, answer }) => what === "refresh" && answer.kind === "ok",
  );
  const closed = new Map<number, number>();
  for (const { token, began, ended } of refreshed) {
    const generation = generationOf(token);
    const settling = began - times.settle - slack;
    const isSettled = (seen.get(generation) ?? Number.POSITIVE_INFINITY) <= settling;
    const mayBeSentAgain = exchanges.some(
      (e) =>
        e.what === "refresh" &&
        generationOf(e.token) === generation - 1 &&
        e.began < ended &&
        (e.ended > settling || e.answer.kind === "unheard"),
    );
    if (isSettled && !mayBeSentAgain) {
      const at = ended + times.overlap + slack;
      closed.set(generation - 1, Math.min(at, closed.get(generation - 1) ?? at));
    }
  }
  // Generation p+2 is created only after p+1 has been confirmed for the overlap.
  for (const [generation, at] of seen) {
    closed.set(generation - 2, Math.min(at, closed.get(generation - 2) ?? at));
  }
  return refreshed
    .filter(
      ({ token, began }) => began > (closed.get(generationOf(token)) ?? Number.POSITIVE_INFINITY),
    )
    .map((e) => violation("missed_thefts", e, `generation ${generationOf(e.token)} was over`));
}

/** Returns when each generation was first seen in a response. */
function firstSeen(exchanges: readonly Exchange[]): Map<number, number> {
  const seen = new Map<number, number>();
  for (const { answer, ended } of exchanges) {
    if (answer.kind === "ok" && answer.refreshToken !== undefined) {
      const generation = generationOf(answer.refreshToken);
      seen.set(generation, Math.min(ended, seen.get(generation) ?? ended));
    }
  }
  return seen;
}

/** A user whose tokens were not stolen and who has not begun to leave must not be signed out. */
function falseLogouts(exchanges: readonly Exchange[]): Violation[] {
  const left = Math.min(...exchanges.filter(isLeaving).map(({ began }) => began));
  return exchanges
    .filter((e) => isSignedOut(e) && e.ended < left)
    .map((e) => violation("false_logouts", e, e.answer.kind === "refused" ? e.answer.reason : ""));
}

export function isLeaving({ what }: Exchange): boolean {
  return what === "revoke" || what === "signOut";
}

export function isSignedOut({ answer }: Exchange): boolean {
  return (
    answer.kind === "refused" && (answer.action === "SIGN_IN" || answer.reason === "TOKEN_THEFT")
  );
}

export function violation(kind: Violation["kind"], exchange: Exchange, why: string): Violation {
  return { kind, session: exchange.session, at: exchange.ended, why };
}

export function seconds(ms: number): string {
  return (ms / 1000).toFixed(3);
}
