import { confirm, exchange, type Rules, step, times } from "./server.ts";
import type { JarWrite, Message, Row, State } from "./state.ts";

/** A step, in words, and where it leads. */
export interface Edge {
  readonly does: string;
  /** The state after it, or a session that ended as theft although nobody stole it. */
  readonly to: State | "theft";
}

/** How much may go wrong. */
export interface Limits {
  readonly tabs: number;
  readonly crashes: boolean;
  /** Whether a server renders pages, one at a time. */
  readonly pages?: boolean;
  /** Stops after this many states, nearest first. Default: after all of them. */
  readonly states?: number;
}

const timeout = times.clientTimeout / step;
const settle = times.settle / step;
const overlap = times.overlap / step;
/**
 * Steps in which a browser writes its cookies to disk. A refresh that arrived at the last moment, and
 * a request that a server has still to process, may take a client's timeout each.
 */
const unsaved = settle - 2 * timeout;

/** Requests under way at the same time, at most: one of each tab, and one that nobody waits for. */
const requestsMax = 3;

type Page = Extract<Message, { readonly kind: "page" }>;
type Request = Extract<Message, { readonly kind: "request" }>;
type Answer = Extract<Message, { readonly kind: "answer" }>;

/** Every step that can be taken from a state. */
export function stepsFrom(state: State, rules: Rules, limits: Limits): readonly Edge[] {
  const edges: Edge[] = [{ does: "10 s pass", to: afterTime(state, rules) }];
  const now = state.jar.at(-1);
  if (now === undefined) {
    return edges;
  }
  // 1. A tab refreshes.
  for (let tab = 0; tab < limits.tabs && hasRoom(state); tab++) {
    if (!state.messages.some((message) => "tab" in message && message.tab === tab)) {
      const request: Message = { kind: "request", tab, presents: now.refresh, age: 0 };
      edges.push({ does: `tab ${tab} sends a refresh`, to: adding(state, request) });
    }
  }
  // 2. A tab makes a call. Its confirmation is written at once, or within a client's timeout.
  if (rules.showsReceipt({ transport: "cookie", generation: now.access }, [now.refresh])) {
    edges.push({ does: "a call", to: { ...state, row: confirm(state.row, now.access) } });
    if (!state.messages.some(({ kind }) => kind === "confirm")) {
      const late: Message = { kind: "confirm", generation: now.access, age: 0 };
      edges.push({ does: "a call, confirmed later", to: adding(state, late) });
    }
  }
  // 3. A server begins to render a page.
  if (limits.pages === true && !state.messages.some(({ kind }) => kind === "page")) {
    const { access, refresh: presents } = now;
    const page: Message = { kind: "page", access, presents, sets: null, age: 0 };
    edges.push({ does: "a page is requested", to: adding(state, page) });
  }
  // 4. Messages arrive in any order, are doubled or lost.
  for (const message of state.messages) {
    edges.push(...stepsOf(message, state, rules));
  }
  // 5. The browser crashes, and has only an earlier write on disk.
  if (limits.crashes) {
    edges.push(...crashesOf(state));
  }
  return edges;
}

function stepsOf(message: Message, state: State, rules: Rules): readonly Edge[] {
  const others = without(state, message);
  switch (message.kind) {
    case "request":
      return [
        {
          does: `a refresh of ${message.presents} reaches a server`,
          to: handled(message, others, rules),
        },
        { does: "a refresh is lost", to: abandoned(others, message.tab) },
        ...(hasRoom(state)
          ? [{ does: "a refresh is doubled", to: adding(state, { ...message, tab: null }) }]
          : []),
      ];
    case "answer":
      return [
        { does: "its answer arrives", to: received(message, others, message.refresh) },
        { does: "its answer is lost", to: abandoned(others, message.tab) },
        ...(message.refresh === null
          ? []
          : [
              {
                does: "its answer arrives without the refresh cookie",
                to: received(message, others, null),
              },
            ]),
      ];
    case "page":
      return stepsOfPage(message, state, rules);
    case "confirm":
      return [
        {
          does: "the confirmation is written",
          to: { ...others, row: confirm(others.row, message.generation) },
        },
      ];
  }
}

