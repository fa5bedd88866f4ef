import { readLifetimes } from "../../src/engine/lifetimes.ts";
import { writeOf } from "../../src/engine/refresh/refresh.ts";
import {
  decideRefresh,
  isInTime,
  neededAge,
  type RefreshDecision,
  type RefreshRule,
  showsReceipt,
} from "../../src/engine/refresh/rule.ts";
import type { SessionRecord } from "../../src/engine/store.ts";
import { MemorySessions, newRecord } from "../../src/stores/memory/sessions.ts";
import type { Row } from "./state.ts";

/** The default times, by which the rules are searched. */
export const times = readLifetimes({}, { settle: "40s", overlap: "20s", clientTimeout: "10s" });
/** Milliseconds of one step of time: every time of the rules is a multiple of it. */
export const step = 10_000;

/** The rules under search: the engine's own, or with one of them switched off. */
export interface Rules {
  readonly decide: RefreshRule;
  readonly showsReceipt: typeof showsReceipt;
  /** How old a generation must be before a use confirms it; milliseconds. */
  readonly settle: number;
  /** The age that a server asks for when it writes a use. */
  readonly ageOfUse: typeof neededAge;
  /** The age that a server asks for when it writes a refresh. */
  readonly ageOfRefresh: typeof neededAge;
  /** The `overlap` in the condition of the one statement that advances; milliseconds. */
  readonly overlapOfStatement: number;
  /** Whether a server writes uses only for their own generation. */
  readonly sameGeneration: boolean;
  /** Whether a server remembers which generation of a session is confirmed. */
  readonly knowsGeneration: boolean;
  /** Whether the uses that a server has gathered are written. */
  readonly writesCalls: boolean;
  /** Whether the write of a refresh needs the generation that was read. */
  readonly conditional: boolean;
  /** Whether a refresh that has waited for the store may be a theft. */
  readonly isInTime: typeof isInTime;
  /** Whether a page presents only the refresh cookie of its request. */
  readonly pagesKeepCookie: boolean;
  /** Whether a page presents it only for as long as a client waits for a refresh. */
  readonly pagesStop: boolean;
}

const all: Rules = {
  ...{ decide: decideRefresh, showsReceipt, settle: times.settle },
  ...{ ageOfUse: neededAge, ageOfRefresh: neededAge, isInTime },
  overlapOfStatement: times.overlap,
  ...{ sameGeneration: true, knowsGeneration: true, writesCalls: true, conditional: true },
  ...{ pagesKeepCookie: true, pagesStop: true },
};

/** The engine's rule with other decisions. */
function deciding(change: (decision: RefreshDecision) => RefreshDecision): Rules {
  return { ...all, decide: (...given) => change(decideRefresh(...given)) };
}

/** The rules by name of what they lack. */
export const rules = {
  nothing: all,
  /** A use confirms its generation, whatever the refresh cookie beside it names. */
  receipt: { ...all, showsReceipt: () => true },
  /** A use confirms its generation at once. */
  settle: { ...all, settle: 0 },
  /** A generation settles from when it was minted, however late its refresh token is sent again. */
  sent: deciding((decision) =>
    decision.kind === "resend" ? { ...decision, prolonged: null } : decision,
  ),
  /** A use that a server writes late confirms by the age at that time. */
  age: { ...all, ageOfUse: (settle) => settle },
  /** A refresh confirms its generation by the age at the time at which the store answers. */
  arrival: { ...all, ageOfRefresh: (settle) => settle },
  /**
   * The token before is theft as soon as its successor is confirmed. A long `settle` hides that, because
   * no token before is under way any more when a use confirms; so this is searched with the shortest.
   */
  overlap: {
    ...all,
    settle: 0,
    decide: (record, presented, given) =>
      decideRefresh(record, presented, { ...given, overlap: -1 }),
  },
  /** The statement that advances does so as soon as the generation is confirmed. Searched as `overlap` is. */
  statement: { ...all, settle: 0, overlapOfStatement: -1 },
  /** A generation that nobody has confirmed is replaced. */
  keep: deciding((decision) => (decision.kind === "keep" ? { kind: "advance" } : decision)),
  /** A server writes what it has gathered for an older generation as a use of the current one. */
  generation: { ...all, sameGeneration: false },
  /** A server carries out what it has decided by a row that has changed since. */
  condition: { ...all, conditional: false },
  /** A refresh that has waited for the store is decided by the time at which the store answers. */
  late: { ...all, isInTime: () => true },
  /** A page presents the refresh cookie that it got, which the browser may never receive, for ever. */
  cookie: { ...all, pagesKeepCookie: false, pagesStop: false },
  /** A page presents the refresh cookie of its request for as long as it takes. */
  stop: { ...all, pagesStop: false },
  /** An old token is never theft. */
  theft: deciding((decision) =>
    decision.kind === "theft" ? { kind: "resend", prolonged: null } : decision,
  ),
  /** A server never writes the uses that it has gathered. */
  calls: { ...all, writesCalls: false },
  /** A server that has seen one generation confirmed never asks for the session again. */
  knows: { ...all, knowsGeneration: false },
  /** Re-sends prolong the settling of a generation without limit. */
  limit: {
    ...all,
    decide: (record, ...given) => decideRefresh({ ...record, prolonged: 0 }, ...given),
  },
} as const satisfies Readonly<Record<string, Rules>>;

