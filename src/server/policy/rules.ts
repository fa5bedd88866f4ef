import type { ClaimRequirement } from "../../../gen/rpcsession/v1/options_pb.ts";
import { assertMembers, type Duration, durationMs } from "../../base/checks.ts";
import type { PolicyViolation } from "../../base/errors.ts";
import type { JsonObject, JsonValue } from "../../base/json.ts";
import { claimSetAt } from "../../engine/claims.ts";

/** A value that a claim is compared with. Compared as text: `true` and "true" are the same. */
export type ClaimValue = string | number | boolean;

/**
 * What a policy demands of one claim; all members that are set must hold. Where the claim is a list,
 * `anyOf`, `allOf` and `noneOf` look at its members. A claim that does not exist, or is null, meets no
 * rule but `has: false`.
 */
export interface ClaimRule {
  /** Whether the claim must exist. `false`: it must not, and no other member may be set. */
  readonly has?: boolean;
  /** The claim is this value. A list never is. */
  readonly equals?: ClaimValue;
  /** The claim is one of these values, or a list that contains one. Empty: it only has to exist. */
  readonly anyOf?: readonly ClaimValue[];
  /** The claim is a list that contains all of these values, or their only value. */
  readonly allOf?: readonly ClaimValue[];
  /** The claim is none of these values, and no list that contains one. */
  readonly noneOf?: readonly ClaimValue[];
  /** The claim is a number greater than this. Text is no number. */
  readonly gt?: number;
  /** The claim is a number, and at least this. */
  readonly gte?: number;
  /** The claim is a number less than this. */
  readonly lt?: number;
  /** The claim is a number, and at most this. */
  readonly lte?: number;
  /**
   * The claim is a time before this one: "now" by the store's clock, or a time as `Date` reads it. A
   * claim that is a number counts seconds since 1970, as in every JWT (RFC 7519 section 2).
   *
   * @example `{ suspendedUntil: { before: "now", allowMissing: true } }`
   */
  readonly before?: string | Date;
  /** The claim is a time after this one; see `before`. */
  readonly after?: string | Date;
  /**
   * The greatest age of the claim, which must have a source: an older one is fetched again first. Where the
   * source says less, that counts. A service that only verifies cannot fetch, so it refuses the call.
   */
  readonly maxAge?: Duration;
  /** Whether a claim that does not exist meets the rule. Default false. */
  readonly allowMissing?: boolean;
}

/** Rules by claim. A list is short for `{ anyOf: list }`. */
export type ClaimRules = Readonly<Record<string, readonly string[] | ClaimRule>>;

/** A demand on a claim of the session, as `describe` shows it. Members that are absent demand nothing. */
export interface ClaimDemand {
  readonly claim: string;
  /** The claim must equal one of these values or, if it is a list, contain one. Empty: it must only exist. */
  readonly anyOf: readonly string[];
  readonly has?: boolean;
  readonly equals?: string;
  readonly allOf?: readonly string[];
  readonly noneOf?: readonly string[];
  readonly gt?: number;
  readonly gte?: number;
  readonly lt?: number;
  readonly lte?: number;
  /** Milliseconds since 1970, or "now". */
  readonly before?: "now" | number;
  /** Milliseconds since 1970, or "now". */
  readonly after?: "now" | number;
  /** Milliseconds. */
  readonly maxAge?: number;
  readonly allowMissing?: boolean;
}

/** A rule that a claim does not meet, with what it demands in words. */
export interface Unmet {
  readonly claim: string;
  readonly rule: string;
  readonly requirement: string;
}

/**
 * Returns the rules that claims do not meet; empty if they meet all.
 * @param now milliseconds since 1970 by the store's clock; called only where a rule compares with it
 * @param agesCount whether too old a claim is unmet. Where sources fetch old claims, none is left
 */
