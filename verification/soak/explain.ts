import { isLeaving, isSignedOut, type Violation, violation } from "./check.ts";
import { type Exchange, secretOf } from "./history.ts";
import type { Servers } from "./servers.ts";
import type { Windows } from "./windows.ts";

/** What may explain an answer that is none. */
export interface Causes {
  readonly store: Windows;
  readonly servers: Servers;
  /** A secret that was dropped, and from when on. */
  readonly dropped: { readonly secretId: string; readonly from: number } | undefined;
  /** When servers with and without a secret, and so with and without a key, ran side by side. */
  readonly rollOut: Windows;
}

/** Milliseconds by which a server may find an access token older than its client does. */
const expirySlack = 1_500;

/** The answers to the requests of one session that nothing explains. */
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
    // The client's own doing, or a server that went away.
    return answer.why !== "broken" || down;
  }
  if (answer.action === "RETRY_LATER") {
    return outage || isOfSecretRollOut(exchange, causes);
  }
  return answer.action === "REFRESH" && isExpired(exchange);
}

/** Tokens of a dropped secret; and a key that was just made, which others look up once in 5 s. */
function isOfSecretRollOut(exchange: Exchange, { dropped, rollOut }: Causes): boolean {
  const { token, what, began, ended } = exchange;
  const old = dropped !== undefined && ended > dropped.from && secretOf(token) === dropped.secretId;
  return old || (what !== "refresh" && rollOut.during(began, ended) !== undefined);
}

function isExpired({ what, goodUntil, ended }: Exchange): boolean {
  return what !== "refresh" && (goodUntil === undefined || ended > goodUntil - expirySlack);
}

/** The end of a session that was robbed or left; that of any other is a false logout, counted there. */
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
