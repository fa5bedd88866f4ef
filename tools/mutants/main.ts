// Usage: npm run mutants -- [--count 12] [--seed 1] [--tests 100] [--only src/jwt/] [--lanes 2]
// Prints a line for each mutant. The last line is a summary in JSON.
import { join } from "node:path";
import { parseArgs } from "node:util";
import { postgresMissing } from "../../test/servers/postgres.ts";
import { redisMissing } from "../../test/servers/redis.ts";
import { readOrExplain } from "../usage.ts";
import { runMutants } from "./run.ts";

const usage =
  "npm run mutants -- [--count 12] [--seed 1] [--tests 100] [--only src/jwt/]... [--lanes 2]";
const options = readOrExplain(usage, () => {
  const { values } = parseArgs({
    options: {
      count: { type: "string", default: "12" },
      seed: { type: "string", default: String(Math.floor(Math.random() * 1_000_000)) },
      tests: { type: "string", default: "100" },
      only: { type: "string", multiple: true, default: ["src/"] },
      lanes: { type: "string" },
    },
  });
  return {
    count: integer("count", values.count, 1),
    seed: integer("seed", values.seed, 0),
    tests: integer("tests", values.tests, 1),
    only: values.only,
    ...(values.lanes === undefined ? {} : { lanes: integer("lanes", values.lanes, 1) }),
  };
});

/** The store contract consists of tests. Stores need their database. */
const untested = [
  "src/testing/store-contract/",
  ...(redisMissing === undefined ? [] : ["src/stores/redis/"]),
  ...(postgresMissing === undefined ? [] : ["src/stores/postgres/"]),
];

// An exit by `process.exit` removes the copies and ends the programs that run in them.
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
  process.on(signal, () => process.exit(130));
}

console.log(`seed ${options.seed}`);
const result = await runMutants({
  ...options,
  root: join(import.meta.dirname, "../.."),
  includes: (file) =>
    options.only.some((path) => file.startsWith(path)) &&
    !untested.some((folder) => file.startsWith(folder)),
  report: console.log,
});
console.log(JSON.stringify(result));

function integer(name: string, text: string, min: number): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < min) {
    throw new Error(`--${name} must be an integer of at least ${min}, got ${JSON.stringify(text)}`);
  }
  return value;
}