export function unmetRules(
  demands: readonly ClaimDemand[],
  claims: JsonObject,
  { now, agesCount }: { readonly now: () => number; readonly agesCount: boolean },
): readonly Unmet[] {
  let unmet: Unmet[] | undefined;
  for (const demand of demands) {
    const { claim, allowMissing } = demand;
    const value = Object.hasOwn(claims, claim) ? claims[claim] : undefined;
    if (value === undefined || value === null) {
      if (demand.has !== false && allowMissing !== true) {
        unmet = [...(unmet ?? []), { claim, ...firstRule(demand) }];
      }
      continue;
    }
    const failed =
      failedRule(demand, value, now) ??
      (agesCount ? failedAge(demand, claimSetAt(claims, claim), now) : undefined);
    if (failed !== undefined) {
      unmet = [...(unmet ?? []), { claim, ...failed }];
    }
  }
  return unmet ?? [];
}

type Failed = Pick<Unmet, "rule" | "requirement">;

/** The first rule that the value of a claim does not meet. Nothing is allocated for one that does. */
function failedRule(demand: ClaimDemand, value: JsonValue, now: () => number): Failed | undefined {
  const { has, equals, anyOf, allOf, noneOf, before, after } = demand;
  if (has === false) {
    return described.has(false);
  }
  if (equals !== undefined && !isText(value, equals)) {
    return described.equals(equals);
  }
  if (anyOf.length > 0 && !containsAny(value, anyOf)) {
    return described.anyOf(anyOf);
  }
  if (allOf !== undefined && !containsAll(value, allOf)) {
    return described.allOf(allOf);
  }
  if (noneOf !== undefined && containsAny(value, noneOf)) {
    return described.noneOf(noneOf);
  }
  if (before !== undefined && !(timeOf(value) < (before === "now" ? now() : before))) {
    return described.before(before);
  }
  if (after !== undefined && !(timeOf(value) > (after === "now" ? now() : after))) {
    return described.after(after);
  }
  return failedComparison(demand, value);
}

function failedAge(
  { maxAge }: ClaimDemand,
  setAt: number | undefined,
  now: () => number,
): Failed | undefined {
  // The time is rounded down to a second, so allow one more.
  return maxAge !== undefined && !(now() - (setAt ?? Number.NaN) < maxAge + 1000)
    ? described.maxAge(maxAge)
    : undefined;
}

function failedComparison({ gt, gte, lt, lte }: ClaimDemand, value: JsonValue): Failed | undefined {
  // A comparison with NaN is false, so what is not a number meets none.
  const number = typeof value === "number" ? value : Number.NaN;
  if (gt !== undefined && !(number > gt)) {
    return described.gt(gt);
  }
  if (gte !== undefined && !(number >= gte)) {
    return described.gte(gte);
  }
  if (lt !== undefined && !(number < lt)) {
    return described.lt(lt);
  }
  return lte !== undefined && !(number <= lte) ? described.lte(lte) : undefined;
}

// Loops, because a function for each value would cost more than the comparison.

function containsAny(value: JsonValue, list: readonly string[]): boolean {
  for (const one of list) {
    if (contains(value, one)) {
      return true;
    }
  }
  return false;
}

function containsAll(value: JsonValue, list: readonly string[]): boolean {
  for (const one of list) {
    if (!contains(value, one)) {
      return false;
    }
  }
  return true;
}

/** Whether a claim is a value, or a list that contains it. Objects are neither. */
function contains(value: JsonValue, one: string): boolean {
  if (!Array.isArray(value)) {
    return isText(value, one);
  }
  for (const member of value) {
    if (isText(member, one)) {
      return true;
    }
  }
  return false;
}

function isText(value: JsonValue, text: string): boolean {
  return typeof value === "string"
    ? value === text
    : typeof value !== "object" && String(value) === text;
}

/** Milliseconds since 1970; NaN for what is not a time, which no comparison accepts. */
function timeOf(value: JsonValue): number {
  return typeof value === "number"
    ? value * 1000
    : typeof value === "string"
      ? Date.parse(value)
      : Number.NaN;
}

