import type { Interceptor, StreamResponse, UnaryResponse } from "@connectrpc/connect";
import { setTimeoutOf, TimeLeft, timeoutOf } from "./deadline.ts";
import { claim } from "./handled.ts";
import { replayable } from "./replay.ts";
import { Call } from "./retry.ts";
import type { SessionCore } from "../state/session-core.ts";
import { streamCall } from "./stream.ts";

/** Attaches tokens, takes new ones, and refreshes and sends once more what was refused for age. */
export function sessionInterceptor(core: SessionCore): Interceptor {
  return (next) => async (req) => {
    const contextValues = claim(req.contextValues);
    return contextValues === undefined ? next(req) : run({ ...req, contextValues }, next, core);
  };
}

async function run(req: Request, next: Next, core: SessionCore): ReturnType<Next> {
  const left = new TimeLeft(core.options.clock, timeoutOf(req.header));
  const one = !req.stream || req.method.methodKind === "server_streaming";
  const call = new Call(core, { signal: req.signal, replayable: one });
  await call.prepare(req.stream);
  const attach = (): void => {
    const { ms } = left;
    if (ms !== undefined) {
      setTimeoutOf(req.header, ms);
    }
    call.attach(req.header);
  };
  if (!req.stream) {
    return unaryCall(call, () => {
      attach();
      return next(req) as Promise<UnaryResponse>;
    });
  }
  const messages = one ? replayable(req.message) : { open: () => req.message };
  return streamCall(call, () => {
    attach();
    return next({ ...req, message: messages.open() }) as Promise<StreamResponse>;
  });
}

type Next = Parameters<Interceptor>[0];
type Request = Parameters<Next>[0];

async function unaryCall(call: Call, send: () => Promise<UnaryResponse>): Promise<UnaryResponse> {
  for (;;) {
    try {
      const response = await send();
      call.accept(response.header);
      call.succeeded();
      return response;
    } catch (error) {
      // Throws unless the call shall be sent again.
      await call.recover(error);
    }
  }
}
