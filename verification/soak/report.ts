import type { BoundThieves } from "./bound.ts";
import { checkSession, groupBySession, seconds, type Violation } from "./check.ts";
import { type Causes, unexplained } from "./explain.ts";
import { type Exchange, generationOf, type History, isBound } from "./history.ts";
import { type SoakOptions, times } from "./options.ts";
import { observedFor } from "./raw.ts";
import type { TimedReport } from "./servers.ts";

/** The last line of a run. */
export interface Summary {
  readonly sessions: number;
  readonly refreshes: number;
  readonly lost_responses: number;
  readonly kills: number;
  readonly false_logouts: number;
  readonly missed_thefts: number;
  readonly resurrected: number;
  readonly forks: number;
  readonly errors_unexplained: number;
  /** Refreshes of bound sessions by their owners. */
  readonly bound_refreshes: number;
  /** What thieves without the key of a bound session have tried. */
  readonly bound_thief_tries: number;
  readonly bound_thief_refreshes: number;
  readonly bound_thief_calls_after_expiry: number;
  readonly bound_thief_proof_calls: number;
  readonly seed: number;
  /** Sessions that ended because of a request that was decided after the overlap; see `isLate`. */
  readonly late_decisions: number;
}

/** The maximum number of violations printed with their history. */
const printedMax = 5;
/** The maximum number of exchanges printed for each. */
const exchangesMax = 30;

/** Checks a run and prints its violations. */
export function judge(
  history: History,
  causes: Causes,
  { seed, thieves }: SoakOptions & { readonly thieves: BoundThieves },
): Summary {
  const sessions = groupBySession(history);
  let lateDecisions = 0;
  const violations = [...sessions].flatMap(([session, exchanges]) => {
    const robbed = history.thefts.has(session);
    // Failed sign-ins belong to no session, so only their outcomes can be checked.
    const late = causes.servers.reports.some((report) => isLate(report, session, exchanges));
    const broken = session === "" ? [] : checkSession(exchanges, { robbed, late });
    if (late && !robbed) {
      lateDecisions++;
    }
    return [...broken, ...unexplained(exchanges, robbed || late, causes)];
  });
  violations.push(...reported(causes));
  for (const violation of violations.slice(0, printedMax)) {
    print(violation, sessions.get(violation.session) ?? [], causes);
  }
  const count = (kind: Violation["kind"]): number =>
    violations.filter((violation) => violation.kind === kind).length;
  const refreshes = history.exchanges.filter(({ what }) => what === "refresh");
  return {
    sessions: [...sessions.keys()].filter((session) => session !== "").length,
    refreshes: refreshes.filter(({ answer }) => answer.kind === "ok").length,
    lost_responses: refreshes.filter(({ heard }) => !heard).length,
    kills: causes.servers.kills,
    false_logouts: count("false_logouts"),
    missed_thefts: count("missed_thefts"),
    resurrected: count("resurrected"),
    forks: count("forks"),
    errors_unexplained: count("errors_unexplained"),
    bound_refreshes: refreshes.filter(({ answer, token }) => answer.kind === "ok" && isBound(token))
      .length,
    bound_thief_tries: thieves.tries,
    bound_thief_refreshes: thieves.refreshes,
    bound_thief_calls_after_expiry: thieves.callsAfterExpiry,
    bound_thief_proof_calls: thieves.proofCalls,
    seed,
    late_decisions: lateDecisions,
  };
}

/**
 * Whether a theft was decided for a request that its client had given up and that was older than
 * the overlap, because the machine or a stalled store had delayed it. `clientTimeout` < `overlap`
 * promises nothing about such delays. The user is signed out all the same, so the case is counted,
 * but separately from violations of the rules.
 */
function isLate(report: TimedReport, session: string, exchanges: readonly Exchange[]): boolean {
  return (
    report.type === "theft" &&
    report.session === session &&
    exchanges.some(
      ({ what, server, token, began, ended, answer }) =>
        what === "refresh" &&
        server === report.server &&
        generationOf(token) === report.presented &&
        began < report.at - times.overlap &&
        began > report.at - observedFor &&
        (ended > report.at - 100 || answer.kind === "unheard"),
    )
  );
}

/**
 * Returns the reports that must not occur: a theft reported twice, a store that lost data although
 * no fault removes any, and a server that crashed.
 */
function reported({ servers }: Causes): Violation[] {
  const thefts = new Set<string>();
  return servers.reports.flatMap((report): Violation[] => {
    const { at, type } = report;
    const session = "session" in report ? report.session : "";
    const again = type === "theft" && thefts.has(session);
    if (type === "theft") {
      thefts.add(session);
    }
    const why = `${type} at server ${report.server}`;
    return again || type === "storeWentBack" || type === "crashed"
      ? [{ kind: "errors_unexplained", session, at, why }]
      : [];
  });
}

function print(violation: Violation, exchanges: readonly Exchange[], causes: Causes): void {
  const { kind, session, at, why } = violation;
  const lines = exchanges
    .filter(({ ended }) => ended > at - 8_000)
    .toSorted((a, b) => a.ended - b.ended)
    .filter(({ began }) => began < at + 1_500)
    .slice(-exchangesMax)
    .map(line);
  const windows = [...causes.store.all, ...causes.servers.down.flatMap(({ all }) => all)]
    .filter(({ from, to }) => from < at && to > at - 8_000)
    .map(({ name, from, to }) => `${name} ${seconds(from)}-${seconds(to)}`);
  const failures = causes.servers.reports
    .filter((report) => report.type === "failed" && Math.abs(report.at - at) < 1_000)
    .map(
      (report) => `  server ${report.server} at ${seconds(report.at)}: ${JSON.stringify(report)}`,
    );
  const head = `${kind} at ${seconds(at)} in session ${session}: ${why}`;
  const faults = `  injected faults: ${windows.join(", ") || "none"}`;
  console.error([head, ...lines, faults, ...failures.slice(0, 5)].join("\n"));
}

function line({ what, by, server, token, began, ended, answer, heard }: Exchange): string {
  const said =
    answer.kind === "ok"
      ? `ok${answer.refreshToken ? ` g=${generationOf(answer.refreshToken)}` : ""}`
      : answer.kind === "refused"
        ? `${answer.code} ${answer.action} ${answer.reason}`
        : answer.why;
  const span = `${seconds(began)}-${seconds(ended)}`;
  return `  ${span} ${by} s${server} ${what} p=${generationOf(token)}: ${said}${heard ? "" : " (response lost)"}`;
}
