import type { Rules } from "./server.ts";
import { keyOf, type State } from "./state.ts";
import { type Limits, stepsFrom } from "./steps.ts";

/** The result of a search. */
export interface SearchReport {
  readonly states: number;
  readonly edges: number;
  /** The shortest way to a false theft, in words; undefined if there is none. */
  readonly falseTheft: readonly string[] | undefined;
}

/** A session that has just begun: its tokens are in the jar and on disk. */
const start: State = {
  row: { confirmed: null, sent: 0 },
  jar: [{ access: 0, refresh: 0, age: 0 }],
  messages: [],
};

/** How a state was first reached. */
interface Reached {
  readonly state: State;
  readonly from: Reached | undefined;
  readonly does: string;
}

/** Visits every state that can be reached, nearest first, until a session ends as theft. */
export function search(rules: Rules, limits: Limits): SearchReport {
  const seen = new Set([keyOf(start)]);
  const queue: Reached[] = [{ state: start, from: undefined, does: "" }];
  let edges = 0;
  for (const reached of queue) {
    if (seen.size >= (limits.states ?? Number.POSITIVE_INFINITY)) {
      break;
    }
    for (const { does, to } of stepsFrom(reached.state, rules, limits)) {
      edges++;
      if (to === "theft") {
        return { states: seen.size, edges, falseTheft: wayTo({ ...reached, from: reached, does }) };
      }
      const key = keyOf(to);
      if (!seen.has(key)) {
        seen.add(key);
        queue.push({ state: to, from: reached, does });
      }
    }
  }
  return { states: seen.size, edges, falseTheft: undefined };
}

function wayTo(last: Reached): readonly string[] {
  const way: string[] = [];
  for (let at: Reached | undefined = last; at?.from !== undefined; at = at.from) {
    way.unshift(at.does);
  }
  return way;
}
