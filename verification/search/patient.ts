import { prolongedMax } from "../../src/engine/refresh/rule.ts";
import { gathering, overlap, settle } from "./moves.ts";
import type { SearchReport } from "./search.ts";
import { type CountingRow, confirm, decide, type Rules, step, write } from "./server.ts";

/** The owner has the current generation and calls all the time; a thief holds the one before. */
interface Race {
  readonly row: CountingRow;
  /** How old the generation is. */
  readonly age: number;
  /** How long ago a server gathered a use that it has still to write. */
  readonly gathered: number | null;
}

/** Each re-send may come just before the confirmation of the last one is written. */
const longest = (prolongedMax + 1) * (settle + gathering) + overlap;

/**
 * Visits every state of a thief who presents the token before the current one again and again, so that
 * its generation never settles. The other search lets re-sends prolong that without limit.
 */
export function patientThief(rules: Rules): SearchReport {
  const start: Race = { row: { confirmed: null, sent: 0, prolonged: 0 }, age: 0, gathered: null };
  const seen = new Map([[keyOf(start), start]]);
  let edges = 0;
  let thefts = 0;
  const reported = (violation: SearchReport["violation"]): SearchReport => ({
    ...{ states: seen.size, edges, violation },
    found: { "found by the owner": 0, "found by the thief": thefts },
  });
  // A map may grow while it is read.
  for (const race of seen.values()) {
    const after = refreshed(race, rules);
    if (after === "missed") {
      const way = [
        `the thief refreshes ${race.age * (step / 1_000)} s after the owner has the next token`,
      ];
      return reported({ kind: "missed theft", way });
    }
    thefts += after === "found" ? 1 : 0;
    for (const next of [after, ...written(race, rules), ...later(race)]) {
      edges++;
      if (typeof next !== "string") {
        seen.set(keyOf(next), seen.get(keyOf(next)) ?? next);
      }
    }
  }
  return reported(undefined);
}

function keyOf({ row: { confirmed, sent, prolonged }, age, gathered }: Race): string {
  return [confirmed, sent, prolonged, age, gathered].join();
}

/** The thief presents the old token. */
function refreshed(race: Race, rules: Rules): Race | "found" | "missed" {
  const decision = decide(rules, race.row, -1);
  if (decision === null) {
    return "found";
  }
  if (race.age > longest) {
    return "missed";
  }
  const { row } = write(rules, race.row, -1, { decision, settled: false, waited: 0 });
  // A use from before the token was sent again confirms nothing.
  const sentAgain = row.sent < race.row.sent && row.confirmed === null;
  return { ...race, row, gathered: sentAgain ? null : race.gathered };
}

/** The server writes what it has gathered. */
function written(race: Race, rules: Rules): readonly Race[] {
  const { row, gathered } = race;
  return gathered === null ? [] : [{ ...race, row: confirm(rules, row), gathered: null }];
}

/** Ten seconds pass, in which a server writes what it has gathered. The owner makes a call. */
function later({ row, age, gathered }: Race): readonly Race[] {
  if (gathered === gathering) {
    return [];
  }
  const { confirmed, prolonged } = row;
  const sent = Math.min(row.sent + 1, settle);
  const gathers = sent >= settle && confirmed === null;
  const waits = gathered === null ? null : gathered + 1;
  return [
    {
      row: {
        ...{ sent, prolonged },
        confirmed: confirmed === null ? null : Math.min(confirmed + 1, overlap + 1),
      },
      age: Math.min(age + 1, longest + 1),
      gathered: waits ?? (gathers ? 0 : null),
    },
  ];
}
