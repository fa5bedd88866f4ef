import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import type { BenchOptions } from "../lib/options.ts";
import type { Cell, Findings, Headline, Table } from "../lib/report.ts";
import { rotated } from "../lib/rounds.ts";
import { pairedRatio, spreadOf } from "../lib/stats.ts";
import { type ContestantId, contestantNames } from "../server/contestants.ts";
import type { LoadOrder, LoadReport, Protocol } from "../server/load.ts";
import type { ServerMessage } from "../server/serve.ts";

const folder = join(import.meta.dirname, "../server");
const protocols = {
  json: "Connect JSON, HTTP/1.1",
  binary: "Connect binary, HTTP/1.1",
  grpc: "gRPC, HTTP/2",
} as const;
const inFlight = 16;
const ids = Object.keys(contestantNames) as ContestantId[];

interface RunningServer {
  readonly id: ContestantId;
  readonly process: ChildProcess;
  readonly ready: { readonly http1: number; readonly http2: number };
  readonly bearers: readonly string[];
  readonly cookie: string | undefined;
}

/** The results of one contestant over one protocol, one value per round. */
interface Measured {
  /** Microseconds per request. */
  readonly cpu: number[];
  readonly perSecond: number[];
  readonly p50: number[];
  readonly p99: number[];
  /** The share of the time in which the server's main thread was busy, at most about 1. */
  readonly busy: number[];
}

/** Measures what a session costs a server: the CPU time of its process; the load comes from another. */
export async function serverSection(options: BenchOptions): Promise<Findings> {
  const notes: string[] = [];
  const servers: RunningServer[] = [];
  for (const id of ids) {
    const server = await startServer(id);
    if ("missing" in server) {
      notes.push(`${contestantNames[id]}: not measured: ${server.missing}`);
    } else {
      servers.push(server);
    }
  }
  const load = fork(join(folder, "load.ts"), { execArgv: [] });
  try {
    const cookie = servers.find(({ cookie: made }) => made !== undefined)?.cookie ?? "none=none";
    const measure = measureWith(load, cookie);
    const found = new Map<Protocol, Map<ContestantId, Measured>>();
    for (const protocol of Object.keys(protocols) as Protocol[]) {
      found.set(protocol, await measureAll(servers, protocol, { ...options, measure }));
    }
    return {
      tables: [...found].map(([protocol, measured]) => tableOf(protocol, measured)),
      headline: headlineOf(found),
      notes: [...notes, bottleneck(found)],
    };
  } finally {
    load.kill();
    for (const server of servers) {
      server.process.kill();
    }
  }
}

/** Puts one server, started with Node.js flags of its own, under load and ends it. */
export async function loadUntilDone(run: {
  readonly id: ContestantId;
  readonly protocol: Protocol;
  readonly requests: number;
  readonly flags: readonly string[];
}): Promise<void> {
  const server = await startServer(run.id, run.flags);
  if ("missing" in server) {
    throw new Error(server.missing);
  }
  const load = fork(join(folder, "load.ts"), { execArgv: [] });
  try {
    await measureWith(load, server.cookie ?? "none=none")(server, run.protocol, run.requests);
  } finally {
    load.kill();
    server.process.send("end");
    await once(server.process, "exit");
  }
}

async function startServer(
  id: ContestantId,
  flags: readonly string[] = [],
): Promise<RunningServer | { missing: string }> {
  const child = fork(join(folder, "serve.ts"), [id], {
    execArgv: ["--conditions=@rpc-session/source", ...flags],
    stdio: ["ignore", "inherit", "inherit", "ipc"],
  });
  const [message] = (await once(child, "message")) as [ServerMessage];
  if ("ready" in message) {
    return { id, process: child, ...message };
  }
  return { missing: "missing" in message ? message.missing : "the server did not start" };
}

type Measure = (
  server: RunningServer,
  protocol: Protocol,
  requests: number,
) => Promise<{ readonly report: LoadReport; readonly cpu: number }>;

