import type { StreamRequest, StreamResponse } from "@connectrpc/connect";
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
  const { request, send, failed } = stream;

  // 1. Watch the session, if the policy ends the stream with it.
  const ending = new Ending();
  const watched = await watch(owner, stream, ending);
  if (watched !== undefined) {
    call.stream = watched;
  }

  // 2. Stop watching when the call is over: its signal aborts, its messages end, or it fails.
  const stopWatching = (): void => watched?.close();
  onAbort(request.signal, () => {
    stopWatching();
    ending.callEnded(request.signal.reason);
  });

  try {
    // 3. Give a watched handler a signal and requests that end with the session.
    const look = (): void => watched?.look();
    const endable: StreamRequest =
      watched === undefined
        ? request
        : {
            ...request,
            signal: ending.signal,
            message: ending.wrap(request.message, { before: look }),
          };

    // 4. Call the handler. If it reads requests, it returns only when it is done, which may be never.
    const response = await ending.race(send(endable));

    // 5. Before each message: check that the session is alive. After the first one, the response
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
  const ends = endsOf(policy);
  if (session === undefined || ends === undefined || call.stream !== undefined) {
    return undefined;
  }
  const procedure = procedureOf(request.method);
  try {
    return await streams.watch(session, ends, (error) => {
      takeBackTokens(core, call, false);
      const refused = refuseCall(core, call, { error, procedure });
      const hint = call.responseHeader.get(header.hint);
      if (call.committed && hint !== null) {
        // The headers are sent, so the hint goes into the trailers.
        refused.metadata.set(header.hint, hint);
      }
      ending.end(refused);
    });
  } catch (error) {
    throw refuseCall(core, call, { error, procedure });
  }
}

/** A method without a revocation check ignores revocations, unless its stream policy is "endOnRevoke". */
function endsOf({ stream, check }: StreamToRun["policy"]): StreamEnds | undefined {
  return stream === undefined || stream === "never"
    ? undefined
    : {
        outlivesToken: stream === "endOnRevoke",
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
