import type { ContextKey } from "@connectrpc/connect";
import type { SessionError } from "../errors.ts";
import type { VerifiedSession } from "../session/session.ts";
import type { PresentedTokens } from "../tokens/source.ts";

/** What an instance knows of one call. */
export interface Call {
  readonly presented: PresentedTokens;
  /** The headers as they came, for the cross-site check. */
  readonly requestHeader: Headers;
  readonly requestMethod: string;
  /** The signal of the RPC; undefined outside of RPCs. */
  readonly signal: AbortSignal | undefined;
  /** Whether the token that decides came in a cookie: then cookies are what a failure expires. */
  byCookie: boolean;
  /** Where tokens are written. */
  responseHeader: Headers;
  session: VerifiedSession | undefined;
  /** Whether the gate or the interceptor has held the call against its method's policy. */
  admitted: boolean;
  /** The session whose tokens this response carries already: nothing else may take them back. */
  written: string | undefined;
  /** The failure that this response tells of already. */
  failure: SessionError | undefined;
  /** Whether the response headers are on their way: then no token can be written any more. */
  committed: boolean;
  /** The call as a stream that ends with its session; undefined where it is none. */
  stream: CallStream | undefined;
}

/** An open stream, told by its own call of what happens to its session. */
export interface CallStream {
  /** The call belongs to this session from now on. */
  follow(session: VerifiedSession): void;
  /** Runs what ends the session of the stream; its handler may still answer. */
  ownEnd<T>(work: () => Promise<T>): Promise<T>;
}

/** Runs what may end the session of this very call. */
export function endOwn<T>({ stream }: Call, work: () => Promise<T>): Promise<T> {
  return stream === undefined ? work() : stream.ownEnd(work);
}

/** Where a `Call` is kept in the context values; one key per instance, so that two never meet. */
export type CallKey = ContextKey<Call | undefined>;
