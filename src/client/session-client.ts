import { Code, ConnectError, type Interceptor, type Transport } from "@connectrpc/connect";
import type { JsonObject, StandardSchemaV1 } from "../base/json.ts";
import { race, type SessionCallOptions, withDeadline } from "./call/deadline.ts";
import { makeTransport, sessionInterceptor } from "./call/interceptor.ts";
import { SessionCore } from "./core.ts";
import type { SessionState } from "./events.ts";
import { resolveOptions, type SessionClientOptions } from "./options.ts";
import { unreadable } from "./refresh/refresher.ts";
import {
  type AllResumeOptions,
  type CursorOptions,
  type OpenStream,
  type ResumeOptions,
  resume,
} from "./resume/resume.ts";
import { tokensNotLoaded } from "./state/credentials.ts";

/** A client's session with a service. */
export interface SessionClient<Claims extends object = JsonObject> {
  /**
   * The transport for `createClient(Service, session.transport)`. Its calls carry the tokens. A call
   * that is refused because its token has expired is sent again after a refresh.
   */
  readonly transport: Transport;
  /** The interceptor of `transport`, for a transport that you create yourself. Put it first. */
  readonly interceptor: Interceptor;
  /** The state of the session. The same object until something changes. */
  readonly state: SessionState;
  /**
   * The claims that the service shows to this client: `state.claims`, typed by the schema in the
   * option `claims`. Undefined if no claims are known or they do not match the schema. Use them to
   * show or hide parts of a page; only the service can enforce permissions.
   *
   * @throws TypeError if the schema validates asynchronously
   */
  readonly claims: Claims | undefined;
  /**
   * Calls `listener` with the new state after every change. Errors that it throws are ignored.
   *
   * @returns a function that ends the subscription
   */
  subscribe(listener: (state: SessionState) => void): () => void;
  /**
   * Finds out whether there is a session: call it when an application starts. Resolves to `signedIn`
   * with the user and the claims, or to `signedOut`. It makes one call at most, and none if the state
   * is known already, as with stored tokens that are still valid. Concurrent loads share one call. A
   * valid access token is kept; an expired one is refreshed.
   *
   * ```ts
   * const { status, userId } = await session.load();
   * ```
   *
   * @returns the state, which is not `unknown`
   * @throws ConnectError Unavailable if the service or the token store could not be reached in time,
   *   and the state then stays as it is; PermissionDenied if the page is not listed in `origins` of
   *   the service; FailedPrecondition if CORS does not expose the headers of the service; Canceled or
   *   DeadlineExceeded as set by `options`
   */
  load(options?: SessionCallOptions): Promise<SessionState>;
  /**
   * Refreshes now, or joins the running refresh, for example to receive changed claims. Unlike a
   * refresh for a call, it is not delayed after a token was refused.
   *
   * @throws ConnectError Unauthenticated if there is no session or it is over; Unavailable if the
   *   service or the token store could not be reached in time, in which case the session is kept;
   *   Aborted if the session changed during the refresh; Canceled or DeadlineExceeded as set by
   *   `options`
   */
  refresh(options?: SessionCallOptions): Promise<void>;
  /**
   * Returns a stream that outlives its access token and its connection. It calls `open` again when
   * the server ended the stream because the token expired, and after a pause when something other
   * than the service ended it: a lost connection, or the answer of a gateway. It refreshes ahead of
   * time, to keep the gap short. The result ends when the stream itself ends, when the session ends,
   * or with any error of the service other than Unavailable.
   *
   * ```ts
   * const orders = session.resume((after, call) => client.watchOrders({ after }, call), {
   *   start: 0n,
   *   cursor: (order) => order.id,
   * });
   * for await (const order of orders) { … }
   * ```
   *
   * Leaving the loop ends the call. Each loop over the result begins at `start`.
   *
   * @param open opens the stream; must pass its second argument to the call as call options
   * @throws TypeError for invalid options. The loop receives the errors of the stream: ConnectError
   *   Unauthenticated if the session is over, Aborted if a different session has replaced it
   */
  resume<M, C>(
    open: OpenStream<M, C>,
    options: ResumeOptions<M> & CursorOptions<M, C>,
  ): AsyncIterable<M>;
  resume<M>(open: OpenStream<M, undefined>, options?: ResumeOptions<M>): AsyncIterable<M>;
  /**
   * Signs out: locally at once, whatever happens, and then on the server. In cookie mode it first
   * waits for a running refresh. Each wait ends after `refreshTimeout` unless `options` sets another
   * limit.
   *
   * @throws ConnectError if the server could not be reached. In cookie mode the cookies then still
   *   exist; call `signOut` again
   */
  signOut(options?: SessionCallOptions): Promise<void>;
  /** Stops exchanging messages with other tabs. Everything else continues to work. */
  close(): void;
}