export type RuleName = keyof typeof rules;

const now = 1_000 * 86_400_000;
const generation = 1_000;
const id = "session";
const secretId = "secret";
const rootHash = "root";

const born = newRecord(
  {
    ...{
      id,
      userId: "alice",
      tenantId: null,
      transport: "cookie",
      salt: "",
      rootHash,
      boundKey: null,
      secretId,
    },
    ...{ claims: {}, data: {}, device: {}, idle: times.idle, absolute: times.absolute },
    ...{
      endsBy: null,
      accessLife: null,
      idleLife: null,
      createdAt: null,
      authTime: null,
      lineage: null,
      externalId: null,
      authentication: null,
    },
    ...{ replaces: null, requires: null, limit: null },
  },
  now,
);

/** A row that also counts how long re-sends have prolonged its settling, in steps. */
export type CountingRow = Row & { readonly prolonged: number };

function recordOf({ confirmed, sent, prolonged }: CountingRow): SessionRecord {
  const sentAt = now - sent * step;
  const confirmedAt = confirmed === null ? null : now - confirmed * step;
  return {
    ...born,
    ...{ generation, confirmedAt, rotatedAt: sentAt, sentAt, prolonged: prolonged * step },
  };
}

function rowOf({ confirmedAt, sentAt, prolonged }: SessionRecord): CountingRow {
  return {
    confirmed: confirmedAt === null ? null : (now - confirmedAt) / step,
    sent: (now - sentAt) / step,
    prolonged: prolonged / step,
  };
}

/** A decision that is written. */
type Writing = Extract<
  RefreshDecision,
  { readonly kind: "advance" | "keep" | "resend" | "forward" }
>;

/** What the engine's rule decides for the refresh token of a generation; null for theft. */
export function decide(rules: Rules, row: CountingRow, presents: number): Writing | null {
  const { confirmed, sent, prolonged } = row;
  return remembered(rules, `decide ${confirmed} ${sent} ${prolonged} ${presents}`, () =>
    decideOnce(rules, row, presents),
  );
}

function decideOnce(rules: Rules, row: CountingRow, presents: number): Writing | null {
  const decision = rules.decide(recordOf(row), generation + presents, { ...times, now });
  switch (decision.kind) {
    case "theft":
      return null;
    case "advance":
    case "keep":
    case "resend":
    case "forward":
      return decision;
    case "revoked":
    case "expired":
    case "impossible":
      throw new Error(
        `The search reached a session that is ${decision.kind}, which it leaves out.`,
      );
  }
}

/** What a write has made of the row. */
export interface Written {
  readonly row: CountingRow;
  readonly advanced: boolean;
  /** Whether the refresh token of the row's generation is sent. */
  readonly sends: boolean;
}

/**
 * Tries the statement that advances the row if its generation is the presented one and has been confirmed
 * for long enough: the memory store's. Undefined if it changes nothing.
 */
