import { Code, ConnectError, type Interceptor, type Transport } from "@connectrpc/connect";
import type { JsonObject, StandardSchemaV1 } from "../base/json.ts";
import { deadlineSignal, race } from "./call/deadline.ts";
import { sessionInterceptor } from "./call/interceptor.ts";
import type { SessionState } from "./events.ts";
import { makeTransport, resolveOptions, type SessionClientOptions } from "./options.ts";
import type { SessionCallOptions } from "./refresh/rpc.ts";
import {
  type CursorOptions,
  type OpenStream,
  type ResolvedResume,
  type ResumeOptions,
  readCursor,
  resume,
} from "./resume/resume.ts";
import { SessionCore } from "./state/core.ts";

/**
 * Reads claims by a schema; the same object for the same claims, undefined where they do not fit.
 * @throws TypeError when the schema is none
 */
export function claimsReader<Claims extends object>(
  schema: StandardSchemaV1<unknown, Claims> | undefined,
): (claims: JsonObject | undefined) => Claims | undefined {
  if (schema === undefined) {
    // Untyped, or typed by the caller's word.
    return (claims) => claims as Claims | undefined;
  }
  if (typeof schema?.["~standard"]?.validate !== "function") {
    throw new TypeError(
      "claims: give a schema of zod, valibot, arktype or another library of the Standard Schema",
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
    throw new TypeError("claims: the schema answers later; give one that answers at once");
  }
  return result.issues === undefined ? result.value : undefined;
}

/** A client's session with a service. */
export interface SessionClient<Claims extends object = JsonObject> {
  /** For `createClient(Service, session.transport)`: calls carry the tokens and are retried. */
  readonly transport: Transport;
  /** What `transport` uses, for a transport that is made elsewhere. It goes outermost. */
  readonly interceptor: Interceptor;
  /** What is known of the session. The same object until something changes. */
  readonly state: SessionState;
  /**
   * What the service lets this client read of its claims, by the schema of the option `claims`:
   * `state.claims`, typed. Undefined where nothing is known, or it does not fit. For the page to
   * show or hide things; the service decides.
   */
  readonly claims: Claims | undefined;
  /**
   * Calls `listener` with the new state after every change. What it throws is ignored.
   *
   * @returns a function that stops it
   */
  subscribe(listener: (state: SessionState) => void): () => void;
  /**
   * Refreshes now, or joins the refresh that runs, for example to get changed claims. Is not held
   * back after a refused token.
   *
   * @throws ConnectError Unauthenticated when there is no session to refresh or it is over,
   *   Unavailable when the service could not be reached, in time or at all; the session is kept then
   */
  refresh(options?: SessionCallOptions): Promise<void>;
  /**
   * A stream that survives its access token and the connection: `open` is called again when the
   * server ended it for the token's age, and, after pauses, when the server could not be reached.
   * Tokens are refreshed ahead, so that the gap is short. It ends with the stream's own end, with
   * the session, and with every other error.
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
   * @param open must give its second argument to the call
   * @throws TypeError for options that cannot work. What iterates gets the errors of the stream:
   *   ConnectError Unauthenticated when the session is over, Aborted when another one took its place
   */
  resume<M, C>(
    open: OpenStream<M, C>,
    options: ResumeOptions & CursorOptions<M, C>,
  ): AsyncIterable<M>;
  resume<M>(open: OpenStream<M, undefined>, options?: ResumeOptions): AsyncIterable<M>;
  /**
   * Signs out: here at once, whatever happens, then at the server. Waits for a running refresh
   * first in cookie mode.
   *
   * @throws ConnectError when the server could not be told. In cookie mode the cookies are still
   *   there then; call it again
   */
  signOut(options?: SessionCallOptions): Promise<void>;
  /** Stops listening to other tabs. Everything else goes on. */
  close(): void;
}

/**
 * Creates the session of a client: attaches tokens to calls, refreshes them once for all callers,
 * and sends again what was refused because of their age.
 *
 * @throws TypeError for options that cannot work
 */
export function createSessionClient<Claims extends object = JsonObject>(
  options: SessionClientOptions<Claims>,
): SessionClient<Claims> {
  const resolved = resolveOptions(options);
  const core = new SessionCore(resolved);
  const interceptor = sessionInterceptor(core);
  const transport = makeTransport(resolved, [interceptor]);
  const readClaims = claimsReader(options.claims);
  const session: SessionClient<Claims> = {
    transport,
    interceptor,
    get state() {
      return core.state;
    },
    get claims() {
      return readClaims(core.state.claims);
    },
    subscribe: (listener) => subscribe(core, listener),
    refresh: (call = {}) => refresh(core, call),
    resume: <M, C>(open: OpenStream<M, C>, options?: Partial<ResolvedResume<M, C>>) =>
      resume(core, open, readCursor(options ?? {})),
    signOut: (call = {}) => core.signOut(call),
    close: () => core.close(),
  };
  cores.set(session, core);
  return session;
}

/** The parts behind a session; undefined when it is none of ours. */
export function coreOf(session: SessionClient<object>): SessionCore | undefined {
  return cores.get(session);
}

const cores = new WeakMap<SessionClient<object>, SessionCore>();

function subscribe(core: SessionCore, listener: (state: SessionState) => void): () => void {
  // A function of its own, so that one listener given twice is two subscriptions.
  const own = (state: SessionState): void => listener(state);
  core.listeners.add(own);
  return () => {
    core.listeners.delete(own);
  };
}

async function refresh(core: SessionCore, options: SessionCallOptions): Promise<void> {
  const [signal, done] = deadlineSignal(core.options.clock, options.timeoutMs, options.signal);
  try {
    await race(core.ready() ?? Promise.resolve(undefined), signal);
    if (!core.refresher.can()) {
      throw new ConnectError("there is no session to refresh; sign in", Code.Unauthenticated);
    }
    const outcome = await race(core.refresher.run(), signal);
    if (outcome.type === "failed") {
      throw outcome.error;
    }
    if (outcome.type === "stale") {
      throw new ConnectError("the session changed during the refresh", Code.Aborted);
    }
  } catch (error) {
    throw ConnectError.from(error, Code.Canceled);
  } finally {
    done();
  }
}
