import {
  ConnectError,
  type Interceptor,
  type StreamRequest,
  type StreamResponse,
  type UnaryRequest,
  type UnaryResponse,
} from "@connectrpc/connect";
import { SessionError } from "../../base/errors.ts";
import type { VerifyingCore } from "../core.ts";
import { type Policies, procedureOf } from "../policy/policy.ts";
import { withoutForeignHints } from "../response/errors.ts";
import { keepTokensUncached } from "../response/tokens.ts";
import { OpenStreams } from "../streams/open.ts";
import { runStream } from "../streams/run.ts";
import { type Call, type CallKey, knownCall, openBufferedCall } from "./call.ts";
import { admit } from "./gate.ts";
import { relayFailure } from "./refusal.ts";

/**
 * The interceptor of this instance. Behind the gate it keeps errors and headers in order, and ends
 * open streams with their sessions; alone it authenticates too, with what an interceptor can:
 * cookies are not cleared on failed streams, gRPC and gRPC-Web calls, and bodies were read before.
 */
export function createInterceptor(
  core: VerifyingCore,
  key: CallKey,
  policies: Policies,
): Interceptor {
  const streams = new OpenStreams(core);
  return (next) => async (request) => {
    // Other interceptors may have replaced the headers or the signal of a request, not both.
    const isSame = (call: Call): boolean =>
      call.requestHeader === request.header || call.signal === request.signal;
    const known = knownCall(request.contextValues, key, isSame);
    const { header: requestHeader, requestMethod, signal } = request;
    const call = known ?? openBufferedCall(core, { requestHeader, requestMethod, signal });
    if (!call.admitted) {
      request.contextValues.set(key, call);
      await admitAlone(core, call, { request, policies });
    }
    if (request.stream) {
      const policy = policies.of(request.method);
      const send = async (under: StreamRequest) =>
        answered(call, (await next(under)) as StreamResponse);
      const failed = (error: unknown): unknown => ownError(core, call, { error, request });
      return runStream({ core, streams, call }, { request, policy, send, failed });
    }
    try {
      return answered(call, await next(request));
    } catch (error) {
      throw ownError(core, call, { error, request });
    } finally {
      // Streams are no GET, and no cache keeps those.
      keepTokensUncached(call.responseHeader);
      // What the handler left running must not believe that it still tells the client anything.
      call.committed = true;
    }
  };
}

type Request = UnaryRequest | StreamRequest;

async function admitAlone(
  core: VerifyingCore,
  call: Call,
  { request, policies }: { readonly request: Request; readonly policies: Policies },
): Promise<void> {
  try {
    await admit(core, call, { method: request.method, signal: request.signal, policies });
  } catch (error) {
    if (error instanceof ConnectError && isConnectUnary(request)) {
      // The only kind of call whose error metadata becomes response headers.
      appendHeaders(error.metadata, call.responseHeader);
    }
    throw error;
  }
}

function isConnectUnary(request: Request): boolean {
  const type = request.header.get("content-type") ?? "";
  return !request.stream && !type.startsWith("application/grpc");
}

/** A response, with what was written before there was one, where the handler did not ask for it. */
function answered<R extends UnaryResponse | StreamResponse>(call: Call, response: R): R {
  if (call.isBuffered) {
    call.attachResponse(response.header);
  }
  return response;
}

/** Several Set-Cookie stay several. */
function appendHeaders(to: Headers, from: Headers): void {
  from.forEach((value, name) => {
    to.append(name, value);
  });
}

/** Errors of a handler: ours get their details, another service's lose theirs. */
function ownError(
  core: VerifyingCore,
  call: Call,
  { error, request }: { readonly error: unknown; readonly request: Pick<Request, "method"> },
): unknown {
  return error instanceof SessionError
    ? relayFailure(core, call, { error, procedure: procedureOf(request.method) })
    : withoutForeignHints(error);
}