/** A page refreshes, makes a call, and arrives with its cookies, or without them. */
function stepsOfPage(page: Page, state: State, rules: Rules): readonly Edge[] {
  const others = without(state, page);
  const { access, presents, sets } = page;
  const edges: Edge[] = [{ does: "the page arrives without cookies", to: others }];
  if (sets !== null || access !== state.jar.at(-1)?.access) {
    const answer: Answer = { kind: "answer", tab: 0, access, refresh: sets, age: 0 };
    edges.push({ does: "the page arrives", to: received(answer, others, sets) });
  }
  if (rules.showsReceipt({ transport: "cookie", generation: access }, [presents])) {
    edges.push({
      does: "the page makes a call",
      to: { ...state, row: confirm(state.row, access) },
    });
  }
  const done = exchange(rules, state.row, presents);
  if (done === "theft") {
    return [...edges, { does: `the page refreshes with ${presents}`, to: "theft" }];
  }
  const after = { ...(done.advanced ? advanced(others) : others), row: done.row };
  const gets = done.sends ? 0 : null;
  const kept = done.advanced ? back(presents) : presents;
  const next: Page = {
    ...page,
    ...{ access: 0, sets: gets ?? sets },
    presents: rules.pagesKeepCookie ? kept : (gets ?? kept),
  };
  return [...edges, { does: `the page refreshes with ${presents}`, to: adding(after, next) }];
}

/** The state after a server has answered a request. */
function handled(request: Request, state: State, rules: Rules): State | "theft" {
  const done = exchange(rules, state.row, request.presents);
  if (done === "theft") {
    return "theft";
  }
  const after = { ...(done.advanced ? advanced(state) : state), row: done.row };
  const { tab, age } = request;
  const refresh = done.sends ? 0 : null;
  return tab === null ? after : adding(after, { kind: "answer", tab, access: 0, refresh, age });
}

/** The state after a response has reached its tab. `refresh` is null if its refresh cookie has not. */
function received({ tab, access }: Answer, state: State, refresh: number | null): State {
  const last = state.jar.at(-1);
  const write: JarWrite = { access, refresh: refresh ?? last?.refresh ?? 0, age: 0 };
  const same = last?.access === write.access && last.refresh === write.refresh;
  return { ...abandoned(state, tab), jar: same ? state.jar : saved([...state.jar, write]) };
}

/** The state in which a tab has stopped waiting. What it sent may still reach a server. */
function abandoned(state: State, tab: number | null): State {
  const messages = state.messages.flatMap((message): Message[] => {
    if (!("tab" in message) || message.tab !== tab) {
      return [message];
    }
    return message.kind === "request" ? [{ ...message, tab: null }] : [];
  });
  return { ...state, messages };
}

/** Time passes: what was young gets older, and clients stop waiting. */
function afterTime(state: State, { pagesStop }: Rules): State {
  const { confirmed, sent } = state.row;
  const row: Row = {
    confirmed: confirmed === null ? null : Math.min(confirmed + 1, overlap + 1),
    sent: Math.min(sent + 1, settle),
  };
  const jar = saved(state.jar.map((write) => ({ ...write, age: write.age + 1 })));
  const messages = state.messages
    .map((message) =>
      message.kind === "page" && !pagesStop ? message : { ...message, age: message.age + 1 },
    )
    .filter(({ age }) => age <= timeout);
  return { ...state, row, jar, messages };
}

/** Drops the writes that no crash can bring back, because a later one is on disk. */
function saved(jar: readonly JarWrite[]): readonly JarWrite[] {
  const safe = Math.max(
    0,
    jar.findLastIndex(({ age }) => age >= unsaved),
  );
  return jar.slice(safe).map((write) => ({ ...write, age: Math.min(write.age, unsaved) }));
}

function crashesOf(state: State): readonly Edge[] {
  const tabless = [
    ...new Set(state.messages.map((message) => ("tab" in message ? message.tab : null))),
  ].reduce(abandoned, state);
  return state.jar.map((_write, kept) => ({
    does: `a crash, after which ${state.jar.length - 1 - kept} writes of the jar are lost`,
    to: { ...tabless, jar: state.jar.slice(0, kept + 1) },
  }));
}

/** The same state, with all generations counted from the next one. */
function advanced(state: State): State {
  const jar = state.jar.map(({ access, refresh, age }) => ({
    access: back(access),
    refresh: back(refresh),
    age,
  }));
  return { ...state, jar, messages: state.messages.map(messageBack) };
}

function messageBack(message: Message): Message {
  switch (message.kind) {
    case "request":
      return { ...message, presents: back(message.presents) };
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
    case "confirm":
      return { ...message, generation: back(message.generation) };
  }
}

/** Anything before -2 is equally old. */
function back(generation: number): number {
  return Math.max(generation - 1, -3);
}

/** Whether one more request may be under way. */
function hasRoom({ messages }: State): boolean {
  return messages.filter(({ kind }) => kind === "request").length < requestsMax;
}

function adding(state: State, message: Message): State {
  return { ...state, messages: [...state.messages, message] };
}

function without(state: State, message: Message): State {
  return { ...state, messages: state.messages.filter((other) => other !== message) };
}
