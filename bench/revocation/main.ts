// npm run bench:revocation [-- --quick]
//
// Measures how fast a revocation reaches every server. 4 server processes share one store. The time
// runs from the acknowledgement by one server until each other server refuses its first call, and
// until the session's open stream has ended. The last line is JSON. The exit code is 1 if a server
// exceeded the promised bound or if a verified call read the store. All traffic stays on this machine.
import { randomBytes } from "node:crypto";
import { postgresMissing, startPostgres } from "../../test/servers/postgres.ts";
import { redisMissing, startRedis } from "../../test/servers/redis.ts";
import { readOrExplain } from "../../tools/usage.ts";
import { type Server, startServer } from "./fleet.ts";
import { measure } from "./measure.ts";
import { type RunSize, readArguments, type StoreKind, stores } from "./options.ts";
import { type Summary, summarize } from "./summary.ts";

/** The bound that is promised as long as the change log can be read: `maxStaleness`. */
const bound = 5_000;

const size = readOrExplain("npm run bench:revocation [-- --quick]", () =>
  readArguments(process.argv.slice(2)),
);
const result: Partial<Record<StoreKind, Summary | null>> = {};
for (const kind of stores) {
  result[kind] = await run(kind, size);
}
const summaries = Object.values(result).filter((summary) => summary !== null);
const good = ({ max_ms, streams_max_ms, store_reads_per_call: reads }: Summary): boolean =>
  Math.max(max_ms, streams_max_ms) <= bound && reads === 0;
console.log(JSON.stringify(result));
process.exit(summaries.every(good) ? 0 : 1);

/** @returns null if the store cannot be started on this machine */
async function run(kind: StoreKind, of: RunSize): Promise<Summary | null> {
  const missing = kind === "postgres" ? postgresMissing : redisMissing;
  if (missing !== undefined) {
    console.log(`${kind}: not measured: ${missing}`);
    return null;
  }
  const store = await startStore(kind);
  const servers: Server[] = [];
  try {
    const secret = randomBytes(32).toString("base64url");
    for (let i = 0; i < of.processes; i++) {
      servers.push(await startServer({ store: kind, at: store.at, secret }));
    }
    const summary = summarize(await measure(servers, of));
    console.log(describe(kind, summary, of));
    return summary;
  } finally {
    for (const server of servers) {
      server.stop();
    }
    await store.stop();
  }
}

async function startStore(kind: StoreKind) {
  if (kind === "redis") {
    const redis = await startRedis();
    return { at: redis.socket, stop: () => redis.stop() };
  }
  const postgres = await startPostgres();
  return { at: postgres.url("public"), stop: () => postgres.stop() };
}

function describe(kind: StoreKind, summary: Summary, of: RunSize): string {
  const { p50_ms, p99_ms, max_ms, store_reads_per_call: reads } = summary;
  return [
    `${kind}: ${of.processes} processes, ${of.sessions} sessions, ${of.streams} open streams, ${summary.revocations} revocations, ${summary.calls} verified calls`,
    `  first refusal by each of the other processes: p50 ${p50_ms} ms, p99 ${p99_ms} ms, max ${max_ms} ms`,
    `  end of the session's stream: p50 ${summary.streams_p50_ms} ms, p99 ${summary.streams_p99_ms} ms, max ${summary.streams_max_ms} ms`,
    `  store reads per verified call: ${reads}`,
  ].join("\n");
}
