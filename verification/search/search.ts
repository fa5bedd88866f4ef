import type { End } from "./moves.ts";
import type { Rules } from "./server.ts";
import { keyOf, type State } from "./state.ts";
import { type Edge, type Limits, stepsFrom } from "./steps.ts";

/** The result of a search. */
export interface SearchReport {
  readonly states: number;
  readonly edges: number;
  /** How many steps ended the session because a theft was found. */
  readonly found: Readonly<Record<"found by the owner" | "found by the thief", number>>;
  /** The first violation, and the shortest way to it, in words; undefined if there is none. */
  readonly violation:
    | { readonly kind: "false theft" | "missed theft"; readonly way: readonly string[] }
    | undefined;
}

/** A session that has just begun: its tokens are in the jar and on disk. */
export const start: State = {
  row: { confirmed: null, sent: 0 },
  jar: [{ access: 0, refresh: 0, age: 0 }],
  servers: [
    { gathered: null, knows: false },
    { gathered: null, knows: false },
  ],
  messages: [],
  thief: null,
};

/** Visits every state that can be reached, nearest first, until a rule is violated. */
export function search(rules: Rules, limits: Limits): SearchReport {
  // The number of a state is the order in which it was reached. States themselves would need too much
  // memory: only those whose steps have still to be taken are kept.
  const seen = new Map<string, number>([[keyOf(start), 0]]);
  const parents: number[] = [-1];
  const found = { "found by the owner": 0, "found by the thief": 0 };
  let edges = 0;
  let number = 0;
  for (let level: State[] = [start]; level.length > 0; ) {
    const next: State[] = [];
    for (const state of level) {
      if (seen.size >= (limits.states ?? Number.POSITIVE_INFINITY)) {
        return { states: seen.size, edges, found, violation: undefined };
      }
      for (const { does, to } of stepsFrom(state, rules, limits)) {
        edges++;
        if (to === "false theft" || to === "missed theft") {
          const way = [...wayTo(number, { seen, parents, rules, limits }), does];
          return { states: seen.size, edges, found, violation: { kind: to, way } };
        }
        if (typeof to === "string") {
          found[to] += 1;
          continue;
        }
        const key = keyOf(to);
        if (!seen.has(key)) {
          seen.set(key, seen.size);
          parents.push(number);
          next.push(to);
        }
      }
      number++;
    }
    level = next;
  }
  return { states: seen.size, edges, found, violation: undefined };
}

interface Visited {
  readonly seen: ReadonlyMap<string, number>;
  /** The number of the state from which each was first reached. */
  readonly parents: readonly number[];
  readonly rules: Rules;
  readonly limits: Limits;
}

/** The steps to a state, in words: takes again those that lead from one state of the way to the next. */
function wayTo(last: number, { seen, parents, rules, limits }: Visited): readonly string[] {
  const numbers: number[] = [];
  for (let at = last; at > 0; at = parents[at] ?? 0) {
    numbers.unshift(at);
  }
  let state = start;
  return numbers.map((number) => {
    const leads = ({ to }: Edge): boolean => isState(to) && seen.get(keyOf(to)) === number;
    const edge = stepsFrom(state, rules, limits).find(leads);
    if (edge === undefined || !isState(edge.to)) {
      throw new Error("The search lost the way to a state.");
    }
    state = edge.to;
    return edge.does;
  });
}

function isState(to: State | End): to is State {
  return typeof to !== "string";
}
