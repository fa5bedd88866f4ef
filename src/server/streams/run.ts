import type { StreamRequest, StreamResponse } from "@connectrpc/connect";
import type { Call } from "../call/call.ts";
import { refuseCall } from "../call/refusal.ts";
import type { VerifyingCore } from "../core.ts";
import { type MethodPolicy, procedureOf } from "../policy/policy.ts";
import { Ending } from "./ending.ts";
import type { OpenStreams } from "./open.ts";
import type { StreamEnds, WatchedStream } from "./watched.ts";

/** Whose stream it is. */
export interface StreamOwner {
  readonly core: VerifyingCore;
  readonly streams: OpenStreams;
  readonly call: Call;
}

/** A stream to run. */
export interface StreamToRun {
  readonly request: StreamRequest;
  readonly policy: Pick<MethodPolicy, "stream" | "check">;
  /** Sends it to its handler. */
  readonly send: (request: StreamRequest) => Promise<StreamResponse>;
  /** Makes an error of the handler the one that goes on the wire. */
  readonly failed: (error: unknown) => unknown;
}

/**
 * Runs a stream: notes when its headers are sent, with its first message, and ends it with its
 * session, as its policy says. A handler that waits for its signal, for a request or at a yield
 * is let go of at once; one that waits for something else sends nothing more.
 */
export async function runStream(owner: StreamOwner, stream: StreamToRun): Promise<StreamResponse> {
  const { call } = owner;
  const { request, send, failed } = stream;
  const ending = new Ending();
  const watched = await watch(owner, stream, ending);
  if (watched !== undefined) {
    call.stream = watched;
  }
  const over = closer(request.signal, ending, watched);
  try {
    const before = (): void => watched?.look();
    const sent = watched === undefined ? request : under(request, ending, before);
    // A handler of requests only answers when it is done; it may never be.
    const response = await ending.race(send(sent));
    const after = (): void => {
      call.committed = true;
      watched?.sent();
    };
    const message = ending.wrap(response.message, {
      ...{ before, after, failed, over, returnSource: true },
    });
    return { ...response, message };
  } catch (error) {
    over();
    throw ending.reason ?? failed(error);
  }
}

/** @returns undefined where the stream does not end with its session, or has none */
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
      ending.end(refuseCall(core, call, { error, procedure }));
    });
  } catch (error) {
    throw refuseCall(core, call, { error, procedure });
  }
}

/** A method without a check does not ask for revocation; one that says what it ends on does. */
function endsOf({ stream, check }: StreamToRun["policy"]): StreamEnds | undefined {
  return stream === undefined || stream === "never"
    ? undefined
    : {
        outlivesToken: stream === "endOnRevoke",
        onRevoke: stream === "endOnRevoke" || check !== "none",
      };
}

function under(request: StreamRequest, ending: Ending, before: () => void): StreamRequest {
  return {
    ...request,
    signal: ending.signal,
    message: ending.wrap(request.message, { before }),
  };
}

/** Lets go of everything once the call is over, whoever tells first. */
function closer(
  signal: AbortSignal,
  ending: Ending,
  watched: WatchedStream | undefined,
): () => void {
  const callEnded = (): void => {
    watched?.close();
    ending.callEnded(signal.reason);
  };
  if (signal.aborted) {
    callEnded();
  } else {
    signal.addEventListener("abort", callEnded, { once: true });
  }
  return () => watched?.close();
}
