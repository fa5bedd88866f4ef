import type { ContextKey } from "@connectrpc/connect";
import type { SessionError } from "../../base/errors.ts";
import type { VerifiedSession } from "../../engine/session.ts";
import { hasCookies, type PresentedTokens } from "../../request/tokens.ts";

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
  /** Whether there is no response yet: then what is written waits for it. */
  waits: boolean;
  /** The session of the call; made when it is first asked for. */
  readonly session: VerifiedSession | undefined;
  /** Puts the session that `make` makes into the call, and tells its stream. */
  enter(make: () => VerifiedSession): void;
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

/** What a call begins with, beside its tokens: what a `HandlerContext` has, or a plain exchange. */
export type CallStart = Pick<Call, "requestHeader" | "requestMethod" | "responseHeader"> & {
  readonly signal?: AbortSignal;
};

/** A call that has just begun. */
export class OpenedCall implements Call {
  readonly presented: PresentedTokens;
  readonly requestHeader: Headers;
  readonly requestMethod: string;
  readonly signal: AbortSignal | undefined;
  byCookie: boolean;
  responseHeader: Headers;
  waits = false;
  admitted = false;
  written: string | undefined = undefined;
  failure: SessionError | undefined = undefined;
  committed = false;
  stream: CallStream | undefined = undefined;
  #session: VerifiedSession | undefined = undefined;
  #make: (() => VerifiedSession) | undefined = undefined;

  constructor(presented: PresentedTokens, start: CallStart) {
    this.presented = presented;
    this.requestHeader = start.requestHeader;
    this.requestMethod = start.requestMethod;
    this.signal = start.signal;
    this.byCookie = presented.bearer === undefined && hasCookies(presented);
    this.responseHeader = start.responseHeader;
  }

  get session(): VerifiedSession | undefined {
    this.#session ??= this.#make?.();
    return this.#session;
  }

  enter(make: () => VerifiedSession): void {
    this.#make = make;
    this.#session = undefined;
    if (this.stream !== undefined) {
      this.#session = make();
      this.stream.follow(this.#session);
    }
  }
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
