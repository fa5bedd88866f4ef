import {
  type Attributes,
  type Context,
  type Counter,
  context,
  type Histogram,
  type Meter,
  metrics,
  ROOT_CONTEXT,
  type Span,
  SpanStatusCode,
  type Tracer,
  trace,
} from "@opentelemetry/api";
import type { SessionEvent } from "../base/events.ts";
import { isPromise } from "../base/promises.ts";
import type {
  ObservedCall,
  ObservedOperation,
  Operation,
  OperationFacts,
  SessionTelemetry,
  TelemetryReadings,
} from "../base/telemetry.ts";
import {
  callAttributes,
  callBuckets,
  contextOf,
  errorType,
  isFault,
  type OpenTelemetryOptions,
  operationBuckets,
  readTelemetryOptions,
  secondsSince,
  sessionHash,
} from "./attributes.ts";

/**
 * Creates the telemetry of a server for the option `telemetry` of `createSessions` and `verifySessions`.
 * Spans and metrics go to the providers that your application has registered with OpenTelemetry.
 *
 * @example
 * const sessions = createSessions({ issuer, store, secret, telemetry: openTelemetry() });
 * @throws TypeError for an unknown option, or a value of the wrong type
 */
export function openTelemetry(options: OpenTelemetryOptions = {}): SessionTelemetry {
  return new ServerTelemetry(options);
}

const spanNames: Readonly<Record<ObservedOperation, string>> = {
  verify: "rpcsession.verify",
  refresh: "rpcsession.refresh",
  signIn: "rpcsession.sign_in",
  adopt: "rpcsession.adopt",
  fork: "rpcsession.fork",
  reauthenticate: "rpcsession.reauthenticate",
  revoke: "rpcsession.revoke",
  feedRead: "rpcsession.feed.read",
  keyRotation: "rpcsession.key.rotation",
  sourceFetch: "rpcsession.source.fetch",
};

/** How an operation has ended. */
interface Outcome {
  readonly error?: unknown;
  readonly facts: OperationFacts | undefined;
}

class ServerTelemetry implements SessionTelemetry {
  readonly #tracer: Tracer;
  readonly #userIds: boolean;
  readonly #calls: Histogram | undefined;
  readonly #operations: Histogram;
  readonly #storeOperations: Histogram;
  readonly #delays: Histogram;
  readonly #counters: EventCounters;
  readonly #instances = new Instances();

