// npm run bench:profile: takes a CPU profile of a server under load and prints where the time went.
// Arguments: a contestant and a protocol; the default is `feed binary`. The profile stays in
// bench/profiles.
import { mkdirSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { installPeers } from "./lib/peers.ts";
import { type CpuProfile, summarize } from "./lib/profile.ts";
import { markdown } from "./lib/report.ts";
import { type ContestantId, contestantNames } from "./server/contestants.ts";
import type { Protocol } from "./server/load.ts";

const [id = "feed", protocol = "binary"] = process.argv.slice(2) as [ContestantId?, Protocol?];
const requests = 40_000;
const folder = join(import.meta.dirname, "profiles", `${id}-${protocol}`);

if (!Object.hasOwn(contestantNames, id) || !["json", "binary", "grpc"].includes(protocol)) {
  const ids = Object.keys(contestantNames).join(", ");
  throw new TypeError(
    `the arguments must be one of ${ids}, and json, binary or grpc; got ${id} ${protocol}`,
  );
}
installPeers();
const { loadUntilDone } = await import("./sections/server.ts");
rmSync(folder, { recursive: true, force: true });
mkdirSync(folder, { recursive: true });
const flags = ["--cpu-prof", "--cpu-prof-interval=200", `--cpu-prof-dir=${folder}`];
await loadUntilDone({ id, protocol, requests, flags });

const [file = ""] = readdirSync(folder);
const profile = JSON.parse(readFileSync(join(folder, file), "utf8")) as CpuProfile;
const { owners, functions } = summarize(profile);
const total = owners.reduce((sum, { microseconds }) => sum + microseconds, 0);
const cells = (microseconds: number): number[] => [
  (microseconds / total) * 100,
  microseconds / requests,
];
const columns = ["%", "µs per request"];
const tables = [
  { title: "whose code", rows: owners, columns },
  {
    title: "rpc-session, by function",
    rows: functions.filter(({ owner }) => owner === "rpc-session").slice(0, 25),
    columns,
  },
  { title: "all, by function", rows: functions.slice(0, 25), columns },
];
for (const { rows, ...table } of tables) {
  const rowsOf = rows.map(({ name, microseconds }) => ({ name, cells: cells(microseconds) }));
  console.log(`\n${markdown({ ...table, rows: rowsOf })}`);
}
console.log(`\nOpen the profile in a browser's developer tools: ${join(folder, file)}`);
process.exit();
