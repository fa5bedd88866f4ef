// What a step makes of a state.
import {
  confirm,
  countsFromUse,
  decide,
  type Rules,
  step,
  times,
  tryAdvance,
  type Written,
  write,
} from "./server.ts";
import type { Held, JarWrite, Message, Row, Server, State, Thief } from "./state.ts";

/** How a search ends at a state: what a theft was, or that one was missed. */
export type End = "false theft" | "missed theft" | "found by the owner" | "found by the thief";

/** The times of the rules in steps. */
export const timeout = times.clientTimeout / step;
export const settle = times.settle / step;
export const overlap = times.overlap / step;
/**
 * Steps in which a browser writes its cookies to disk. A refresh that arrived at the last moment, and
 * a request that is under way to a server, may take a client's timeout each.
 */
const unsaved = settle - 2 * timeout;
/** Steps after which a server has written what it has gathered. */
export const gathering = 1;
/** An old token is theft when its successor was used longer ago than this, by anybody. */
const findable = gathering + overlap;

/** Time passes: what was young gets older, and clients stop waiting. */
export function afterTime(state: State, { pagesStop }: Rules): State {
  const { row, jar, servers, thief } = state;
  const messages = state.messages.flatMap((message): Message[] => {
    const age = message.age + 1;
    if (message.kind === "held") {
      const waited = Math.min(message.waited + 1, overlap - timeout + 1);
      const waits = message.tab !== null && age <= timeout;
      return [{ ...message, waited, ...(waits ? { age } : { tab: null, age: 0 }) }];
    }
    if (message.kind === "page" && !pagesStop) {
      return [message];
    }
    return age > timeout ? [] : [{ ...message, age }];
  });
  const older = (age: number | null, most: number): number | null =>
    age === null ? null : Math.min(age + 1, most);
  return {
    row: { confirmed: older(row.confirmed, overlap + 1), sent: Math.min(row.sent + 1, settle) },
    jar: saved(jar.map((written) => ({ ...written, age: written.age + 1 }))),
    messages,
    servers: servers.map((server) => ({
      ...server,
      gathered: thief === null ? server.gathered : older(server.gathered, gathering),
    })),
    thief: thief && { ...thief, proven: older(thief.proven, findable + 1) },
  };
}

/** A use of the tokens of a generation reaches a server, which gathers it. */
export function used(state: State, at: number, generation: number, rules: Rules): State {
  const { row, servers, thief } = state;
  if (generation < 0 && rules.sameGeneration) {
    return state;
  }
  const isOldEnough = isSettled(row, rules) || !countsFromUse(rules);
  const gathers = ({ knows, gathered }: Server): boolean =>
    isOldEnough && !knows && gathered === null;
  return {
    ...state,
    servers: servers.map((server, i) =>
      i === at && gathers(server) ? { ...server, gathered: 0 } : server,
    ),
    thief: generation === 0 && row.sent >= settle ? proving(thief) : thief,
  };
}

function isSettled({ sent }: Row, rules: Rules): boolean {
  return sent * step >= rules.settle;
}

/** The current generation has been used. */
function proving(thief: Thief | null): Thief | null {
  return thief && { ...thief, proven: thief.proven ?? 0 };
}

/** A server writes what it has gathered. */
export function writtenBy(state: State, at: number, rules: Rules): State {
  const row = rules.writesCalls ? confirm(rules, state.row) : state.row;
  const servers = state.servers.map((server, i) =>
    i === at ? { gathered: null, knows: row.confirmed !== null } : server,
  );
  return { ...state, row, servers };
}

/** A server stops, and another one starts with an empty memory. */
export function stopped(state: State, at: number): State {
  const { row, servers, thief } = state;
  const lost = servers[at]?.gathered !== null && row.confirmed === null;
  return {
    ...state,
    servers: servers.map((server, i) => (i === at ? { gathered: null, knows: false } : server)),
    thief: thief && { ...thief, proven: lost ? null : thief.proven },
  };
}

/** The answer to a refresh, and the state after it. */
export interface Answered {
  readonly state: State;
  readonly advanced: boolean;
  /** The generation whose refresh token is sent; null for none. */
  readonly refresh: number | null;
}

/** A refresh as a server sees it. */
export type Presented = Pick<Held, "presents" | "waited" | "settled" | "decided">;

/** A refresh that is decided and written at once. */
export function arriving({ row }: State, presents: number, rules: Rules): Presented {
  return { presents, waited: 0, settled: isSettled(row, rules), decided: null };
}

/** Decides a refresh by the row: the engine's rule. Null to answer that the store is unavailable. */
export function decided(
  state: State,
  { presents, waited }: Presented,
  rules: Rules,
): NonNullable<ReturnType<typeof decide>> | End | null {
  const decision = decide(rules, { ...state.row, prolonged: 0 }, presents);
  const { thief } = state;
  if (decision !== null) {
    const isOld = presents < -1 || (presents === -1 && (thief?.proven ?? 0) > findable);
    return thief !== null && isOld ? "missed theft" : decision;
  }
  if (!rules.isInTime(waited * step, times)) {
    return null;
  }
  return thief === null ? "false theft" : "found by the owner";
}

/**
 * A whole refresh, as the engine does it: one statement that advances; if it changes nothing, the row,
 * the rule and the write. Null to answer that the store is unavailable.
 */
export function exchanged(state: State, presented: Presented, rules: Rules): Answered | End | null {
  const row = { ...state.row, prolonged: 0 };
  const advanced = tryAdvance(rules, row, presented.presents);
  if (advanced !== undefined) {
    return answering(state, advanced, presented, rules);
  }
  const decision = decided(state, presented, rules);
  return decision === null || typeof decision === "string"
    ? decision
    : carriedOut(state, presented, decision, rules);
}

