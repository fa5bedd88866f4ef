// npm run bench: measures what a session costs, compared with other libraries. `-- --quick` measures
// the same in less time; `-- verify server` runs only the named sections and writes nothing.
import { readFileSync, writeFileSync } from "node:fs";
import { availableParallelism, cpus } from "node:os";
import { join } from "node:path";
import { readOrExplain } from "../tools/usage.ts";
import { type BenchOptions, readBenchOptions } from "./lib/options.ts";
import { installPeers, peerVersions } from "./lib/peers.ts";
import { between, type Findings, headlineOf, markdown } from "./lib/report.ts";

type Section = (options: BenchOptions) => Promise<Findings>;

/** The sections in order. They are loaded when they run, because some import the peers. */
const sections: Readonly<Record<string, () => Promise<Section>>> = {
  verify: async () => (await import("./sections/verify.ts")).verifySection,
  server: async () => (await import("./sections/server.ts")).serverSection,
  revocation: async () => (await import("./sections/revocation.ts")).revocationSection,
  telemetry: async () => (await import("./sections/telemetry.ts")).telemetrySection,
  bound: async () => (await import("./sections/bound.ts")).boundSection,
  refresh: async () => (await import("./sections/refresh.ts")).refreshSection,
  memory: async () => (await import("./sections/memory.ts")).memorySection,
  growth: async () => (await import("./sections/growth.ts")).growthSection,
  startup: async () => (await import("./sections/startup.ts")).startupSection,
};

const options = readOrExplain(
  `npm run bench -- [--quick] [${Object.keys(sections).join("] [")}]`,
  () => readBenchOptions(process.argv.slice(2)),
);
const unknown = options.only.filter((name) => !Object.hasOwn(sections, name));
if (unknown.length > 0) {
  throw new TypeError(
    `unknown section ${unknown.join(", ")}; the sections are ${Object.keys(sections).join(", ")}`,
  );
}
installPeers();

const found: Findings[] = [];
for (const [name, load] of Object.entries(sections)) {
  if (options.only.length === 0 || options.only.includes(name)) {
    found.push(await runSection(name, await load()));
  }
}
const report = [
  `Measured on ${new Date().toISOString().slice(0, 10)} with Node.js ${process.version} on ${availableParallelism()} cores (${cpus()[0]?.model ?? "unknown"}), compared with ${peerVersions()}. ${options.quick ? "A quick run. " : ""}Medians of interleaved rounds, quartiles in parentheses.`,
  ...found.flatMap(({ tables }) => tables.map(markdown)),
  found
    .flatMap(({ notes }) => notes)
    .map((note) => `- ${note}`)
    .join("\n"),
].join("\n\n");
if (options.write) {
  const file = join(import.meta.dirname, "../docs/benchmarks.md");
  writeFileSync(file, between(readFileSync(file, "utf8"), "bench", report));
}
console.log(JSON.stringify(headlineOf(found.map(({ headline }) => headline))));
process.exit();

/** Runs a section. If it fails, its figures are missing, a note reports that, and the others run. */
async function runSection(name: string, section: Section): Promise<Findings> {
  console.log(`\n## ${name}`);
  const begun = performance.now();
  const findings = await section(options).catch((error: unknown) => {
    console.error(error);
    process.exitCode = 1;
    return {
      tables: [],
      headline: {},
      notes: [`${name}: not measured because the section failed: ${String(error)}`],
    };
  });
  for (const table of findings.tables) {
    console.log(`\n${markdown(table)}`);
  }
  for (const note of findings.notes) {
    console.log(`- ${note}`);
  }
  console.log(`(${Math.round((performance.now() - begun) / 1000)} s)`);
  return findings;
}
