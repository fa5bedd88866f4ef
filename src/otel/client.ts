import {
  createContextKey,
  type Interceptor,
  type StreamRequest,
  type Transport,
  type UnaryRequest,
} from "@connectrpc/connect";
import {
  context,
  type Histogram,
  metrics,
  SpanKind,
  SpanStatusCode,
  type Tracer,
  trace,
} from "@opentelemetry/api";
import { SessionService } from "../../gen/rpcsession/v1/service_pb.ts";
import type { SessionClientEventListener, TransportParts } from "../client/index.ts";
import {
  callAttributes,
  callBuckets,
  errorType,
  isFault,
  type OpenTelemetryOptions,
  operationBuckets,
  readTelemetryOptions,
  secondsSince,
  writeContext,
} from "./attributes.ts";

/** The telemetry of a client: wrap its transport, and pass its listener. */
export interface ClientTelemetry {
  /**
   * Wraps the option `transport` of `createSessionClient`. Shows refreshes and repeated calls as spans in
   * the trace of the call that caused them, and sends the trace with each request (W3C Trace Context).
   */
  transport(create: (parts: TransportParts) => Transport): (parts: TransportParts) => Transport;
  /** Counts the events of the client. */
  readonly onEvent: SessionClientEventListener;
}

/**
 * Creates the telemetry of a client. Spans and metrics go to the providers that your application has
 * registered with OpenTelemetry.
 *
 * @example
 * const telemetry = openTelemetryClient();
 * const session = createSessionClient({
 *   transport: telemetry.transport((parts) => createConnectTransport({ baseUrl, ...parts })),
 *   onEvent: telemetry.onEvent,
 * });
 * @throws TypeError for an unknown option, or a value of the wrong type
 */
export function openTelemetryClient(
  options: Omit<OpenTelemetryOptions, "userIds"> = {},
): ClientTelemetry {
  const { calls } = readTelemetryOptions("openTelemetryClient", options);
  const tracer = (options.tracerProvider ?? trace.getTracerProvider()).getTracer(scope);
  const meter = (options.meterProvider ?? metrics.getMeterProvider()).getMeter(scope);
  const seconds = (name: string, description: string, buckets: number[]): Histogram =>
    meter.createHistogram(name, {
      ...{ description, unit: "s", advice: { explicitBucketBoundaries: buckets } },
    });
  const duration = calls
    ? seconds(
        "rpc.client.call.duration",
        "Duration of unary calls, with their refresh",
        callBuckets,
      )
    : undefined;
  const operations = seconds(
    ...([
      "rpcsession.client.operation.duration",
      "Duration of refreshes and repeated calls",
    ] as const),
    operationBuckets,
  );
  const events = meter.createCounter("rpcsession.client.events", {
    description: "Events of a client's session by type",
  });
  const outer = wholeCall(duration);
  const inner = eachSend(tracer, operations);
  return {
    transport: (create) => (parts) =>
      create({
        ...parts,
        // Read by the factory, so that the client notices one that ignores its parts.
        get interceptors() {
          return [outer, ...parts.interceptors, inner];
        },
      }),
    onEvent(event) {
      events.add(1, {
        "rpcsession.event": event.type,
        ...("by" in event && { "rpcsession.ended_by": event.by }),
        ...("why" in event && { "rpcsession.reason": event.why }),
      });
    },
  };
}

const scope = "rpc-session/client";

/** How often a call was sent. */
interface Sends {
  count: number;
}

const sendsKey = createContextKey<Sends | undefined>(undefined, {
  description: "rpc-session sends of a call",
});

/** Outside the session's interceptor: sees each call once, however often it is sent. */
function wholeCall(duration: Histogram | undefined): Interceptor {
  return (next) => async (request) => {
    request.contextValues.set(sendsKey, { count: 0 });
    if (duration === undefined || request.stream) {
      return next(request);
    }
    const call = { procedure: procedureOf(request), headers: request.header };
    const began = performance.now();
    try {
      const response = await next(request);
      duration.record(secondsSince(began), callAttributes(call, undefined));
      return response;
    } catch (error) {
      duration.record(secondsSince(began), callAttributes(call, error));
      throw error;
    }
  };
}

/** Inside the session's interceptor: sees each time that a call is sent, and the refreshes. */
function eachSend(tracer: Tracer, operations: Histogram): Interceptor {
  return (next) => async (request) => {
    const sends = request.contextValues.get(sendsKey);
    if (sends !== undefined) {
      sends.count += 1;
    }
    const operation = isRefresh(request)
      ? "refresh"
      : (sends?.count ?? 0) > 1
        ? "retry"
        : undefined;
    if (operation === undefined) {
      writeContext(request.header);
      return next(request);
    }
    const began = performance.now();
    const span = tracer.startSpan(`rpcsession.${operation}`, {
      kind: SpanKind.CLIENT,
      attributes: { "rpc.method": procedureOf(request) },
    });
    const attributes = { "rpcsession.operation": operation };
    try {
      const response = await context.with(trace.setSpan(context.active(), span), () => {
        writeContext(request.header);
        return next(request);
      });
      operations.record(secondsSince(began), attributes);
      return response;
    } catch (error) {
      const failed = { "error.type": errorType(error) };
      operations.record(secondsSince(began), { ...attributes, ...failed });
      span.setAttributes(failed);
      if (isFault(error)) {
        span.setStatus({ code: SpanStatusCode.ERROR });
      }
      throw error;
    } finally {
      span.end();
    }
  };
}

type Request = UnaryRequest | StreamRequest;

function procedureOf({ method }: Pick<Request, "method">): string {
  return `${method.parent.typeName}/${method.name}`;
}

function isRefresh({ method }: Pick<Request, "method">): boolean {
  return method.parent.typeName === SessionService.typeName && method.name === "Refresh";
}
