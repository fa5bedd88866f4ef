import { checkSession, groupBySession, seconds, type Violation } from "./check.ts";
import { type Causes, unexplained } from "./explain.ts";
import { type Exchange, generationOf, type History } from "./history.ts";
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
  readonly seed: number;
  /** Sessions that ended by a request which was decided after the overlap; see `isLate`. */
  readonly late_decisions: number;
}

/** Violations printed with their histories at most. */
const printedMax = 5;
/** Exchanges printed of each. */
const exchangesMax = 30;

/** Judges a run, and prints what was not as it should be. */
export function judge(history: History, causes: Causes, { seed }: SoakOptions): Summary {
  const sessions = groupBySession(history);
  let lateDecisions = 0;
  const violations = [...sessions].flatMap(([session, exchanges]) => {
    const robbed = history.thefts.has(session);
    // The sign-ins that got no session are of no session: only their answers can be judged.
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
    seed,
    late_decisions: lateDecisions,
  };
}

/**
 * Whether a theft was decided for the sake of a request that its client had given up, and that was
 * older than the overlap by then: the machine or a stalled store had held it up for so long. That is
 * more than `clientTimeout` < `overlap` promises anything about, but its user is signed out all the
 * same: so it is counted, and apart from what the rules alone would be to blame for.
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
 * What must not be: a theft that was reported twice, a store that went back, which none did, and a
 * server that ended by itself.
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
  const faults = `  broken: ${windows.join(", ") || "nothing"}`;
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
  return `  ${span} ${by} s${server} ${what} p=${generationOf(token)}: ${said}${heard ? "" : " (not heard)"}`;
}