/** What a rule demands, in words. */
const described = {
  has: (has: boolean) => ({ rule: "has", requirement: has ? "present" : "absent" }),
  equals: (value: string) => ({ rule: "equals", requirement: `equals ${value}` }),
  anyOf: (values: readonly string[]) => listed("anyOf", "one of", values),
  allOf: (values: readonly string[]) => listed("allOf", "all of", values),
  noneOf: (values: readonly string[]) => listed("noneOf", "none of", values),
  gt: (value: number) => ({ rule: "gt", requirement: `greater than ${value}` }),
  gte: (value: number) => ({ rule: "gte", requirement: `at least ${value}` }),
  lt: (value: number) => ({ rule: "lt", requirement: `less than ${value}` }),
  lte: (value: number) => ({ rule: "lte", requirement: `at most ${value}` }),
  before: (time: "now" | number) => ({ rule: "before", requirement: `before ${timeText(time)}` }),
  after: (time: "now" | number) => ({ rule: "after", requirement: `after ${timeText(time)}` }),
  maxAge: (ms: number) => ({ rule: "maxAge", requirement: `at most ${ms / 1000}s old` }),
} as const;

function listed(rule: string, words: string, values: readonly string[]): Failed {
  return { rule, requirement: `${words} ${values.join(", ")}` };
}

function timeText(time: "now" | number): string {
  return time === "now" ? time : new Date(time).toISOString();
}

/** The rule to name where the claim does not exist: the first that is set, else that it must exist. */
function firstRule(demand: ClaimDemand): Failed {
  return demandsOf(demand)[0] ?? described.has(true);
}

/** All rules of a demand, for messages and the command line. */
export function demandsOf({
  claim: _claim,
  anyOf,
  has,
  ...others
}: ClaimDemand): readonly Failed[] {
  const { equals, allOf, noneOf, gt, gte, lt, lte, before, after, maxAge } = others;
  const of = <T>(value: T | undefined, describe: (value: T) => Failed): readonly Failed[] =>
    value === undefined ? [] : [describe(value)];
  return [
    ...of(has, described.has),
    ...of(equals, described.equals),
    ...(anyOf.length === 0 ? [] : [described.anyOf(anyOf)]),
    ...of(allOf, described.allOf),
    ...of(noneOf, described.noneOf),
    ...of(gt, described.gt),
    ...of(gte, described.gte),
    ...of(lt, described.lt),
    ...of(lte, described.lte),
    ...of(before, described.before),
    ...of(after, described.after),
    ...of(maxAge, described.maxAge),
  ];
}

const messages = "does not meet the policy of the method";

/** The longest value of a claim in a violation, in characters of JSON. */
const maxShown = 64;

/**
 * Makes violations of rules. They contain the value of a claim only where the client may read it.
 * @param shown the claims that the client may read; undefined for none
 */
export function violationsOf(
  unmet: readonly Unmet[],
  shown: JsonObject | undefined,
): readonly PolicyViolation[] {
  return unmet.map(({ claim, rule, requirement }) => {
    const value =
      shown !== undefined && Object.hasOwn(shown, claim) ? JSON.stringify(shown[claim]) : "";
    return {
      ...{ claim, requirement, rule, message: messages },
      ...(value === "" || value.length > maxShown ? {} : { value }),
    };
  });
}

/**
 * Reads rules as they are written in code.
 *
 * @param where what has the rules, for messages, such as "methods: the claim "role" of notes.v1…"
 * @throws TypeError if a rule is not valid, or can never be met
 */
