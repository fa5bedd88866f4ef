// Holds what happened against section 5 of the design, knowing nothing of how the servers decided.
import { type Exchange, generationOf, type History } from "./history.ts";
import { times } from "./options.ts";

/** A promise that was not kept. */
export interface Violation {
  readonly kind: "false_logouts" | "missed_thefts" | "resurrected" | "forks" | "errors_unexplained";
  readonly session: string;
  readonly at: number;
  readonly why: string;
}

/** Milliseconds for which a revocation may be unknown to the other servers' access checks. */
const feedBound = 3_500;
/** Milliseconds by which times seen here may differ from the store's own, for its whole ones. */
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

/** Everything that can be told from the exchanges of one session. */
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

/** One session and generation has one refresh token, whoever made it. */
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

/** Nothing succeeds that began after the end of the session was acknowledged. */
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
 * A token of generation p is no good once p+1 was certainly confirmed for longer than the overlap:
 * a refresh with p+1 succeeded which began when p+1 was certainly settled.
 */
function missedThefts(exchanges: readonly Exchange[]): Violation[] {
  const seen = firstSeen(exchanges);
  const refreshed = exchanges.filter(
    ({ what, answer }) => what === "refresh" && answer.kind === "ok",
  );
  const closed = new Map<number, number>();
  for (const { token, began, ended } of refreshed) {
    const generation = generationOf(token);
    if (began >= (seen.get(generation) ?? Number.POSITIVE_INFINITY) + times.settle + slack) {
      const at = ended + times.overlap + slack;
      closed.set(generation - 1, Math.min(at, closed.get(generation - 1) ?? at));
    }
  }
  // A generation is only made after the former one was confirmed for as long.
  for (const [generation, at] of seen) {
    closed.set(generation - 2, Math.min(at, closed.get(generation - 2) ?? at));
  }
  return refreshed
    .filter(
      ({ token, began }) => began > (closed.get(generationOf(token)) ?? Number.POSITIVE_INFINITY),
    )
    .map((e) => violation("missed_thefts", e, `generation ${generationOf(e.token)} was over`));
}

/** When each generation was first seen in an answer. */
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

/** Nobody is signed out whom nobody robbed, and who has not begun to leave. */
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