/**
 * Creates the session of a client. It attaches tokens to calls, refreshes them once for all calls,
 * and sends a call again if it was refused because its token had expired.
 *
 * ```ts
 * const session = createSessionClient({
 *   transport: (parts) => createConnectTransport({ baseUrl, ...parts }),
 * });
 * const notes = createClient(NotesService, session.transport);
 * ```
 *
 * @throws TypeError for invalid options
 */
export function createSessionClient<Claims extends object = JsonObject>(
  options: SessionClientOptions<Claims>,
): SessionClient<Claims> {
  const resolved = resolveOptions(options);
  const core = new SessionCore(resolved, makeTransport(resolved, []));
  const { local } = core;
  const interceptor = sessionInterceptor(core);
  const transport = makeTransport(resolved, [interceptor]);
  const readClaims = claimsReader(options.claims);
  const session: SessionClient<Claims> = {
    transport,
    interceptor,
    get state() {
      return local.state;
    },
    get claims() {
      return readClaims(local.state.claims);
    },
    subscribe: (listener) => local.subscribe(listener),
    load: (call = {}) => load(core, call),
    refresh: (call = {}) => refresh(core, call),
    resume: <M, C>(open: OpenStream<M, C>, call?: Partial<AllResumeOptions<M, C>>) =>
      resume(core, open, call ?? {}),
    signOut: (call = {}) => core.signOut.run(call),
    close: () => local.close(),
  };
  cores.set(session, core);
  return session;
}

/** The objects behind a session; undefined if createSessionClient did not make it. */
export function coreOf(session: SessionClient<object>): SessionCore | undefined {
  return cores.get(session);
}

const cores = new WeakMap<SessionClient<object>, SessionCore>();

async function load(core: SessionCore, call: SessionCallOptions): Promise<SessionState> {
  const { local, refresher } = core;
  await within(core, call, async (signal) => {
    const isOpen = (): boolean =>
      local.status === "unknown" || (local.lifetime.phase === "expired" && refresher.canRefresh());
    for (let isStale = true; isStale && isOpen(); ) {
      const outcome = await race(refresher.refresh(true), signal);
      if (outcome.type === "failed" && local.status !== "signedOut") {
        throw outcome.error;
      }
      isStale = outcome.type === "stale";
    }
  });
  if (local.status === "unknown") {
    throw unreadable();
  }
  return local.state;
}

async function refresh(core: SessionCore, call: SessionCallOptions): Promise<void> {
  const { refresher } = core;
  await within(core, call, async (signal) => {
    if (!refresher.canRefresh()) {
      throw new ConnectError("there is no session to refresh; sign in", Code.Unauthenticated);
    }
    const outcome = await race(refresher.refresh(false), signal);
    if (outcome.type === "failed") {
      throw outcome.error;
    }
    if (outcome.type === "stale") {
      throw new ConnectError("the session changed during the refresh; try again", Code.Aborted);
    }
  });
}

/** Starts `work` within the bounds of `call`, once the tokens are loaded. */
async function within(
  { options, local }: SessionCore,
  call: SessionCallOptions,
  work: (signal: AbortSignal | undefined) => Promise<void>,
): Promise<void> {
  try {
    await withDeadline(options.clock, call, async (signal) => {
      await race(Promise.resolve(local.ready()), signal);
      if (!local.isLoaded) {
        throw tokensNotLoaded();
      }
      await work(signal);
    });
  } catch (error) {
    throw ConnectError.from(error, Code.Canceled);
  }
}

/**
 * Returns a function that reads claims by a schema. It returns the same object for the same claims,
 * and undefined for claims that do not match.
 *
 * @throws TypeError if `schema` does not implement Standard Schema
 */
function claimsReader<Claims extends object>(
  schema: StandardSchemaV1<unknown, Claims> | undefined,
): (claims: JsonObject | undefined) => Claims | undefined {
  if (schema === undefined) {
    // Any JSON object, or the type that the caller asserted.
    return (claims) => claims as Claims | undefined;
  }
  if (typeof schema?.["~standard"]?.validate !== "function") {
    throw new TypeError(
      `claims must be a schema of zod, valibot, arktype or another Standard Schema library, got ${typeof schema}`,
    );
  }
  let seen: JsonObject | undefined;
  let read: Claims | undefined;
  return (claims) => {
    if (claims !== seen) {
      seen = claims;
      read = claims && validated(schema, claims);
    }
    return read;
  };
}

function validated<Claims extends object>(
  schema: StandardSchemaV1<unknown, Claims>,
  claims: JsonObject,
): Claims | undefined {
  const result = schema["~standard"].validate(claims);
  if (result instanceof Promise) {
    throw new TypeError("claims must be a schema that validates synchronously, got a promise");
  }
  return result.issues === undefined ? result.value : undefined;
}
