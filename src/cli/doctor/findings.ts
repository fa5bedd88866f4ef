import { printable } from "../command.ts";

/** How grave a finding is: in order, worth a look, or broken. */
export type Severity = "ok" | "warn" | "fail";

/** What one check has found. */
export interface Finding {
  /** The name of the check, such as "cookies". */
  readonly check: string;
  readonly severity: Severity;
  /** What was seen: a whole sentence. */
  readonly seen: string;
  /** Why it matters; absent if it is in order. */
  readonly why?: string;
  /** The option or the line that mends it; absent if it is in order. */
  readonly mend?: string;
}

/** What is wrong: what was seen, why it matters, and what mends it. */
type Wrong = readonly [seen: string, why: string, mend: string];

/** Collects the findings of one check. */
export class Findings {
  readonly list: Finding[] = [];
  readonly #check: string;

  constructor(check: string) {
    this.#check = check;
  }

  ok(seen: string): void {
    this.list.push({ check: this.#check, severity: "ok", seen: printable(seen) });
  }

  warn(...wrong: Wrong): void {
    this.#add("warn", wrong);
  }

  fail(...wrong: Wrong): void {
    this.#add("fail", wrong);
  }

  /** Reports that all is in order, unless something was found. */
  okIfNone(seen: string): readonly Finding[] {
    if (this.list.length === 0) {
      this.ok(seen);
    }
    return this.list;
  }

  #add(severity: Severity, wrong: Wrong): void {
    const [seen, why, mend] = wrong.map(printable) as [string, string, string];
    this.list.push({ check: this.#check, severity, seen, why, mend });
  }
}

/** Formats findings for people. */
export function findingsText(target: string, findings: readonly Finding[]): string {
  const width = Math.max(...findings.map(({ check }) => check.length));
  const indent = " ".repeat(width + 8);
  const blocks = findings.map(({ check, severity, seen, why, mend }) => {
    const more = why === undefined ? "" : `${indent}Why: ${why}\n${indent}Do:  ${mend}\n`;
    return `${severity.padEnd(4)}  ${check.padEnd(width)}  ${seen}\n${more}`;
  });
  const count = (severity: Severity) => findings.filter((one) => one.severity === severity).length;
  const sum = `${count("ok")} ok, ${count("warn")} to look at, ${count("fail")} broken`;
  return `${target}\n\n${blocks.join("")}\n${sum}\n`;
}
