// npm run search: visits every state of one session, one browser, two servers and a thief. It looks for a
// session that ends as theft without one, and for a theft that is not found. It stops at the first of them.
// The last line is JSON. The exit code is 1 for a violation and 2 for wrong arguments.
import { parseArgs } from "node:util";
import { readOrExplain } from "../../tools/usage.ts";
import { patientThief } from "./patient.ts";
import { type SearchReport, search } from "./search.ts";
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

/** These two are searched with a `settle` of 0, which is too short for a browser that may crash. */
const crashes = without !== "overlap" && without !== "statement";
const owner: Limits = { tabs: Number(tabs), crashes, requests: 3, slow: 0, thief: false };
const searches: readonly (readonly [string, () => SearchReport])[] = [
  ["a patient thief", () => patientThief(searched)],
  [
    "two servers, no thief",
    () => search(searched, pages ? { ...owner, pages, states: 1_000_000 } : owner),
  ],
  ["a server that waits for the store", () => search(searched, { ...owner, requests: 2, slow: 1 })],
  [
    "one tab, a thief and a server that waits",
    () => search(searched, { ...owner, tabs: 1, requests: 1, slow: 1, thief: true }),
  ],
  ["two servers and a thief", () => search(searched, { ...owner, requests: 2, thief: true })],
];
const total = {
  states: 0,
  edges: 0,
  violations: 0,
  false_thefts: 0,
  missed_thefts: 0,
  found_thefts: 0,
};
for (const [name, run] of searches) {
  const { states, edges, found, violation } = run();
  console.log(`${name}: ${states} states, ${edges} steps, ${violation?.kind ?? "no violation"}`);
  for (const does of violation?.way ?? []) {
    console.log(`  ${does}`);
  }
  total.states += states;
  total.edges += edges;
  total.violations += violation === undefined ? 0 : 1;
  total.false_thefts += violation?.kind === "false theft" ? 1 : 0;
  total.missed_thefts += violation?.kind === "missed theft" ? 1 : 0;
  total.found_thefts += found["found by the owner"] + found["found by the thief"];
  if (violation !== undefined) {
    process.exitCode = 1;
    break;
  }
}
console.log(JSON.stringify({ ...total, without }));
