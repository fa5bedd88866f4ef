import {
  Code,
  ConnectError,
  type ConnectRouter,
  createConnectRouter,
  type StreamRequest,
  type UnaryRequest,
} from "@connectrpc/connect";
import { createAsyncIterable } from "@connectrpc/connect/protocol";
import { SessionService } from "../../../gen/rpcsession/v1/service_pb.ts";
import { procedureOf } from "../policy/policy.ts";
import { misuse } from "../response/errors.ts";
import type { Call } from "./call.ts";

// Connect runs request gates since version 2.2. Earlier versions ignore the option without a word, and
// pnpm and bun install them beside this package.

const remedy =
  "install one version of all @connectrpc packages, 2.2.0 or later, for example with: npm install --save-exact @connectrpc/connect@2.2.0 @connectrpc/connect-node@2.2.0. The page docs/installing.md covers other adapters and package managers";

/** @throws TypeError if the installed Connect ignores request gates */
export function assertConnectRunsGates(): void {
  assertRunsGates(createConnectRouter());
}

/**
 * Adds a method with a gate to a router, calls it, and takes it away again.
 *
 * @throws TypeError if the gate did not run. A router that is not Connect's own may keep its handlers
 * elsewhere; it is not judged.
 */
export function assertRunsGates(router: ConnectRouter): void {
  const { handlers } = router;
  const served = handlers.length;
  let hasRun = false;
  router.rpc(SessionService.method.signOut, () => ({}), {
    interceptors: [],
    requestGate() {
      hasRun = true;
      throw new ConnectError("only a gate was to be tested", Code.Aborted);
    },
  });
  const [handler] = handlers.splice(served);
  if (handler === undefined) {
    return;
  }
  // Connect calls the gate before anything that it has to wait for.
  handler({
    httpVersion: "1.1",
    method: "POST",
    url: "http://localhost/",
    header: new Headers({ "content-type": "application/proto" }),
    body: createAsyncIterable([]),
    signal: new AbortController().signal,
  }).catch(() => {});
  if (!hasRun) {
    throw new TypeError(
      `the installed @connectrpc/connect is older than 2.2 and ignores request gates, so it would answer calls that nothing has checked; ${remedy}`,
    );
  }
}

/** The error of a call of a protected router whose gate has not run. */
export function gateMissing({
  method,
}: Pick<UnaryRequest | StreamRequest, "method">): ConnectError {
  return misuse(
    `no request gate has run for ${procedureOf(method)}: the adapter was created without the requestGate that sessions.protect returned, or its @connectrpc/connect is older than 2.2 and ignores gates; pass all options that protect returned, and ${remedy}`,
  );
}

/**
 * @throws ConnectError `Internal` for a call with a session in a router that has the gate alone, if its
 * policy reads the request: only the interceptor sees that
 */
export function assertRequestChecked({ unchecked, session, method }: Call): void {
  if (unchecked && session !== undefined) {
    throw misuse(
      `nothing checks the condition of ${method ? procedureOf(method) : "this method"}, which reads the request; add sessions.interceptor to the router besides sessions.requestGate, or wrap the options of the adapter in sessions.protect()`,
    );
  }
}