/** Writes what was decided. */
export function carriedOut(
  state: State,
  { presents, settled, waited }: Presented,
  decision: NonNullable<ReturnType<typeof decide>>,
  rules: Rules,
): Answered {
  const row = { ...state.row, prolonged: 0 };
  const done = write(rules, row, presents, { decision, settled, waited });
  return answering(state, done, { presents, settled }, rules);
}

function answering(
  state: State,
  done: Written,
  { presents, settled }: Pick<Presented, "presents" | "settled">,
  rules: Rules,
): Answered {
  const after = afterWrite(state, done, rules);
  const refresh = done.sends ? 0 : null;
  const uses = presents === 0 && !done.advanced && settled && state.row.sent >= settle;
  return {
    state: uses ? { ...after, thief: proving(after.thief) } : after,
    ...{ advanced: done.advanced, refresh },
  };
}

function afterWrite(state: State, { row, advanced: moved }: Written, rules: Rules): State {
  const { confirmed, sent } = row;
  const after: State = { ...(moved ? advanced(state, rules) : state), row: { confirmed, sent } };
  const sentAgain = sent < state.row.sent || moved;
  if (!sentAgain) {
    return after;
  }
  // What was settled is so no longer.
  const { servers, messages, thief } = after;
  return {
    ...after,
    servers: servers.map((server) => ({
      ...server,
      gathered: countsFromUse(rules) && confirmed === null ? null : server.gathered,
    })),
    messages: messages.map((message) =>
      message.kind === "held" ? { ...message, settled: false } : message,
    ),
    thief: thief && { ...thief, proven: confirmed === null ? null : thief.proven },
  };
}

/** The same state, with all generations counted from the next one. */
function advanced(state: State, rules: Rules): State {
  const { thief, servers } = state;
  return {
    ...state,
    jar: saved(
      state.jar.map(({ access, refresh, age }) => ({
        ...{ access: back(access), refresh: back(refresh), age },
      })),
    ),
    messages: state.messages.map((message) => messageBack(message, rules)),
    servers: servers.map(({ gathered, knows }) => ({
      gathered: rules.sameGeneration ? null : gathered,
      knows: knows && !rules.knowsGeneration,
    })),
    thief: thief && {
      ...{ access: back(thief.access), refresh: back(thief.refresh), proven: null },
    },
  };
}

function messageBack(message: Message, { conditional }: Rules): Message {
  switch (message.kind) {
    case "request":
      return { ...message, presents: back(message.presents) };
    case "held": {
      // Its write does not find the generation that it has read. It is decided again.
      const decision = conditional ? null : message.decided;
      return { ...message, presents: back(message.presents), decided: decision };
    }
    case "answer": {
      const { access, refresh } = message;
      return { ...message, access: back(access), refresh: refresh === null ? null : back(refresh) };
    }
    case "page": {
      const { access, presents, sets } = message;
      return {
        ...message,
        ...{ access: back(access), presents: back(presents) },
        sets: sets === null ? null : back(sets),
      };
    }
    case "call":
      return { ...message, generation: back(message.generation) };
  }
}

/** Anything before -2 is equally old. */
export function back(generation: number): number {
  return Math.max(generation - 1, -3);
}

/** The state after a response has reached its tab. `refresh` is null if its refresh cookie has not. */
export function received(
  state: State,
  tab: number,
  { access, refresh }: { readonly access: number; readonly refresh: number | null },
): State {
  const last = state.jar.at(-1);
  const next: JarWrite = { access, refresh: refresh ?? last?.refresh ?? 0, age: 0 };
  const same = last?.access === next.access && last.refresh === next.refresh;
  return { ...abandoned(state, tab), jar: same ? state.jar : saved([...state.jar, next]) };
}

/** The state in which a tab has stopped waiting. What it sent may still be under way. */
export function abandoned(state: State, tab: number | null): State {
  const messages = state.messages.flatMap((message): Message[] => {
    if (!("tab" in message) || message.tab !== tab) {
      return [message];
    }
    if (message.kind === "answer") {
      return [];
    }
    return [
      message.kind === "held" ? { ...message, tab: null, age: 0 } : { ...message, tab: null },
    ];
  });
  return { ...state, messages };
}

/** The state after a browser has crashed: it has only the first of its writes on disk. */
export function crashed(state: State, kept: number): State {
  const tabless = [
    ...new Set(state.messages.map((message) => ("tab" in message ? message.tab : null))),
  ].reduce(abandoned, state);
  return { ...tabless, jar: state.jar.slice(0, kept) };
}

/**
 * Drops the writes that no crash can bring back, because a later one is on disk, and those that equal the
 * one before. Otherwise an engine that advances without waiting would make the jar grow for ever.
 */
function saved(jar: readonly JarWrite[]): readonly JarWrite[] {
  const safe = Math.max(
    0,
    jar.findLastIndex(({ age }) => age >= unsaved),
  );
  return jar
    .slice(safe)
    .filter(({ access, refresh }, i, writes) => {
      const before = writes[i - 1];
      return before?.access !== access || before.refresh !== refresh;
    })
    .map((written) => ({ ...written, age: Math.min(written.age, unsaved) }));
}

/** Whether one more request may be under way. */
export function hasRoom({ messages }: State, requests: number): boolean {
  const under = messages.filter(({ kind }) => kind === "request" || kind === "held");
  return under.length < requests;
}

export function adding(state: State, message: Message): State {
  return { ...state, messages: [...state.messages, message] };
}

export function without(state: State, message: Message): State {
  return { ...state, messages: state.messages.filter((other) => other !== message) };
}
