import {
  ConnectError,
  type Interceptor,
  type StreamRequest,
  type StreamResponse,
  type UnaryRequest,
  type UnaryResponse,
} from "@connectrpc/connect";
import { SessionService } from "../../../gen/rpcsession/v1/service_pb.ts";
import { SessionError } from "../../base/errors.ts";
import type { VerifyingCore } from "../core.ts";
import { assertAllowed, checkedMessages } from "../policy/messages.ts";
import { type Policies, procedureOf } from "../policy/policy.ts";
import { markAsAnswer, relayFailure, withoutForeignHints } from "../response/errors.ts";
import { checkWrittenTokens, takeBackTokens } from "../response/tokens.ts";
import type { OpenStreams } from "../streams/open.ts";
import { runStream } from "../streams/run.ts";
import { type Call, type CallKey, callOfRequest } from "./call.ts";
import { admit } from "./gate.ts";
import { gateMissing } from "./gates-run.ts";

interface InterceptorParts {
  readonly policies: Policies;
  readonly streams: OpenStreams;
  /**
   * Whether a call whose gate has not run is refused: the adapter may use an older copy of Connect than
   * this package, which ignores gates.
   */
  readonly behindGate: boolean;
}

/**
 * Creates the interceptor of an instance. After the gate, it adds session details to errors,
 * completes the response headers, and ends open streams with their sessions.
 *
 * Without the gate it authenticates as well, within the limits of an interceptor. Bodies are read
 * before it runs, and it cannot clear cookies on failed streams and on failed gRPC and gRPC-Web calls.
 */
export function createInterceptor(
  core: VerifyingCore,
  key: CallKey,
  { policies, streams, behindGate }: InterceptorParts,
): Interceptor {
  return (next) => async (request) => {
    // 1. The call: the gate has opened it, or it is opened now.
    const call = callOfRequest(core, key, request);
    call.unchecked = false;

    // 2. Without a gate, the policy is applied here.
    if (!call.admitted) {
      if (behindGate) {
        throw gateMissing(request);
      }
      await admitAlone(core, call, { request, policies });
    }

    const handled = (under: UnaryRequest | StreamRequest) => {
      const { telemetry } = core;
      if (telemetry === undefined) {
        return next(under);
      }
      const { method, header: headers, stream: isStream } = request;
      const observed = { procedure: procedureOf(method), headers, isStream };
      return telemetry.handle(observed, () => next(under));
    };

    // 3. A stream ends with its session.
    if (request.stream) {
      const policy = policies.of(request.method);
      const send = async (under: StreamRequest) => {
        const checked = await checkedMessages(core, call, under, policy);
        const response = (await handled(checked.request)) as StreamResponse;
        return completed(call, checked.answering(response));
      };
      const failed = (error: unknown): unknown => ownError(core, call, { error, request });
      return runStream({ core, streams, call }, { request, policy, send, failed });
    }

    // 4. A unary call. Interceptors of the application may print messages, so a refresh token leaves
    // its message before they run.
    try {
      const deciding = assertAllowed(core, call, policies.of(request.method), request);
      if (deciding !== undefined) {
        await deciding;
      }
      return completed(call, await handled(takeMessageToken(call, request)));
    } catch (error) {
      throw ownError(core, call, { error, request });
    } finally {
      checkWrittenTokens(core, call);
      // Work that the handler left running must not rely on reaching the client any more.
      call.commit();
      core.operations.end(call);
    }
  };
}

type Request = UnaryRequest | StreamRequest;

/** Moves the refresh token of a message of SessionService to its call. Other requests stay as they are. */
function takeMessageToken(call: Call, request: UnaryRequest): UnaryRequest {
  if (request.method.parent.typeName !== SessionService.typeName) {
    return request;
  }
  const message: typeof request.message & { readonly refreshToken?: string } = request.message;
  if (message.refreshToken === undefined || message.refreshToken === "") {
    return request;
  }
  call.messageToken = message.refreshToken;
  return { ...request, message: Object.assign({ ...message }, { refreshToken: "" }) };
}

async function admitAlone(
  core: VerifyingCore,
  call: Call,
  { request, policies }: { readonly request: Request; readonly policies: Policies },
): Promise<void> {
  try {
    await admit(core, call, { method: request.method, signal: request.signal, policies });
  } catch (error) {
    if (error instanceof ConnectError && isConnectUnary(request)) {
      // Only for these calls does error metadata become response headers.
      appendHeaders(error.metadata, call.responseHeader);
    }
    throw error;
  }
}

function isConnectUnary(request: Request): boolean {
  const type = request.header.get("content-type") ?? "";
  return !request.stream && !type.startsWith("application/grpc");
}

/** Adds collected headers to a response, unless the handler's context already has them. */
function completed<R extends UnaryResponse | StreamResponse>(call: Call, response: R): R {
  if (call.isBuffered) {
    call.attachResponse(response.header);
  }
  return response;
}

/** Copies headers. Each Set-Cookie value stays separate. */
function appendHeaders(to: Headers, from: Headers): void {
  from.forEach((value, name) => {
    to.append(name, value);
  });
}

/**
 * Returns the error to send: adds the details to our own errors, and removes those of another service
 * from its errors. Takes back tokens that a failed call must not deliver.
 */
function ownError(
  core: VerifyingCore,
  call: Call,
  { error, request }: { readonly error: unknown; readonly request: Pick<Request, "method"> },
): unknown {
  takeBackTokens(core, call, true);
  if (error instanceof SessionError) {
    return relayFailure(core, call, { error, procedure: procedureOf(request.method) });
  }
  return request.method.parent.typeName === SessionService.typeName
    ? markAsAnswer(withoutForeignHints(error))
    : withoutForeignHints(error);
}