  constructor(options: OpenTelemetryOptions) {
    const { userIds, calls } = readTelemetryOptions("openTelemetry", options);
    this.#tracer = (options.tracerProvider ?? trace.getTracerProvider()).getTracer("rpc-session");
    const meter = (options.meterProvider ?? metrics.getMeterProvider()).getMeter("rpc-session");
    this.#userIds = userIds;
    const seconds = (name: string, description: string, buckets: number[]): Histogram =>
      meter.createHistogram(name, {
        ...{ description, unit: "s", advice: { explicitBucketBoundaries: buckets } },
      });
    this.#calls = calls
      ? seconds("rpc.server.call.duration", "Duration of unary calls", callBuckets)
      : undefined;
    this.#operations = seconds(
      ...(["rpcsession.operation.duration", "Duration of operations on sessions"] as const),
      operationBuckets,
    );
    this.#storeOperations = seconds(
      ...(["rpcsession.store.operation.duration", "Duration of operations of the store"] as const),
      operationBuckets,
    );
    this.#delays = seconds(
      ...([
        "rpcsession.revocation.delay",
        "From the end of a session until it is known here",
      ] as const),
      operationBuckets,
    );
    this.#counters = new EventCounters(meter);
    observeReadings(meter, this.#instances);
  }

  async run<T>(operation: Operation<T>, work: () => Promise<T>): Promise<T> {
    const { name, took, facts, inBackground, headers } = operation;
    const began = performance.now();

    // 1. The trace: that of the caller; none for work that no caller asks for, which may have been
    // scheduled in the course of any call. An operation that may not be worth a span gets it at the end.
    const active = context.active();
    const parent = inBackground ? ROOT_CONTEXT : contextOf(headers, active);
    const span = took ? undefined : this.#start(name, parent);
    const inside = span === undefined ? parent : trace.setSpan(parent, span);

    // 2. The work, its duration, and the end of its span.
    try {
      const result = await (inside === active ? work() : context.with(inside, work));
      if (took === undefined || took(result)) {
        this.#ended(operation, { began, span }, { facts: facts?.(result) });
      }
      return result;
    } catch (error) {
      if (took === undefined || took(undefined)) {
        this.#ended(operation, { began, span }, { error, facts: facts?.(undefined) });
      }
      throw error;
    }
  }

  #start(name: ObservedOperation, parent: Context, startTime?: number): Span {
    return this.#tracer.startSpan(
      spanNames[name],
      startTime === undefined ? {} : { startTime },
      parent,
    );
  }

  /** Records the duration, and ends the span. */
  #ended(
    { name, headers, inBackground }: Pick<Operation, "name" | "headers" | "inBackground">,
    { began, span }: { readonly began: number; readonly span: Span | undefined },
    { error, facts }: Outcome,
  ): void {
    const failed: Attributes = error === undefined ? {} : { "error.type": errorType(error) };
    for (const delay of facts?.delays ?? []) {
      this.#delays.record(delay / 1000);
    }
    const source = facts?.source === undefined ? {} : { "rpcsession.source": facts.source };
    const attributes = { "rpcsession.operation": name, ...source, ...failed };
    this.#operations.record(secondsSince(began), attributes);
    // A span that is only known to be of use at the end begins in the past.
    const parent = inBackground ? ROOT_CONTEXT : contextOf(headers);
    const shown = span ?? this.#start(name, parent, performance.timeOrigin + began);
    shown.setAttributes({ ...source, ...failed });
    if (error !== undefined && isFault(error)) {
      shown.setStatus({ code: SpanStatusCode.ERROR });
    }
    this.#endWith(shown, facts ?? {});
  }

  #endWith(span: Span, { procedure, sessionId, userId, count }: OperationFacts): void {
    if (!span.isRecording()) {
      span.end();
      return;
    }
    if (procedure !== undefined) {
      span.setAttribute("rpc.method", procedure);
    }
    if (count !== undefined) {
      span.setAttribute("rpcsession.count", count);
    }
    if (this.#userIds && userId !== undefined) {
      span.setAttribute("user.id", userId);
    }
    const hash = sessionId === undefined ? undefined : sessionHash(sessionId);
    if (isPromise(hash)) {
      const endTime = Date.now();
      const named = hash.then((text) => span.setAttribute("rpcsession.session.hash", text));
      // The span ends even if this runtime cannot compute the name.
      void named.catch(() => {}).then(() => span.end(endTime));
      return;
    }
    if (hash !== undefined) {
      span.setAttribute("rpcsession.session.hash", hash);
    }
    span.end();
  }

  /** Measures an operation of the store. Its span is that of the driver's own instrumentation. */
  async store<T>(operation: string, work: () => Promise<T>): Promise<T> {
    const began = performance.now();
    const attributes = { "rpcsession.store.operation": operation };
    try {
      const result = await work();
      this.#storeOperations.record(secondsSince(began), attributes);
      return result;
    } catch (error) {
      const failed = { ...attributes, "error.type": errorType(error) };
      this.#storeOperations.record(secondsSince(began), failed);
      throw error;
    }
  }

  async handle<T>(call: ObservedCall, work: () => Promise<T>): Promise<T> {
    const active = context.active();
    const inside = contextOf(call.headers, active);
    const run = (): Promise<T> => (inside === active ? work() : context.with(inside, work));
    const calls = this.#calls;
    if (calls === undefined || call.isStream) {
      return run();
    }
    const began = performance.now();
    try {
      const result = await run();
      calls.record(secondsSince(began), callAttributes(call, undefined));
      return result;
    } catch (error) {
      calls.record(secondsSince(began), callAttributes(call, error));
      throw error;
    }
  }

  event(event: SessionEvent): void {
    this.#counters.count(event);
  }

  start(read: () => TelemetryReadings): () => void {
    return this.#instances.add(read);
  }
}

/** Counts events. Every attribute has a closed set of values. */
class EventCounters {
  readonly #events: Counter;
  readonly #refusals: Counter;
  readonly #failures: Counter;
  readonly #thefts: Counter;
  readonly #ended: Counter;

  constructor(meter: Meter) {
    const counter = (name: string, description: string): Counter =>
      meter.createCounter(name, { description });
    this.#events = counter("rpcsession.events", "Events by type");
    this.#refusals = counter("rpcsession.refusals", "Refused calls by reason");
    this.#failures = counter("rpcsession.failures", "Calls that failed by an outage or a bug");
    this.#thefts = counter("rpcsession.thefts", "Refresh tokens that were reused");
    this.#ended = counter("rpcsession.sessions.ended", "Ended sessions by the reason of their end");
  }

