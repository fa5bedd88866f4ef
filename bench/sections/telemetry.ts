import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { create } from "@bufbuild/protobuf";
import {
  createContextValues,
  createHandlerContext,
  type HandlerContext,
  type UnaryRequest,
  type UnaryResponse,
} from "@connectrpc/connect";
import { context, trace } from "@opentelemetry/api";
import { AsyncLocalStorageContextManager } from "@opentelemetry/context-async-hooks";
import {
  InMemoryMetricExporter,
  MeterProvider,
  PeriodicExportingMetricReader,
} from "@opentelemetry/sdk-metrics";
import {
  BasicTracerProvider,
  InMemorySpanExporter,
  SimpleSpanProcessor,
} from "@opentelemetry/sdk-trace-base";
import { ListNotesRequestSchema, NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { createSessions, type SessionTelemetry } from "../../src/index.ts";
import { openTelemetry } from "../../src/otel/index.ts";
import { memoryStore } from "../../src/stores/memory/index.ts";
import type { BenchOptions } from "../lib/options.ts";
import type { Findings } from "../lib/report.ts";
import { type Contestant, cpuRounds } from "../lib/rounds.ts";
import { spreadOf } from "../lib/stats.ts";
import { issuer } from "../lib/tokens.ts";

const ops = 5_000;

/** What telemetry adds to a warm call, with the SDK recording in a span of the caller. */
export async function telemetrySection(options: BenchOptions): Promise<Findings> {
  context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable());
  const tracerProvider = new BasicTracerProvider({
    spanProcessors: [new SimpleSpanProcessor(new InMemorySpanExporter())],
  });
  const meterProvider = new MeterProvider({
    readers: [
      new PeriodicExportingMetricReader({
        exporter: new InMemoryMetricExporter(1),
        exportIntervalMillis: 3_600_000,
      }),
    ],
  });
  const caller = trace.setSpan(
    context.active(),
    tracerProvider.getTracer("bench").startSpan("call"),
  );
  const names = {
    absent: "without telemetry",
    spans: "recording SDK, without rpc.server.call.duration",
    all: "recording SDK",
  } as const;
  const providers = { tracerProvider, meterProvider };
  const contestants = [
    await contestant(names.absent, undefined, caller),
    await contestant(names.spans, openTelemetry({ ...providers, calls: false }), caller),
    await contestant(names.all, openTelemetry(providers), caller),
  ];
  const found = await cpuRounds(contestants, options.rounds);
  const spread = (name: string) => spreadOf((found.get(name) ?? []).map((ns) => ns / 1000));
  const median = (name: string): number => spread(name).median;
  const absent = median(names.absent);
  return {
    tables: [
      {
        title: "telemetry of a warm call, µs CPU (quartiles)",
        columns: ["gate and interceptor", "added"],
        rows: Object.values(names).map((name) => ({
          name,
          cells: [spread(name), (median(name) - absent).toFixed(1)],
        })),
      },
    ],
    headline: {},
    notes: [],
  };
}

async function contestant(
  name: string,
  telemetry: SessionTelemetry | undefined,
  caller: ReturnType<typeof context.active>,
): Promise<Contestant> {
  const sessions = createSessions({
    ...{ issuer, store: memoryStore(), onEvent: () => {} },
    ...(telemetry && { telemetry }),
  });
  const { tokens } = await sessions.issue({ userId: "alice" });
  const answer = { stream: false, header: new Headers(), trailer: new Headers() };
  const handle = sessions.interceptor(async () => answer as unknown as UnaryResponse);
  setFlagsFromString("--expose-gc");
  const gc = runInNewContext("gc") as (options: { readonly type: "minor" }) => void;
  let contexts: HandlerContext[] = [];
  return {
    name,
    ops,
    prepare() {
      contexts = Array.from({ length: ops }, () => contextOf(tokens.accessToken));
      // Else some batches pay for moving all these contexts out of the young generation.
      gc({ type: "minor" });
    },
    batch: () =>
      context.with(caller, async () => {
        for (const one of contexts) {
          await sessions.requestGate(one);
          await handle(requestOf(one));
        }
      }),
  };
}

function contextOf(token: string): HandlerContext {
  return createHandlerContext({
    ...{ service: NotesService, method: NotesService.method.listNotes },
    ...{ protocolName: "connect", requestMethod: "POST" },
    url: `${issuer}/notes.v1.NotesService/ListNotes`,
    requestHeader: new Headers({ authorization: `Bearer ${token}` }),
    contextValues: createContextValues(),
  });
}

function requestOf(one: HandlerContext): UnaryRequest {
  return {
    ...{ stream: false, service: NotesService, method: NotesService.method.listNotes },
    ...{ requestMethod: one.requestMethod, url: one.url, signal: one.signal },
    header: one.requestHeader,
    contextValues: one.values,
    message: create(ListNotesRequestSchema),
  } as UnaryRequest;
}
