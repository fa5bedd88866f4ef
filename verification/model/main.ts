// npm run model: plays random schedules of clients, servers, faults and thieves against the engine
// and checks every outcome. The last line is JSON; the exit code is 1 after a violation.
import { parseArgs } from "node:util";
import { readOrExplain } from "../../tools/usage.ts";
import { describeFailure, lastLine, summary } from "./report.ts";
import { removals } from "./rules.ts";
import { runModel } from "./run.ts";

const usage =
  "npm run model -- [--steps N] [--seed S] [--store memory|sqlite] [--without RULE] [--path P] [--any-crash] [--mixed-formats]";

const { values } = readOrExplain(usage, () =>
  parseArgs({
    options: {
      steps: { type: "string", default: "100000" },
      seed: { type: "string", default: String(Date.now() | 0) },
      store: { type: "string", default: "memory" },
      without: { type: "string" },
      path: { type: "string" },
      "any-crash": { type: "boolean", default: false },
      "mixed-formats": { type: "boolean", default: false },
    },
  }),
);
const [steps, seed] = [Number(values.steps), Number(values.seed)];
const { store, without, "any-crash": anyCrash, "mixed-formats": mixedFormats } = values;
if (!Number.isSafeInteger(steps) || !Number.isSafeInteger(seed)) {
  throw new TypeError("--steps and --seed must be integers");
}
if (store !== "memory" && store !== "sqlite") {
  throw new TypeError(`--store must be memory or sqlite, got ${JSON.stringify(store)}`);
}
const rule = without === undefined ? "" : `, without: ${removals[without]?.rule ?? without}`;
console.log(`seed ${seed}, ${steps} steps on ${store}${rule}`);

const started = performance.now();
let shown = started;
const report = await runModel({
  steps,
  seed,
  store,
  without,
  path: values.path,
  anyCrash,
  mixedFormats,
  progress(tally) {
    if (performance.now() - shown > 5_000) {
      shown = performance.now();
      const rate = Math.round(tally.steps / ((shown - started) / 1_000));
      console.log(`${tally.steps} steps, ${tally.refreshes} refreshes, ${rate} steps/s`);
    }
  },
});
console.log(summary(report.tally, performance.now() - started));
if (report.failure !== undefined) {
  console.log(describeFailure(report.failure, { store, without, anyCrash, mixedFormats }));
  process.exitCode = 1;
}
console.log(lastLine(report.tally, seed));
