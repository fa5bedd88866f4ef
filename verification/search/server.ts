import { readLifetimes } from "../../src/engine/lifetimes.ts";
import { writeOf } from "../../src/engine/refresh/refresh.ts";
import { decideRefresh, type RefreshRule, showsReceipt } from "../../src/engine/refresh/rule.ts";
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
  /** Whether a page presents only the refresh cookie of its request. */
  readonly pagesKeepCookie: boolean;
  /** Whether a page presents it only for as long as a client waits for a refresh. */
  readonly pagesStop: boolean;
}

const all: Rules = {
  ...{ decide: decideRefresh, showsReceipt },
  ...{ pagesKeepCookie: true, pagesStop: true },
};

/** The rules by name of what they lack. */
export const rules: Readonly<Record<"nothing" | "receipt" | "sent" | "cookie" | "stop", Rules>> = {
  nothing: all,
  /** A use confirms its generation, whatever the refresh cookie beside it names. */
  receipt: { ...all, showsReceipt: () => true },
  /** A page presents the refresh cookie that it got, which the browser may never receive, for ever. */
  cookie: { ...all, pagesKeepCookie: false, pagesStop: false },
  /** A page presents the refresh cookie of its request for as long as it takes. */
  stop: { ...all, pagesStop: false },
  /** A generation settles from when it was minted, however late its refresh token is sent again. */
  sent: {
    ...all,
    decide: (...given) => {
      const decision = decideRefresh(...given);
      return decision.kind === "resend" ? { ...decision, prolonged: null } : decision;
    },
  },
};

const now = 1_000 * 86_400_000;
const generation = 1_000;
const id = "session";
const secretId = "secret";

const born = newRecord(
  {
    ...{
      id,
      userId: "alice",
      tenantId: null,
      transport: "cookie",
      salt: "",
      rootHash: "root",
      boundKey: null,
      secretId,
    },
    ...{ claims: {}, data: {}, device: {}, idle: times.idle, absolute: times.absolute },
    ...{
      endsBy: null,
      accessLife: null,
      idleLife: null,
      authTime: null,
      lineage: null,
      externalId: null,
      authentication: null,
    },
    ...{ replaces: null, requires: null, limit: null },
  },
  now,
);

function recordOf({ confirmed, sent }: Row): SessionRecord {
  const sentAt = now - sent * step;
  const confirmedAt = confirmed === null ? null : now - confirmed * step;
  return { ...born, generation, confirmedAt, rotatedAt: sentAt, sentAt };
}

function rowOf({ confirmedAt, sentAt }: SessionRecord): Row {
  return {
    confirmed: confirmedAt === null ? null : (now - confirmedAt) / step,
    sent: (now - sentAt) / step,
  };
}

/** The answer to a refresh: whether the row advanced, and whether its refresh token is sent. */
export type Exchange =
  | { readonly row: Row; readonly advanced: boolean; readonly sends: boolean }
  | "theft";

/** Exchanges the refresh token of a generation: the engine's rule and write, the memory store's row. */
export function exchange(rules: Rules, row: Row, presents: number): Exchange {
  return remembered(rules, `${row.confirmed},${row.sent},${presents}`, () =>
    exchangeOnce(rules, row, presents),
  );
}

/** Equal exchanges have equal results, and a search asks for each many thousand times. */
const results = new WeakMap<Rules, Map<string, Exchange>>();

function remembered(rules: Rules, key: string, work: () => Exchange): Exchange {
  const known = results.get(rules) ?? new Map<string, Exchange>();
  results.set(rules, known);
  const result = known.get(key) ?? work();
  known.set(key, result);
  return result;
}

function exchangeOnce({ decide }: Rules, row: Row, presents: number): Exchange {
  const record = recordOf(row);
  const presented = generation + presents;
  const decision = decide(record, presented, { ...times, now });
  if (decision.kind === "theft") {
    return "theft";
  }
  if (
    decision.kind === "revoked" ||
    decision.kind === "expired" ||
    decision.kind === "impossible"
  ) {
    throw new Error(`The search reached a session that is ${decision.kind}, which it leaves out.`);
  }
  const sessions = new MemorySessions();
  sessions.set(record);
  const proven = { record, now, generation: presented, secretId, boundKey: null };
  const write = writeOf(decision, proven, { settle: times.settle, secretId });
  const written = sessions.refresh({ ...write, id, generation, idle: times.idle }, now);
  if (written === undefined) {
    throw new Error("The memory store refused a write whose condition holds.");
  }
  const advanced = written.generation > generation;
  return { row: rowOf(written), advanced, sends: presented < written.generation };
}

/** Confirms a generation. */
export function confirm(row: Row, used: number): Row {
  const sessions = new MemorySessions();
  sessions.set(recordOf(row));
  sessions.confirm({ session: id, generation: generation + used, settle: times.settle }, now);
  return rowOf(sessions.get(id) ?? born);
}
