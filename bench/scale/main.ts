// npm run bench:scale [-- --quick] [FILE ...]
//
// Measures what many sessions and many servers cost. Each scenario runs in a process of its own, so
// that the memory of one does not slow the next. `--quick` measures for a shorter time, with the same
// sizes. The last line is JSON; a figure is null if it was not measured, and a line says why. The exit
// code is 1 if a scenario failed. All traffic stays on this machine.
import { fork } from "node:child_process";
import { availableParallelism, loadavg } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { readOrExplain } from "../../tools/usage.ts";
import type { Answer } from "./run.ts";
import { type Listed, scenarios } from "./scenarios.ts";

/** Milliseconds after which a scenario is given up. */
const patience = 15 * 60_000;

const files = scenarios.map(({ file }) => file);
const { quick, only } = readOrExplain(
  `npm run bench:scale -- [--quick] [${files.join("] [")}]`,
  () => {
    const { values, positionals } = parseArgs({
      allowPositionals: true,
      options: { quick: { type: "boolean", default: false } },
    });
    const unknown = positionals.filter((file) => !files.includes(file));
    if (unknown.length > 0) {
      throw new TypeError(`unknown scenario ${unknown.join(", ")}`);
    }
    return { quick: values.quick, only: positionals };
  },
);

const begun = performance.now();
const [load = 0] = loadavg();
console.log(
  `${availableParallelism()} cores, Node.js ${process.version}; ${load.toFixed(1)} processes were running or waiting for a core before`,
);
const result: Record<string, number | null> = {};
for (const scenario of scenarios) {
  if (only.length === 0 || only.includes(scenario.file)) {
    Object.assign(result, await run(scenario));
  }
}
console.log(`\n${Math.round((performance.now() - begun) / 1000)} s in all`);
console.log(JSON.stringify(result));
process.exit();

/** Runs a scenario and reports it. Its promised figures are null if it was not measured. */
async function run({ file, name, keys }: Listed): Promise<Record<string, number | null>> {
  console.log(`\n## ${file}`);
  const from = performance.now();
  const answer = await answerOf(file, name);
  const nothing = Object.fromEntries(keys.map((key) => [key, null]));
  if ("figures" in answer) {
    const seconds = Math.round((performance.now() - from) / 1000);
    console.log(`  ${JSON.stringify(answer.figures)} (${seconds} s)`);
    return { ...nothing, ...answer.figures };
  }
  if ("missing" in answer) {
    console.log(`  SKIPPED: ${answer.missing}`);
  } else {
    console.log(`  FAILED: ${answer.failed}`);
    process.exitCode = 1;
  }
  return nothing;
}

async function answerOf(file: string, name: string): Promise<Answer> {
  const child = fork(
    join(import.meta.dirname, "run.ts"),
    [file, name, ...(quick ? ["--quick"] : [])],
    {
      execArgv: ["--conditions=@rpc-session/source", "--expose-gc", "--max-old-space-size=6144"],
    },
  );
  const kill = (): void => void child.kill("SIGKILL");
  process.once("exit", kill);
  return new Promise<Answer>((resolve) => {
    const late = setTimeout(() => {
      // Not SIGKILL: the scenario ends the servers that it started.
      child.kill("SIGTERM");
      resolve({ failed: `it took longer than ${patience / 60_000} minutes` });
    }, patience);
    child.once("message", resolve as (answer: unknown) => void);
    child.once("exit", (code, signal) => {
      clearTimeout(late);
      process.off("exit", kill);
      // Comes after the message if there is one, and has no effect then.
      resolve({ failed: `its process ended with ${signal ?? code}` });
    });
  });
}
