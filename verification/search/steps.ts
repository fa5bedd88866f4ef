import {
  type Answered,
  abandoned,
  adding,
  afterTime,
  arriving,
  back,
  carriedOut,
  crashed,
  decided,
  type End,
  exchanged,
  gathering,
  hasRoom,
  type Presented,
  received,
  stopped,
  used,
  without,
  writtenBy,
} from "./moves.ts";
import type { Rules } from "./server.ts";
import type { Held, Message, State } from "./state.ts";

/** A step, in words, and where it leads. */
export interface Edge {
  readonly does: string;
  readonly to: State | End;
}

/** How much may go wrong. */
export interface Limits {
  readonly tabs: number;
  readonly crashes: boolean;
  /** Refreshes that have no answer yet, at most. */
  readonly requests: number;
  /** Refreshes that servers hold while they wait for the store, at most. */
  readonly slow: number;
  /** Whether a thief copies the cookies. */
  readonly thief: boolean;
  /** Whether a server renders pages, one at a time. */
  readonly pages?: boolean;
  /** Stops after this many states, nearest first. Default: after all of them. */
  readonly states?: number;
}

type Page = Extract<Message, { readonly kind: "page" }>;
type Request = Extract<Message, { readonly kind: "request" }>;
type Answer = Extract<Message, { readonly kind: "answer" }>;

/** Every step that can be taken from a state. */
export function stepsFrom(state: State, rules: Rules, limits: Limits): readonly Edge[] {
  const edges: Edge[] = [];
  // 1. Time passes. A statement takes less; and to find a thief in time, servers write in time.
  const writes = state.messages.some((m) => m.kind === "held" && m.decided !== null);
  const isDue = state.thief !== null && state.servers.some((s) => s.gathered === gathering);
  if (!writes && !isDue) {
    edges.push({ does: "10 s pass", to: afterTime(state, rules) });
  }
  const now = state.jar.at(-1);
  if (now === undefined) {
    return edges;
  }
  // 2. A tab refreshes.
  for (let tab = 0; tab < limits.tabs && hasRoom(state, limits.requests); tab++) {
    if (!state.messages.some((message) => "tab" in message && message.tab === tab)) {
      const request: Message = { kind: "request", tab, presents: now.refresh, age: 0 };
      edges.push({ does: `tab ${tab} sends a refresh`, to: adding(state, request) });
    }
  }
  // 3. A tab makes a call, which matters if it shows that the browser has both cookies.
  const { access: generation, refresh: presents } = now;
  if (
    !state.messages.some(({ kind }) => kind === "call") &&
    rules.showsReceipt({ transport: "cookie", generation }, [presents])
  ) {
    edges.push({ does: "a call", to: adding(state, { kind: "call", generation, age: 0 }) });
  }
  // 4. A server begins to render a page.
  if (limits.pages === true && !state.messages.some(({ kind }) => kind === "page")) {
    const page: Message = { kind: "page", access: generation, presents, sets: null, age: 0 };
    edges.push({ does: "a page is requested", to: adding(state, page) });
  }
  // 5. Messages arrive in any order, are doubled or lost.
  for (const message of state.messages) {
    edges.push(...stepsOf(message, state, rules, limits));
  }
  // 6. Servers write what they have gathered, or stop and forget.
  edges.push(...stepsOfServers(state, rules));
  // 7. The browser crashes, and has only an earlier write on disk.
  if (limits.crashes) {
    for (let kept = 1; kept <= state.jar.length; kept++) {
      const lost = state.jar.length - kept;
      const does = `a crash, after which ${lost} writes of the jar are lost`;
      edges.push({ does, to: crashed(state, kept) });
    }
  }
  // 8. A thief copies the cookies, or uses them.
  if (limits.thief) {
    edges.push(...stepsOfThief(state, rules));
  }
  return edges;
}

function stepsOf(message: Message, state: State, rules: Rules, limits: Limits): readonly Edge[] {
  switch (message.kind) {
    case "request":
      return stepsOfRequest(message, state, rules, limits);
    case "held":
      return stepsOfHeld(message, state, rules);
    case "answer":
      return stepsOfAnswer(message, state);
    case "page":
      return stepsOfPage(message, state, rules);
    case "call":
      return reaching(without(state, message), rules, {
        does: "the call",
        generation: message.generation,
      });
  }
}

/** A use of an access token reaches one server or the other. */
function reaching(
  state: State,
  rules: Rules,
  { does, generation }: { readonly does: string; readonly generation: number },
): readonly Edge[] {
  return serversOf(state).map((at) => ({
    does: `${does} reaches server ${at}`,
    to: used(state, at, generation, rules),
  }));
}

/** The servers between which a step can tell a difference. */
function serversOf({ servers: [one, two] }: State): readonly number[] {
  const same = one?.gathered === two?.gathered && one?.knows === two?.knows;
  return same ? [0] : [0, 1];
}

function stepsOfServers(state: State, rules: Rules): readonly Edge[] {
  return serversOf(state).flatMap((at): Edge[] => {
    const { gathered = null, knows = false } = state.servers[at] ?? {};
    const writes = `server ${at} writes what it has gathered`;
    return [
      ...(gathered === null ? [] : [{ does: writes, to: writtenBy(state, at, rules) }]),
      ...(gathered === null && !knows
        ? []
        : [{ does: `server ${at} stops, and starts again`, to: stopped(state, at) }]),
    ];
  });
}