export function readClaimRules(
  where: (claim: string) => string,
  rules: ClaimRules,
): readonly ClaimDemand[] {
  if (![Object.prototype, null].includes(Object.getPrototypeOf(rules))) {
    // As in `{ __proto__: ["admin"] }`, which sets no member.
    throw new TypeError(
      `${where("__proto__")} is not a member; write the rules as a plain object, and this name as ["__proto__"]`,
    );
  }
  return Object.entries(rules).map(([claim, given]) => {
    const name = where(claim);
    if (Array.isArray(given)) {
      if (given.some((value) => typeof value !== "string")) {
        throw notARule(name);
      }
      return readRule(claim, name, { anyOf: given as readonly string[] } as GivenRule);
    }
    if (typeof given !== "object" || given === null) {
      throw notARule(name);
    }
    assertMembers(name, given as ClaimRule, ruleMembers);
    return readRule(claim, name, given as ClaimRule);
  });
}

function notARule(name: string): TypeError {
  return new TypeError(
    `${name} must have a list of strings, such as { role: ["admin"] }, or a rule, such as { role: { noneOf: ["guest"] } }`,
  );
}

const ruleMembers: Readonly<Record<keyof ClaimRule, 0>> = {
  ...{ has: 0, equals: 0, anyOf: 0, allOf: 0, noneOf: 0, gt: 0, gte: 0, lt: 0, lte: 0 },
  ...{ before: 0, after: 0, maxAge: 0, allowMissing: 0 },
};

/**
 * Reads the rules of a policy in the schema.
 * @throws TypeError as `readClaimRules`
 */
export function rulesInSchema(
  where: (claim: string) => string,
  requirements: readonly ClaimRequirement[],
): readonly ClaimDemand[] {
  return requirements.map(({ claim, anyOf, allOf, noneOf, before, after, ...rule }) =>
    readRule(claim, where(claim), {
      ...{ anyOf, has: rule.has, equals: rule.equals },
      ...{ gt: rule.gt, gte: rule.gte, lt: rule.lt, lte: rule.lte },
      allOf: allOf.length === 0 ? undefined : allOf,
      noneOf: noneOf.length === 0 ? undefined : noneOf,
      before: before === "" ? undefined : before,
      after: after === "" ? undefined : after,
      maxAge: rule.maxAge && `${Number(rule.maxAge.seconds) * 1000 + rule.maxAge.nanos / 1e6}ms`,
      allowMissing: rule.allowMissing || undefined,
    }),
  );
}

/** All members in one order: every call reads objects of one shape, which the compiler knows. */
const blank: Readonly<Record<keyof ClaimDemand, unknown>> = {
  ...{ claim: "", anyOf: [], has: undefined, equals: undefined, allOf: undefined },
  ...{ noneOf: undefined, gt: undefined, gte: undefined, lt: undefined, lte: undefined },
  ...{ before: undefined, after: undefined, maxAge: undefined, allowMissing: undefined },
};

/** A rule whose members may be undefined. */
type GivenRule = { readonly [Member in keyof ClaimRule]: ClaimRule[Member] | undefined };

function readRule(claim: string, name: string, rule: GivenRule): ClaimDemand {
  if (claim === "") {
    throw new TypeError(`${name} must have a name`);
  }
  const members: Record<string, unknown> = {};
  for (const [member, value] of Object.entries(rule)) {
    if (value !== undefined) {
      const read = readers[member as keyof ClaimRule];
      members[member] = read(`${name}: ${member}`, value);
    }
  }
  const demand = { ...blank, ...members, claim } as ClaimDemand;
  const { has, allowMissing } = rule;
  const others = demandsOf(demand).filter((one) => one.rule !== "has");
  if (has === false && (others.length > 0 || allowMissing !== undefined)) {
    throw new TypeError(
      `${name}: has: false says that the claim must not exist; remove the other rules`,
    );
  }
  if (has === true && allowMissing === true) {
    throw new TypeError(
      `${name}: has: true and allowMissing: true contradict each other; remove one`,
    );
  }
  assertSatisfiable(name, demand);
  return demand;
}

