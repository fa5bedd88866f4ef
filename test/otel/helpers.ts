import { context, propagation, type TextMapPropagator, trace } from "@opentelemetry/api";
import { AsyncLocalStorageContextManager } from "@opentelemetry/context-async-hooks";
import {
  type DataPoint,
  type Histogram,
  InMemoryMetricExporter,
  MeterProvider,
  PeriodicExportingMetricReader,
} from "@opentelemetry/sdk-metrics";
import {
  BasicTracerProvider,
  InMemorySpanExporter,
  type ReadableSpan,
  SimpleSpanProcessor,
} from "@opentelemetry/sdk-trace-base";

/** W3C Trace Context, as the SDK's propagator writes and reads it. */
const w3c: TextMapPropagator = {
  fields: () => ["traceparent"],
  inject(from, carrier, setter) {
    const span = trace.getSpanContext(from);
    if (span !== undefined) {
      setter.set(carrier, "traceparent", `00-${span.traceId}-${span.spanId}-01`);
    }
  },
  extract(into, carrier, getter) {
    const text = String(getter.get(carrier, "traceparent") ?? "");
    const [, traceId = "", spanId = ""] = /^00-([\da-f]{32})-([\da-f]{16})-01$/.exec(text) ?? [];
    return traceId === ""
      ? into
      : trace.setSpanContext(into, { traceId, spanId, traceFlags: 1, isRemote: true });
  },
};

/** A point of a metric: its attributes and its value, or the number of values of a histogram. */
export interface Point {
  readonly attributes: Readonly<Record<string, unknown>>;
  readonly value: number;
}

/** The SDK with its exporters in memory. */
export class Telemetry {
  readonly #spans = new InMemorySpanExporter();
  readonly #metrics = new InMemoryMetricExporter(1);
  readonly #reader = new PeriodicExportingMetricReader({
    exporter: this.#metrics,
    exportIntervalMillis: 86_400_000,
  });
  readonly meterProvider: MeterProvider = new MeterProvider({ readers: [this.#reader] });
  readonly tracerProvider: BasicTracerProvider = new BasicTracerProvider({
    spanProcessors: [new SimpleSpanProcessor(this.#spans)],
  });

  /** The options of the telemetry that is tested. */
  get providers(): { meterProvider: MeterProvider; tracerProvider: BasicTracerProvider } {
    return { meterProvider: this.meterProvider, tracerProvider: this.tracerProvider };
  }

  /** All spans of a name that have ended. */
  spans(name?: string): readonly ReadableSpan[] {
    return this.#spans
      .getFinishedSpans()
      .filter((span) => name === undefined || span.name === name);
  }

  /** Everything that was recorded, as text. */
  async text(): Promise<string> {
    await this.#reader.forceFlush();
    const spans = this.spans().map(({ name, attributes, events, status }) => {
      return { name, attributes, events, status };
    });
    return JSON.stringify([spans, this.#metrics.getMetrics().map((one) => one.scopeMetrics)]);
  }

  /** The newest points of a metric. */
  async points(name: string): Promise<readonly Point[]> {
    this.#metrics.reset();
    await this.#reader.forceFlush();
    return this.#metrics
      .getMetrics()
      .flatMap(({ scopeMetrics }) => scopeMetrics)
      .flatMap((scope) => scope.metrics)
      .filter(({ descriptor }) => descriptor.name === name)
      .flatMap(({ dataPoints }) => dataPoints as DataPoint<number | Histogram>[])
      .map(({ attributes, value }) => ({
        attributes,
        value: typeof value === "number" ? value : value.count,
      }));
  }

  /** The sum of the points of a metric that have these attributes. */
  async sum(name: string, attributes: Point["attributes"] = {}): Promise<number> {
    return (await this.points(name))
      .filter((point) =>
        Object.entries(attributes).every(([key, value]) => point.attributes[key] === value),
      )
      .reduce((total, { value }) => total + value, 0);
  }

  /** Runs work in a span of the application, the caller. */
  async inSpan<T>(name: string, work: () => Promise<T>): Promise<{ result: T; traceId: string }> {
    return this.tracerProvider.getTracer("test").startActiveSpan(name, async (span) => {
      try {
        return { result: await work(), traceId: span.spanContext().traceId };
      } finally {
        span.end();
      }
    });
  }
}

/** Makes asynchronous work keep its trace in this process, and requests carry it. */
export function useContexts(): void {
  context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable());
  propagation.setGlobalPropagator(w3c);
}