function measureWith(load: ChildProcess, cookie: string): Measure {
  return async ({ process: server, ready, bearers }, protocol, requests) => {
    const cpu = async (): Promise<number> => {
      server.send("cpu?");
      const [message] = (await once(server, "message")) as [{ readonly cpu: number }];
      return message.cpu;
    };
    const port = protocol === "grpc" ? ready.http2 : ready.http1;
    const order: LoadOrder = { protocol, port, requests, inFlight, bearers, cookie };
    const before = await cpu();
    load.send(order);
    const [report] = (await once(load, "message")) as [LoadReport | { readonly failed: string }];
    if ("failed" in report) {
      throw new Error(report.failed);
    }
    return { report, cpu: (await cpu()) - before };
  };
}

async function measureAll(
  servers: readonly RunningServer[],
  protocol: Protocol,
  { quick, fewRounds, measure }: BenchOptions & { readonly measure: Measure },
): Promise<Map<ContestantId, Measured>> {
  const requests = quick ? 1_500 : 3_000;
  const found = new Map<ContestantId, Measured>();
  for (const { id } of servers) {
    found.set(id, { cpu: [], perSecond: [], p50: [], p99: [], busy: [] });
  }
  for (let round = -1; round < fewRounds; round++) {
    for (const server of rotated(servers, round)) {
      const { report, cpu } = await measure(server, protocol, requests);
      const measured = found.get(server.id);
      // The first round warms up the compiler.
      if (round >= 0 && measured !== undefined) {
        measured.cpu.push(cpu / requests);
        measured.perSecond.push(requests / report.seconds);
        measured.p50.push(report.p50);
        measured.p99.push(report.p99);
        measured.busy.push(cpu / 1e6 / report.seconds);
      }
    }
  }
  return found;
}

function tableOf(protocol: Protocol, found: ReadonlyMap<ContestantId, Measured>): Table {
  const bare = found.get("bare");
  const row = (id: ContestantId): readonly Cell[] => {
    const measured = found.get(id);
    return measured === undefined
      ? [null, null, null, null, null]
      : [
          spreadOf(measured.cpu),
          pairedRatio(measured.cpu, bare?.cpu),
          spreadOf(measured.perSecond).median,
          spreadOf(measured.p50).median,
          spreadOf(measured.p99).median,
        ];
  };
  return {
    title: protocols[protocol],
    columns: ["µs CPU per request", "× no auth", "requests/s", "p50 ms", "p99 ms"],
    rows: ids.map((id) => ({ name: contestantNames[id], cells: row(id) })),
  };
}

type Found = ReadonlyMap<Protocol, ReadonlyMap<ContestantId, Measured>>;

function headlineOf(found: Found): Partial<Headline> {
  const times = (protocol: Protocol, id: ContestantId, to: ContestantId): number | null => {
    const measured = found.get(protocol);
    return pairedRatio(measured?.get(id)?.cpu, measured?.get(to)?.cpu);
  };
  const added = (protocol: Protocol, id: ContestantId): number | null => {
    const ratio = times(protocol, id, "bare");
    return ratio === null ? null : ratio - 1;
  };
  return {
    cpu_added_http1: added("binary", "feed"),
    cpu_added_http1_json: added("json", "feed"),
    cpu_added_grpc: added("grpc", "feed"),
    cpu_added_strict_http1: added("binary", "strict"),
    cpu_vs_jose_http1: times("binary", "jose", "feed"),
    cpu_vs_jose_grpc: times("grpc", "jose", "feed"),
  };
}

function bottleneck(found: Found): string {
  const parts = [...found].map(([protocol, measured]) => {
    const busy = spreadOf([...measured.values()].flatMap((one) => one.busy)).median;
    return `${protocols[protocol]} ${Math.round(busy * 100)} %`;
  });
  return `${inFlight} requests in flight. The servers used this share of one core: ${parts.join(", ")}. Near 100 % the server limits requests/s; below that the load generator does, so read the CPU time per request instead.`;
}
