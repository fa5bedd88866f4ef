import type { StreamRequest, StreamResponse } from "@connectrpc/connect";
import type { SessionError } from "../../base/errors.ts";
import { header } from "../../base/wire.ts";
import type { Call } from "../call/call.ts";
import type { VerifyingCore } from "../core.ts";
import { type MethodPolicy, procedureOf } from "../policy/policy.ts";
import { refuseCall } from "../response/errors.ts";
import { takeBackTokens } from "../response/tokens.ts";
import { Ending } from "./ending.ts";
import type { OpenStreams } from "./open.ts";
import type { StreamEnds, WatchedStream } from "./watched.ts";

/** The call of a stream, and the instance it belongs to. */
export interface StreamOwner {
  readonly core: VerifyingCore;
  readonly streams: OpenStreams;
  readonly call: Call;
}

/** A stream to run. */
export interface StreamToRun {
  readonly request: StreamRequest;
  readonly policy: Pick<MethodPolicy, "stream" | "check">;
  /** Passes the request to its handler. */
  readonly send: (request: StreamRequest) => Promise<StreamResponse>;
  /** Converts an error of the handler into the error that goes on the wire. */
  readonly failed: (error: unknown) => unknown;
}

/**
 * Runs a stream and ends it with its session, as its policy demands. Handlers blocked on their
 * signal, on the request stream or at a `yield` are released immediately; others may keep running
 * but cannot send further messages.
 */
export async function runStream(owner: StreamOwner, stream: StreamToRun): Promise<StreamResponse> {
  const { core, call } = owner;
  const { request, policy, send, failed } = stream;

  // 1. A server that stops ends the stream, unless only its handler or the client may.
  const ending = new Ending();
  const leaveDrained = drain(owner, stream, ending);

  // 2. Watch the session, if the policy ends the stream with it.
  const watched = await watch(owner, stream, ending).catch((error: unknown) => {
    leaveDrained();
    throw error;
  });
  if (watched !== undefined) {
    call.stream = watched;
  }

  // 3. Stop watching when the call is over: its signal aborts, its messages end, or it fails.
  const stopWatching = (): void => {
    watched?.close();
    leaveDrained();
    core.operations.end(call);
  };
  onAbort(request.signal, () => {
    stopWatching();
    ending.callEnded(request.signal.reason);
  });

  try {
    // 4. Give a watched handler a signal and requests that end with the session.
    const look = (): void => watched?.look();
    const endable: StreamRequest =
      policy.stream === "never"
        ? request
        : {
            ...request,
            signal: ending.signal,
            message: ending.wrap(request.message, { before: look }),
          };

    // 5. Call the handler. If it reads requests, it returns only when it is done, which may be never.
    const response = await ending.race(send(endable));

    // 6. Before each message: check that the session is alive. After the first one, the response
    // headers are sent.
    const sent = (): void => {
      takeBackTokens(core, call, false);
      call.commit();
      watched?.sent();
    };
    const over = (): void => {
      stopWatching();
      takeBackTokens(core, call, false);
    };
    const message = ending.wrap(response.message, {
      ...{ before: look, after: sent, failed, over, returnSource: true },
    });
    return { ...response, message };
  } catch (error) {
    stopWatching();
    throw ending.reason ?? failed(error);
  }
}

/** @returns undefined if the stream has no session or does not end with it */
async function watch(
  { core, streams, call }: StreamOwner,
  { request, policy }: StreamToRun,
  ending: Ending,
): Promise<WatchedStream | undefined> {
  const { session } = call;
  const isUnproven = session?.boundKey !== undefined && call.provenKey === undefined;
  const ends = endsOf(policy, isUnproven);
  if (session === undefined || ends === undefined || call.stream !== undefined) {
    return undefined;
  }
  const procedure = procedureOf(request.method);
  try {
    return await streams.watch(session, ends, (error) => {
      end(core, call, { error, procedure, ending });
    });
  } catch (error) {
    throw refuseCall(core, call, { error, procedure });
  }
}

/**
 * Lets the stream end when the server drains: its client opens it again elsewhere. Uploads cannot be
 * continued elsewhere, so they go on. With the policy "never", nothing waits for the stream.
 * @returns a function that takes it out again
 * @throws ConnectError `Unavailable` if the server drains already
 */
function drain(
  { core, streams, call }: StreamOwner,
  { request, policy }: StreamToRun,
  ending: Ending,
): () => void {
  if (policy.stream === "never") {
    core.operations.end(call);
    return () => {};
  }
  if (request.method.methodKind === "client_streaming") {
    return () => {};
  }
  const procedure = procedureOf(request.method);
  try {
    return streams.drained((error) => end(core, call, { error, procedure, ending }));
  } catch (error) {
    throw refuseCall(core, call, { error, procedure });
  }
}

/** Ends a stream from outside, with a hint that says what its client is to do. */
function end(
  core: VerifyingCore,
  call: Call,
  given: { readonly error: SessionError; readonly procedure: string; readonly ending: Ending },
): void {
  const { error, procedure, ending } = given;
  takeBackTokens(core, call, false);
  const refused = refuseCall(core, call, { error, procedure });
  const hint = call.responseHeader.get(header.hint);
  if (call.committed && hint !== null) {
    // The headers are sent, so the hint goes into the trailers.
    refused.metadata.set(header.hint, hint);
  }
  ending.end(refused);
}

/**
 * A method without a revocation check ignores revocations, unless its stream policy is "endOnRevoke".
 *
 * @param isUnproven whether the session is bound to a key that the call has not proven. A copied access
 * token can open such a stream, so the stream ends with the token.
 */
function endsOf(
  { stream, check }: StreamToRun["policy"],
  isUnproven: boolean,
): StreamEnds | undefined {
  return stream === undefined || stream === "never"
    ? undefined
    : {
        outlivesToken: stream === "endOnRevoke" && !isUnproven,
        onRevoke: stream === "endOnRevoke" || check !== "none",
      };
}

/** Calls `action` when the signal aborts; at once if it has aborted already. */
function onAbort(signal: AbortSignal, action: () => void): void {
  if (signal.aborted) {
    action();
  } else {
    signal.addEventListener("abort", action, { once: true });
  }
}
