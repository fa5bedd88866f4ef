import { isLeaving, isSignedOut, type Violation, violation } from "./check.ts";
import { type Exchange, secretOf } from "./history.ts";
import type { Servers } from "./servers.ts";
import type { Windows } from "./windows.ts";

/** The injected faults that may explain a failure. */
export interface Causes {
  readonly store: Windows;
  readonly servers: Servers;
  /** The secret that was removed, and when. */
  readonly dropped: { readonly secretId: string; readonly from: number } | undefined;
  /** When servers with and without a secret, and so with and without its key, ran at the same time. */
  readonly rollOut: Windows;
}

/** Milliseconds by which an access token may expire earlier for a server than for its client. */
const expirySlack = 1_500;

/** Returns the failures of one session that no injected fault explains. */
export function unexplained(
  exchanges: readonly Exchange[],
  robbed: boolean,
  causes: Causes,
): Violation[] {
  const left = Math.min(...exchanges.filter(isLeaving).map(({ began }) => began));
  return exchanges
    .filter((e) => !isExplained(e, causes) && !isExpectedEnd(e, { robbed, left }))
    .map((e) => violation("errors_unexplained", e, describe(e)));
}

function isExplained(exchange: Exchange, causes: Causes): boolean {
  const { answer, server, began, ended } = exchange;
  if (answer.kind === "ok") {
    return true;
  }
  const down = causes.servers.down[server]?.during(began, ended) !== undefined;
  const outage = down || causes.store.during(began, ended) !== undefined;
  if (answer.kind === "unheard") {
    // The client gave up, or the server was killed.
    return answer.why !== "broken" || down;
  }
  if (answer.action === "RETRY_LATER") {
    return outage || isOfSecretRollOut(exchange, causes);
  }
  return answer.action === "PROVE" || (answer.action === "REFRESH" && isExpired(exchange));
}

/** Tokens of a removed secret, or a key so new that other servers look it up only every 5 seconds. */
function isOfSecretRollOut(exchange: Exchange, { dropped, rollOut }: Causes): boolean {
  const { token, what, began, ended } = exchange;
  const old = dropped !== undefined && ended > dropped.from && secretOf(token) === dropped.secretId;
  return old || (what !== "refresh" && rollOut.during(began, ended) !== undefined);
}

function isExpired({ what, goodUntil, ended }: Exchange): boolean {
  return what !== "refresh" && (goodUntil === undefined || ended > goodUntil - expirySlack);
}

/** The end of a session that was stolen or left; any other end is counted as a false logout. */
function isExpectedEnd(
  exchange: Exchange,
  { robbed, left }: { readonly robbed: boolean; readonly left: number },
): boolean {
  const { answer, ended } = exchange;
  if (answer.kind !== "refused" || !isSignedOut(exchange)) {
    return false;
  }
  const known = answer.reason === "TOKEN_THEFT" || answer.reason === "SESSION_REVOKED";
  return known || (!robbed && ended < left);
}

function describe({ what, server, answer }: Exchange): string {
  const said =
    answer.kind === "refused"
      ? `${answer.code} ${answer.action} ${answer.reason}: ${answer.message}`
      : answer.kind === "unheard"
        ? `${answer.why}: ${answer.message}`
        : "";
  return `${what} at server ${server}: ${said}`;
}