  count(event: SessionEvent): void {
    this.#events.add(1, { "rpcsession.event": event.type });
    if (event.type === "refused") {
      const { reason, procedure } = event;
      this.#refusals.add(1, { "rpcsession.reason": reason, ...methodOf(procedure) });
    } else if (event.type === "failed") {
      const { error, procedure } = event;
      this.#failures.add(1, { "rpcsession.reason": error.reason, ...methodOf(procedure) });
    } else if (event.type === "theft") {
      this.#thefts.add(1);
      this.#ended.add(1, { "rpcsession.ended_by": "theft" });
    } else if (event.type === "revoked") {
      this.#ended.add(1, { "rpcsession.ended_by": event.endedBy });
    }
  }
}

/** The methods of a service are a closed set. */
function methodOf(procedure: string | undefined): Attributes {
  return procedure === undefined ? {} : { "rpc.method": procedure };
}

/** The open instances of this process, and what those that have closed had verified. */
class Instances {
  readonly #open = new Set<() => TelemetryReadings>();
  readonly #closed = { warm: 0, cold: 0 };

  /** Returns a function that removes the instance. */
  add(read: () => TelemetryReadings): () => void {
    this.#open.add(read);
    return () => {
      if (this.#open.delete(read)) {
        const { warm, cold } = read().verifications;
        this.#closed.warm += warm;
        this.#closed.cold += cold;
      }
    };
  }

  read(): readonly TelemetryReadings[] {
    return [...this.#open].map((read) => read());
  }

  /** A counter never goes down, so instances that have closed count as well. */
  verifications(path: "warm" | "cold"): number {
    return this.read().reduce(
      (total, { verifications }) => total + verifications[path],
      this.#closed[path],
    );
  }
}

const feedStates = ["fresh", "unsure", "stale", "draining", "closed"] as const;

/** Reports the state of all instances whenever metrics are collected. */
function observeReadings(meter: Meter, instances: Instances): void {
  const gauge = (name: string, description: string, unit: string) =>
    meter.createObservableGauge(name, { description, unit });
  const verifications = meter.createObservableCounter("rpcsession.verifications", {
    description: "Verified access tokens: by the cache (warm) or by their signature (cold)",
  });
  const cached = gauge("rpcsession.verified_cache.tokens", "Access tokens in the cache", "{token}");
  const streams = gauge(
    "rpcsession.streams.open",
    "Open streams that end with a session",
    "{stream}",
  );
  const age = gauge("rpcsession.feed.age", "Time since the change log was read", "s");
  const lag = gauge("rpcsession.feed.lag", "Time that the newest change took to arrive", "s");
  const changes = gauge("rpcsession.feed.changes", "Changes in memory", "{change}");
  const status = gauge(
    "rpcsession.feed.status",
    "1 for the present status of the change log",
    "{status}",
  );
  meter.addBatchObservableCallback(
    (result) => {
      const all = instances.read();
      const sum = (of: (one: TelemetryReadings) => number): number =>
        all.reduce((total, one) => total + of(one), 0);
      const path = "rpcsession.verification.path";
      result.observe(verifications, instances.verifications("warm"), { [path]: "warm" });
      result.observe(verifications, instances.verifications("cold"), { [path]: "cold" });
      result.observe(
        cached,
        sum((one) => one.cachedTokens),
      );
      result.observe(
        streams,
        sum((one) => one.streams),
      );
      const feeds = all.flatMap(({ feed }) => feed ?? []);
      if (feeds.length > 0) {
        // An infinite age has no number: the status says that the log was never read.
        const ages = feeds.map(({ staleness }) => staleness).filter(Number.isFinite);
        result.observe(age, Math.max(0, ...ages) / 1000);
        result.observe(lag, Math.max(...feeds.map((feed) => feed.lag)) / 1000);
        result.observe(
          changes,
          feeds.reduce((total, feed) => total + feed.changes, 0),
        );
      }
      const worst = feedStates.findLast((state) => feeds.some((feed) => feed.status === state));
      for (const state of feedStates) {
        const present = worst ?? "closed";
        result.observe(status, present === state ? 1 : 0, { "rpcsession.feed.status": state });
      }
    },
    [verifications, cached, streams, age, lag, changes, status],
  );
}
