import { Code, ConnectError } from "@connectrpc/connect";
import {
  type Attributes,
  type Context,
  context,
  type MeterProvider,
  propagation,
  type TextMapGetter,
  type TracerProvider,
  trace,
} from "@opentelemetry/api";
import { assertMembers } from "../base/checks.ts";
import { sha256 } from "../base/crypto.ts";
import { SessionError } from "../base/errors.ts";

/** Options of `openTelemetry` and `openTelemetryClient`. */
export interface OpenTelemetryOptions {
  /** Default: the global one, which does nothing until your application registers its own. */
  readonly tracerProvider?: TracerProvider;
  /** Default: the global one, which does nothing until your application registers its own. */
  readonly meterProvider?: MeterProvider;
  /** Whether spans carry the id of the user, as `user.id`. Metrics never do. Default false. */
  readonly userIds?: boolean;
  /**
   * Whether the duration of each unary call is recorded, as `rpc.server.call.duration` on servers and
   * `rpc.client.call.duration` on clients. Turn it off if other instrumentation records it. Default true.
   */
  readonly calls?: boolean;
}

/** @throws TypeError for an unknown option, or a value of the wrong type */
export function readTelemetryOptions(
  method: string,
  options: OpenTelemetryOptions,
): { readonly userIds: boolean; readonly calls: boolean } {
  assertMembers(method, options, { tracerProvider: 0, meterProvider: 0, userIds: 0, calls: 0 });
  const { userIds = false, calls = true } = options;
  for (const [name, value] of Object.entries({ userIds, calls })) {
    if (typeof value !== "boolean") {
      throw new TypeError(`${method}: ${name} must be true or false, got ${typeof value}`);
    }
  }
  return { userIds, calls };
}

/** Seconds; the boundaries of the RPC semantic conventions. */
export const callBuckets: number[] = [
  ...[0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10],
];
/** Seconds; finer, because most operations of a store take less than 5 ms. */
export const operationBuckets: number[] = [
  ...[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10],
];

const headerGetter: TextMapGetter<Headers> = {
  keys: (headers) => [...headers.keys()],
  get: (headers, name) => headers.get(name) ?? undefined,
};

/**
 * The context in which a request runs: the active one or, where no other instrumentation has opened the
 * trace of the caller, that of the request headers (W3C Trace Context).
 */
export function contextOf(
  headers: Headers | undefined,
  active: Context = context.active(),
): Context {
  return headers === undefined || trace.getSpan(active) !== undefined
    ? active
    : propagation.extract(active, headers, headerGetter);
}

/** Writes the active trace into request headers, unless other instrumentation has done so. */
export function writeContext(headers: Headers): void {
  if (!headers.has("traceparent")) {
    propagation.inject(context.active(), headers, {
      set: (carrier, name, value) => carrier.set(name, value),
    });
  }
}

/**
 * Names a session in a span: one session has one name on all servers and clients, but the name does not
 * lead back to its id.
 */
export function sessionHash(sessionId: string): string | Promise<string> {
  const hash = sha256(`rpc-session telemetry ${sessionId}`);
  return typeof hash === "string" ? hash.slice(0, 16) : hash.then((text) => text.slice(0, 16));
}

/** The protocol of a call, as `rpc.system.name`. gRPC-Web is gRPC. */
function systemOf(headers: Headers): "grpc" | "connectrpc" {
  return headers.get("content-type")?.startsWith("application/grpc") ? "grpc" : "connectrpc";
}

/** The attributes of a call that the RPC semantic conventions name. */
export function callAttributes(
  { procedure, headers }: { readonly procedure: string; readonly headers: Headers },
  error: unknown,
): Attributes {
  const system = systemOf(headers);
  const attributes: Attributes = { "rpc.system.name": system, "rpc.method": procedure };
  if (error !== undefined) {
    const { code } = ConnectError.from(error, Code.Internal);
    const status = statusOf(system, code);
    attributes["rpc.response.status_code"] = status;
    attributes["error.type"] = status;
  } else if (system === "grpc") {
    attributes["rpc.response.status_code"] = "OK";
  }
  return attributes;
}

/** "PERMISSION_DENIED" in gRPC, "permission_denied" in Connect. */
function statusOf(system: "grpc" | "connectrpc", code: Code): string {
  const name = (Code[code] ?? "Unknown").replace(/(?<=[a-z])[A-Z]/g, (letter) => `_${letter}`);
  if (system === "connectrpc") {
    return name.toLowerCase();
  }
  return code === Code.Canceled ? "CANCELLED" : name.toUpperCase();
}

/** The kind of an error, from a closed set: its message may say more than telemetry should hold. */
export function errorType(error: unknown): string {
  if (error instanceof SessionError) {
    return error.reason;
  }
  if (error instanceof ConnectError) {
    return statusOf("connectrpc", error.code);
  }
  return error instanceof TypeError ? "TypeError" : "_OTHER";
}

/** Whether an error is an outage or a bug, and not an answer. */
export function isFault(error: unknown): boolean {
  if (error instanceof SessionError) {
    return error.kind === "unavailable" || error.kind === "general";
  }
  return !(error instanceof ConnectError) || faults.has(error.code);
}

const faults: ReadonlySet<Code> = new Set([
  ...[Code.Unknown, Code.DeadlineExceeded, Code.Internal, Code.Unavailable, Code.DataLoss],
]);

/** Seconds since a value of `performance.now()`. */
export function secondsSince(began: number): number {
  return (performance.now() - began) / 1000;
}
