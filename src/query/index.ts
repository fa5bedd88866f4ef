import { Code, ConnectError } from "@connectrpc/connect";
import type { SessionClient, SessionState } from "../client/index.ts";
import { isInterruption } from "../client/state/hint.ts";

/** The part of TanStack Query's `QueryClient` that {@link bindQueries} uses. */
export interface BoundQueries {
  resetQueries(): Promise<void>;
  getMutationCache(): { clear(): void };
}

/**
 * Makes cached data follow the session. When the user signs out, signs in or is replaced by another
 * one, in this tab or in another, it drops the data of all queries and the mutations that still wait,
 * and fetches the queries that are in use again. It keeps the data while the same user stays signed
 * in, also after `reauthenticate`.
 *
 * Data that a persister restores may belong to another user: give it a `buster` that contains the id of
 * the user.
 *
 * ```ts
 * const queryClient = new QueryClient({ defaultOptions: { queries: { retry: retryQuery } } });
 * bindQueries(session, queryClient);
 * ```
 *
 * @returns a function that ends the connection
 * @throws TypeError for arguments of another kind
 */
export function bindQueries(
  session: Pick<SessionClient, "state" | "subscribe">,
  queries: BoundQueries,
): () => void {
  if (typeof session?.subscribe !== "function" || typeof queries?.resetQueries !== "function") {
    throw new TypeError(
      "bindQueries: pass the object returned by createSessionClient, then the QueryClient: bindQueries(session, queryClient)",
    );
  }
  let known = session.state;
  return session.subscribe((state) => {
    // 1. What is not known yet changes nothing, and what was loaded meanwhile stays.
    if (state.status === "unknown") {
      return;
    }
    const former = known;
    known = state;

    // 2. The data of the same user stays.
    if (former.status === "unknown" || (former.status === state.status && isSame(former, state))) {
      return;
    }

    // 3. Drop everything else. A reset also cancels requests that are under way, so that no answer for
    //    the former user arrives later. Every query keeps its own error.
    queries.getMutationCache().clear();
    queries.resetQueries().catch(() => {});
  });
}

function isSame(a: SessionState, b: SessionState): boolean {
  return a.userId === undefined || b.userId === undefined
    ? a.sessionId === b.sessionId
    : a.userId === b.userId;
}

/** What may pass by itself, besides an interruption. */
const passing: ReadonlySet<Code> = new Set([
  ...[Code.DeadlineExceeded, Code.ResourceExhausted, Code.Aborted],
]);
const attempts = 3;

/**
 * The option `retry` for TanStack Query: tries again up to three times after an error that may pass,
 * such as a lost connection, and never after an answer such as `Unauthenticated` or `NotFound`. The
 * session has already refreshed and sent the call again where that could help.
 */
export function retryQuery(failureCount: number, error: unknown): boolean {
  const mayPass =
    !(error instanceof ConnectError) || passing.has(error.code) || isInterruption(error);
  return failureCount < attempts && mayPass;
}