function stepsOfRequest(
  request: Request,
  state: State,
  rules: Rules,
  { slow, requests }: Limits,
): readonly Edge[] {
  const { tab, presents, age } = request;
  const others = without(state, request);
  const arrived = arriving(state, presents, rules);
  const held = state.messages.filter(({ kind }) => kind === "held").length;
  return [
    {
      does: `a refresh of ${presents} reaches a server`,
      to: handled(others, { tab, age, ...arrived }, rules),
    },
    ...(held < slow
      ? [
          {
            does: `a refresh of ${presents} reaches a server that waits for the store`,
            to: adding(others, { kind: "held", tab, age: tab === null ? 0 : age, ...arrived }),
          },
        ]
      : []),
    { does: "a refresh is lost", to: abandoned(others, tab) },
    ...(hasRoom(state, requests)
      ? [{ does: "a refresh is doubled", to: adding(state, { ...request, tab: null }) }]
      : []),
  ];
}

/** A server that has waited for the store reads the row, writes it, or does both. */
function stepsOfHeld(held: Held, state: State, rules: Rules): readonly Edge[] {
  const others = without(state, held);
  const lost: Edge = { does: "a refresh is lost at its server", to: abandoned(others, held.tab) };
  if (held.decided !== null) {
    const decision =
      held.decided === "resend" ? { kind: held.decided, prolonged: 0 } : { kind: held.decided };
    const answer = carriedOut(others, held, decision, rules);
    return [lost, { does: `the server writes: ${held.decided}`, to: answered(answer, held) }];
  }
  const decision = decided(state, held, rules);
  if (decision === null) {
    return [lost];
  }
  const read = `the server reads the row for ${held.presents}`;
  if (typeof decision === "string") {
    return [lost, { does: read, to: decision }];
  }
  if (decision.kind === "forward") {
    throw new Error("The search has no row that lags behind a token.");
  }
  return [
    lost,
    { does: read, to: adding(others, { ...held, decided: decision.kind }) },
    { does: `${read}, and writes it`, to: handled(others, held, rules) },
  ];
}

/** The state after a server has answered a refresh. */
function handled(
  state: State,
  presented: Presented & Pick<Held, "tab" | "age">,
  rules: Rules,
): State | End {
  const answer = exchanged(state, presented, rules);
  if (answer === null) {
    return abandoned(state, presented.tab);
  }
  return typeof answer === "string" ? answer : answered(answer, presented);
}

function answered({ state, refresh }: Answered, { tab, age }: Pick<Held, "tab" | "age">): State {
  return tab === null ? state : adding(state, { kind: "answer", tab, access: 0, refresh, age });
}

function stepsOfAnswer(answer: Answer, state: State): readonly Edge[] {
  const others = without(state, answer);
  const { tab, access, refresh } = answer;
  return [
    { does: "its answer arrives", to: received(others, tab, { access, refresh }) },
    { does: "its answer is lost", to: abandoned(others, tab) },
    ...(refresh === null
      ? []
      : [
          {
            does: "its answer arrives without the refresh cookie",
            to: received(others, tab, { access, refresh: null }),
          },
        ]),
  ];
}

/** A page refreshes, makes a call, and arrives with its cookies, or without them. */
function stepsOfPage(page: Page, state: State, rules: Rules): readonly Edge[] {
  const others = without(state, page);
  const { access, presents, sets } = page;
  const edges: Edge[] = [{ does: "the page arrives without cookies", to: others }];
  if (sets !== null || access !== state.jar.at(-1)?.access) {
    const arrives = received(others, 0, { access, refresh: sets });
    edges.push({ does: "the page arrives", to: arrives });
  }
  if (rules.showsReceipt({ transport: "cookie", generation: access }, [presents])) {
    edges.push(...reaching(state, rules, { does: "a call of the page", generation: access }));
  }
  const does = `the page refreshes with ${presents}`;
  const done = exchanged(others, arriving(state, presents, rules), rules);
  if (done === null || typeof done === "string") {
    return done === null ? edges : [...edges, { does, to: done }];
  }
  const kept = done.advanced ? back(presents) : presents;
  const next: Page = {
    ...page,
    ...{ access: 0, sets: done.refresh ?? sets },
    presents: rules.pagesKeepCookie ? kept : (done.refresh ?? kept),
  };
  return [...edges, { does, to: adding(done.state, next) }];
}

/** A thief copies the cookies of the browser, once. Then it calls and refreshes as it likes. */
function stepsOfThief(state: State, rules: Rules): readonly Edge[] {
  const { thief } = state;
  if (thief === null) {
    // The older ones are on disk.
    return state.jar.map(({ access, refresh }) => ({
      does: `a thief copies the tokens of ${access} and ${refresh}`,
      to: { ...state, thief: { access, refresh, proven: null } },
    }));
  }
  const { access: generation, refresh: presents } = thief;
  // Whoever has an access token can put any refresh cookie beside it, which is not verified.
  const calls = reaching(state, rules, { does: "a call of the thief", generation });
  const does = `the thief refreshes with ${presents}`;
  const done = exchanged(state, arriving(state, presents, rules), rules);
  if (done === null || typeof done === "string") {
    const end = done === "found by the owner" ? "found by the thief" : done;
    return end === null ? calls : [...calls, { does, to: end }];
  }
  const refresh = done.refresh ?? (done.advanced ? back(presents) : presents);
  const after = done.state.thief && { ...done.state.thief, access: 0, refresh };
  return [...calls, { does, to: { ...done.state, thief: after } }];
}