export function tryAdvance(rules: Rules, row: CountingRow, presents: number): Written | undefined {
  const { confirmed, sent } = row;
  return remembered(rules, `advance ${confirmed} ${sent} ${presents}`, () => {
    const record = recordOf(row);
    const written = stored(record).advance(
      {
        ...{ id, generation: generation + presents, secretId, rootHash, transport: "cookie" },
        boundKey: null,
        ...{ overlap: rules.overlapOfStatement, idle: times.idle, nextSecretId: secretId },
      },
      now,
    );
    return written && writtenOf(written, presents);
  });
}

/** How long a refresh has waited for the store. */
export interface Waited {
  /** Whether its generation was settled when it arrived, and has not been sent again since then. */
  readonly settled: boolean;
  /** Steps since it arrived. */
  readonly waited: number;
}

/** Carries out a decision: the engine's write, on a row of the memory store. */
export function write(
  rules: Rules,
  row: CountingRow,
  presents: number,
  what: Waited & { readonly decision: Writing },
): Written {
  const { confirmed, sent, prolonged } = row;
  const { decision, settled, waited } = what;
  const counted = "prolonged" in decision ? decision.prolonged : "";
  const key = `write ${confirmed} ${sent} ${prolonged} ${presents} ${decision.kind} ${counted} ${settled} ${waited}`;
  return remembered(rules, key, () => writeOnce(rules, row, presents, what));
}

function writeOnce(
  rules: Rules,
  row: CountingRow,
  presents: number,
  { decision, settled, waited }: Waited & { readonly decision: Writing },
): Written {
  // Ages are cut off at `settle`. Here they have to tell what was settled when the refresh arrived.
  const least = rules.settle / step + waited;
  const sent = settled ? Math.max(row.sent, least) : Math.min(row.sent, least - 1);
  const record = recordOf({ ...row, sent });
  const proven = { record, now, generation: generation + presents, secretId, boundKey: null };
  const settle = rules.ageOfRefresh(rules.settle, waited * step);
  const change = writeOf(decision, proven, { settle, secretId });
  const written = stored(record).refresh({ ...change, id, generation, idle: times.idle }, now);
  if (written === undefined) {
    throw new Error("The memory store refused a write whose condition holds.");
  }
  const done = writtenOf(written, presents);
  return written.sentAt === record.sentAt
    ? { ...done, row: { ...done.row, sent: row.sent } }
    : done;
}

function writtenOf(written: SessionRecord, presents: number): Written {
  const advanced = written.generation > generation;
  return { row: rowOf(written), advanced, sends: generation + presents < written.generation };
}

/** Whether a use that was too early stays so, however late a server writes it. */
export function countsFromUse({ ageOfUse, settle }: Rules): boolean {
  return ageOfUse(settle, step) >= settle + step;
}

/** Writes a use of the current generation, a step after it arrived, in the memory store. */
export function confirm<R extends Row>(rules: Rules, row: R): R {
  const confirmed = remembered(rules, `confirm ${row.confirmed} ${row.sent}`, () =>
    confirmOnce(rules, row),
  );
  return { ...row, confirmed };
}

function confirmOnce(rules: Rules, row: Row): number | null {
  // A server gathers only what was settled then, as long as the age counts from the use.
  const least = rules.settle / step + 1;
  const sent = countsFromUse(rules) ? Math.max(row.sent, least) : row.sent;
  const sessions = stored(recordOf({ prolonged: 0, ...row, sent }));
  const settle = rules.ageOfUse(rules.settle, step);
  sessions.confirm({ session: id, generation, settle }, now);
  return rowOf(sessions.get(id) ?? born).confirmed;
}

function stored(record: SessionRecord): MemorySessions {
  const sessions = new MemorySessions();
  sessions.set(record);
  return sessions;
}

/** Equal questions have equal answers, and a search asks each of them many thousand times. */
const results = new WeakMap<Rules, Map<string, unknown>>();

function remembered<T>(rules: Rules, key: string, work: () => T): T {
  const known = results.get(rules) ?? new Map<string, unknown>();
  results.set(rules, known);
  if (!known.has(key)) {
    known.set(key, work());
  }
  return known.get(key) as T;
}