/** @throws TypeError if no value lies within the bounds of a rule */
function assertSatisfiable(name: string, demand: ClaimDemand): void {
  const { gt, gte, lt, lte, before, after } = demand;
  const low = Math.max(gt ?? Number.NEGATIVE_INFINITY, gte ?? Number.NEGATIVE_INFINITY);
  const high = Math.min(lt ?? Number.POSITIVE_INFINITY, lte ?? Number.POSITIVE_INFINITY);
  const noNumber = low > high || (low === high && (low === gt || high === lt));
  const noTime = typeof before === "number" && typeof after === "number" && after >= before;
  if (noNumber || noTime) {
    const rules = new Set(noNumber ? ["gt", "gte", "lt", "lte"] : ["after", "before"]);
    const bounds = demandsOf(demand).filter(({ rule }) => rules.has(rule));
    const words = bounds.map(({ requirement }) => requirement);
    throw new TypeError(
      `${name}: no ${noNumber ? "number" : "time"} is ${words.join(" and ")}; correct the bounds`,
    );
  }
}

const readers: Readonly<Record<keyof ClaimRule, (name: string, value: unknown) => unknown>> = {
  ...{ has: readFlag, allowMissing: readFlag },
  equals: readValue,
  ...{ anyOf: readValues, allOf: readFilledValues, noneOf: readFilledValues },
  ...{ gt: readNumber, gte: readNumber, lt: readNumber, lte: readNumber },
  ...{ before: readTime, after: readTime },
  maxAge: (name, value) => durationMs(name, value as Duration),
};

function readFlag(name: string, value: unknown): boolean {
  if (typeof value !== "boolean") {
    throw new TypeError(`${name} must be true or false, got ${typeof value}`);
  }
  return value;
}

function readValue(name: string, value: unknown): string {
  if (!(typeof value === "string" || typeof value === "boolean" || Number.isFinite(value))) {
    throw new TypeError(`${name} must be a string, a number or a boolean, got ${typeof value}`);
  }
  return String(value);
}

function readValues(name: string, values: unknown): readonly string[] {
  if (!Array.isArray(values)) {
    throw new TypeError(`${name} must be a list, such as ["admin"], got ${typeof values}`);
  }
  return values.map((value: unknown) => readValue(`${name}: each`, value));
}

/** An empty list would demand nothing, which is surely not meant. */
function readFilledValues(name: string, values: unknown): readonly string[] {
  const read = readValues(name, values);
  if (read.length === 0) {
    throw new TypeError(`${name} must name at least one value`);
  }
  return read;
}

function readNumber(name: string, value: unknown): number {
  if (typeof value !== "number" || !Number.isFinite(value)) {
    throw new TypeError(
      `${name} must be a finite number, got ${typeof value === "number" ? value : typeof value}`,
    );
  }
  return value;
}

function readTime(name: string, value: unknown): "now" | number {
  if (value === "now") {
    return value;
  }
  const time =
    value instanceof Date
      ? value.getTime()
      : typeof value === "string"
        ? Date.parse(value)
        : Number.NaN;
  if (Number.isNaN(time)) {
    throw new TypeError(
      `${name} must be "now" or a time, such as "2030-01-01T00:00:00Z", got ${typeof value === "string" ? JSON.stringify(value) : typeof value}`,
    );
  }
  return time;
}

/** @throws TypeError if a rule demands the age of a claim that has no source, so that nothing renews it */
export function assertSourced(
  where: string,
  demands: readonly ClaimDemand[],
  sourced: Pick<ReadonlySet<string>, "has"> | undefined,
): void {
  const lost = demands.find(({ claim, maxAge }) => maxAge !== undefined && !sourced?.has(claim));
  if (lost !== undefined && sourced !== undefined) {
    throw new TypeError(
      `${where} sets maxAge for the claim "${lost.claim}", which has no source; add one to claimSources, or remove maxAge`,
    );
  }
}
