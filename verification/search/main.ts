// npm run search: visits every state of one session, one browser, two servers and a thief, and looks for
// a theft that is none, and for one that is not found. The last line is JSON; the exit code is 1 if there
// is one, and 2 for wrong arguments.
import { parseArgs } from "node:util";
import { readOrExplain } from "../../tools/usage.ts";
import { patientThief } from "./patient.ts";
import { search } from "./search.ts";
import { type RuleName, rules } from "./server.ts";
import type { Limits } from "./steps.ts";

const names = Object.keys(rules).slice(1).join("|");
const usage = `npm run search -- [--without ${names}] [--tabs 1|2] [--pages]`;
const { values } = readOrExplain(usage, () =>
  parseArgs({
    options: {
      without: { type: "string" },
      tabs: { type: "string", default: "2" },
      pages: { type: "boolean", default: false },
    },
  }),
);
const { without = "nothing", tabs, pages } = values;
if (!Object.hasOwn(rules, without) || (tabs !== "1" && tabs !== "2")) {
  console.error(`--without must be ${names}, and --tabs 1 or 2; got ${without} and ${tabs}`);
  process.exit(2);
}
const searched = rules[without as RuleName];

/** Without its rule, "overlap" has a `settle` that no crash may meet. */
const crashes = without !== "overlap";
const owner: Limits = { tabs: Number(tabs), crashes, requests: 3, slow: 0, thief: false, pages };
const searches: Readonly<Record<string, Limits>> = {
  "two servers, no thief": owner,
  "a server that waits for the store": { ...owner, pages: false, requests: 2, slow: 1 },
  "a thief": { ...owner, pages: false, tabs: 1, requests: 2, thief: true },
};
const total = { states: 0, edges: 0, false_thefts: 0, missed_thefts: 0, found_thefts: 0 };
for (const [name, limits] of Object.entries(searches)) {
  const { states, edges, found, violation } = search(searched, limits);
  console.log(`${name}: ${states} states, ${edges} steps, ${violation?.kind ?? "no violation"}`);
  for (const does of violation?.way ?? []) {
    console.log(`  ${does}`);
  }
  total.states += states;
  total.edges += edges;
  total.false_thefts += violation?.kind === "false theft" ? 1 : 0;
  total.missed_thefts += violation?.kind === "missed theft" ? 1 : 0;
  total.found_thefts += found["found by the owner"] + found["found by the thief"];
}
const patient = patientThief(searched);
console.log(
  `a patient thief: ${patient.states} states, ${patient.missed ? "never found" : "found"}`,
);
total.states += patient.states;
total.missed_thefts += patient.missed ? 1 : 0;
total.found_thefts += patient.found;
process.exitCode = total.false_thefts + total.missed_thefts === 0 ? 0 : 1;
console.log(JSON.stringify({ ...total, without }));
