// npm run search: visits every state of one session and one browser, and looks for a theft that is
// none. The last line is JSON; the exit code is 1 if it finds one and 2 for wrong arguments.
import { parseArgs } from "node:util";
import { readOrExplain } from "../../tools/usage.ts";
import { search } from "./search.ts";
import { rules } from "./server.ts";

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
const found = Object.hasOwn(rules, without) ? rules[without as keyof typeof rules] : undefined;
if (found === undefined || (tabs !== "1" && tabs !== "2")) {
  console.error(`--without must be ${names}, and --tabs 1 or 2; got ${without} and ${tabs}`);
  process.exit(2);
}

const { states, edges, falseTheft } = search(found, { tabs: Number(tabs), crashes: true, pages });
for (const step of falseTheft ?? []) {
  console.log(step);
}
process.exitCode = falseTheft === undefined ? 0 : 1;
console.log(
  JSON.stringify({ states, edges, false_thefts: falseTheft === undefined ? 0 : 1, without }),
);
