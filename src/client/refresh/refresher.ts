import { Code, ConnectError, type Transport } from "@connectrpc/connect";
import { SessionService } from "../../../gen/rpcsession/v1/service_pb.ts";
import type { Clock } from "../../base/clock.ts";
import { withDeadline } from "../call/deadline.ts";
import type { ResolvedOptions } from "../options.ts";
import { refreshHeaders } from "../state/credentials.ts";
import { type Hint, isUnanswered } from "../state/hint.ts";
import type { LocalSession } from "../state/local-session.ts";
import { mayHold, type SessionSnapshot } from "../state/notice-rule.ts";
import { channelName } from "../state/tabs.ts";

/**
 * - `refreshed`: there is a new access token.
 * - `stale`: the session changed during the refresh, so its result does not count.
 * - `failed`: there is no new access token. The session is kept unless the server ended it.
 */
type RefreshOutcome =
  | { readonly type: "refreshed" }
  | { readonly type: "stale" }
  | { readonly type: "failed"; readonly error: ConnectError };

/** A running refresh. */
interface Flight {
  readonly epoch: number;
  readonly onlyIfNeeded: boolean;
  readonly outcome: Promise<RefreshOutcome>;
}

/** Refreshes the session with single flight: all callers share one refresh. */
export class Refresher {
  /** Delays refreshes after a token was refused right after a refresh. */
  readonly refused: Backoff;
  /** Delays early refreshes after one failed. No caller depends on them yet, so waiting is harmless. */
  readonly early: Backoff;
  readonly #options: ResolvedOptions;
  readonly #local: LocalSession;
  readonly #transport: Transport;
  readonly #lock: TabLock;
  #flight: Flight | undefined;
  #hasReported = false;

  /** @param transport without the session's interceptor, so that refreshes do not recur */
  constructor(options: ResolvedOptions, local: LocalSession, transport: Transport) {
    this.#options = options;
    this.#local = local;
    this.#transport = transport;
    const { clock, refreshTimeoutMs: ms } = options;
    this.#lock = new TabLock({ name: channelName(options.realm), ms, clock });
    this.refused = new Backoff(options.clock);
    this.early = new Backoff(options.clock);
  }

  /** The running refresh, whichever session it is for. */
  get running(): Promise<RefreshOutcome> | undefined {
    return this.#flight?.outcome;
  }

  /** Whether there is a session to refresh, or may be one. */
  canRefresh(hint?: Pick<Hint, "sessionId">): boolean {
    const { transport, tokens, status } = this.#local;
    if (transport === "header") {
      return tokens?.refreshToken !== undefined;
    }
    // After a sign-out, a hint that names a different session shows that the cookies hold a new one.
    return status !== "signedOut" || (!!hint?.sessionId && mayHold(hint.sessionId, this.#local));
  }

  /**
   * Joins the running refresh of the current session, or starts one. Never rejects.
   *
   * @param onlyIfNeeded whether the server may keep a valid access token and only describe its session
   */
  refresh(onlyIfNeeded: boolean): Promise<RefreshOutcome> {
    const { epoch } = this.#local;
    const flight = this.#flight;
    if (flight?.epoch === epoch && (onlyIfNeeded || !flight.onlyIfNeeded)) {
      return flight.outcome;
    }
    const outcome = this.#start(onlyIfNeeded);
    this.#flight = { epoch, onlyIfNeeded, outcome };
    return outcome;
  }

  /**
   * Refreshes for a call that was refused with a REFRESH hint.
   *
   * @param isSecond whether the call was refused right after a refresh
   * @throws `error` if there is nothing to refresh; an error with a diagnosis if `isSecond`, or while
   *   refreshes are delayed
   */
  refreshAfterRefusal(error: ConnectError, hint: Hint, isSecond: boolean): Promise<RefreshOutcome> {
    if (!this.canRefresh(hint)) {
      throw error;
    }
    if (isSecond) {
      const retryIn = this.refused.failed();
      this.#local.emit({ type: "refreshRefused", retryIn });
      throw refusedAgain(error, retryIn);
    }
    if (this.refused.remaining > 0) {
      throw refusedAgain(error, this.refused.remaining);
    }
    // A stream that is sent now must wait for the refresh, even if this call does not.
    this.#local.lifetime.refuse();
    // Another tab may have refreshed already, and its message may be on the way.
    return this.refresh(true);
  }

  /** Refreshes before the token expires. Returns undefined while early refreshes are delayed. */
  refreshEarly(): Promise<RefreshOutcome> | undefined {
    const isDelayed = this.refused.remaining > 0 || this.early.remaining > 0;
    const isRunning = this.#flight?.epoch === this.#local.epoch;
    if (!isRunning && isDelayed) {
      return undefined;
    }
    return this.refresh(isRunning).then((outcome) => {
      if (outcome.type === "failed") {
        this.early.failed();
      }
      return outcome;
    });
  }

  /** Ends all delays. A new session does not inherit them. */
  reset(): void {
    this.refused.reset();
    this.early.reset();
  }

  async #start(onlyIfNeeded: boolean): Promise<RefreshOutcome> {
    // 1. Remember the session as it is now, to notice changes during the refresh.
    const { transport, epoch, intent, version } = this.#local;
    const before = { epoch, intent, version };
    try {
      // 2. Check whether another client has refreshed already. In cookie mode the tabs take turns and
      //    announce their refreshes to each other. In header mode, load the token store again.
      if (transport === "cookie") {
        const exchange = () => this.#exchange(before, onlyIfNeeded);
        return await (this.#options.tokens.isAlone ? exchange() : this.#lock.run(exchange));
      }
      await this.#local.reload();
      return await this.#exchange(before, onlyIfNeeded);
    } finally {
      // Another session may have started a refresh of its own in the meantime.
      if (this.#flight?.epoch === epoch) {
        this.#flight = undefined;
      }
    }
  }

  async #exchange(before: SessionSnapshot, onlyIfNeeded: boolean): Promise<RefreshOutcome> {
    const local = this.#local;
    const { clock, refreshTimeoutMs } = this.#options;
    if (local.epoch !== before.epoch) {
      return { type: "stale" };
    }
    if (local.version !== before.version) {
      return { type: "refreshed" };
    }
    try {
      // 3. Call the server. The new tokens are in the response headers.
      const { refresh } = SessionService.method;
      const request = { refreshToken: local.tokens?.refreshToken ?? "", onlyIfNeeded };
      const headers = refreshHeaders(local);
      const response = await withDeadline(clock, { timeoutMs: refreshTimeoutMs }, (signal) =>
        this.#transport.unary(refresh, signal, refreshTimeoutMs, headers, request),
      );

      // 4. Read the notice and the tokens. They do not count if the session changed meanwhile.
      const event = local.receive(response.header, before, true);
      if (local.epoch !== before.epoch) {
        return { type: "stale" };
      }

      // 5. No new token was readable. In cookie mode the browser has the new cookies anyway.
      if (event !== "current" && local.version === before.version) {
        if (local.transport === "header") {
          return this.#fail(unreadable(), before);
        }
        local.renewed();
      }
      if (event === undefined && !this.#hasReported) {
        this.#hasReported = true;
        local.emit({ type: "headersNotExposed" });
      }

      // 6. Done.
      this.early.reset();
      if (event !== "current") {
        local.emit({ type: "refreshed", sessionId: local.sessionId });
      }
      return { type: "refreshed" };
    } catch (error) {
      return this.#fail(ConnectError.from(error), before);
    }
  }

  #fail(error: ConnectError, before: SessionSnapshot): RefreshOutcome {
    if (this.#local.epoch !== before.epoch) {
      return { type: "stale" };
    }
    // A handler around Refresh may have ended the session; the notice says so.
    const hint = this.#local.obey(error, before);
    const isLost = this.#local.lostCookies(hint, before);
    if (hint?.clear && hint.sessionId === "" && this.#local.status !== "signedOut") {
      // The tokens of this client prove no session, so it has no valid ones.
      this.#local.end("server");
    }
    const seen = isLost ? cookiesMissing(error) : asSeenByCaller(error);
    this.#local.emit({ type: "refreshFailed", code: seen.code });
    return { type: "failed", error: seen };
  }
}

/** The pauses of a {@link Backoff}, in milliseconds. */
interface Pauses {
  readonly first: number;
  readonly longest: number;
  /** The largest share of a pause that is subtracted at random; 0 to 1. */
  readonly jitter: number;
}

const refreshPauses: Pauses = { first: 10_000, longest: 300_000, jitter: 0 };

/**
 * Exponential backoff: each failure doubles the pause until a success resets it. By default 10 s at
 * first and at most 5 min.
 */
export class Backoff {
  readonly #clock: Clock;
  readonly #pauses: Pauses;
  #pause = 0;
  #until = Number.NEGATIVE_INFINITY;

  constructor(clock: Clock, pauses: Pauses = refreshPauses) {
    this.#clock = clock;
    this.#pauses = pauses;
  }

  /** The rest of the current pause in milliseconds; 0 if there is none. */
  get remaining(): number {
    return Math.max(0, this.#until - this.#clock.monotonic());
  }

  /** Starts a pause and returns its rest. Failures during a pause do not prolong it. */
  failed(): number {
    if (this.remaining === 0) {
      const { first, longest, jitter } = this.#pauses;
      this.#pause = Math.min(this.#pause === 0 ? first : this.#pause * 2, longest);
      this.#until = this.#clock.monotonic() + this.#pause * (1 - jitter * Math.random());
    }
    return this.remaining;
  }

  /** Ends the pause after a success. */
  reset(): void {
    this.#pause = 0;
    this.#until = Number.NEGATIVE_INFINITY;
  }
}

/** The collaborators of a {@link TabLock}. */
interface TabLockParts {
  readonly name: string;
  /** How long to wait for the lock, in milliseconds. */
  readonly ms: number;
  readonly clock: Clock;
}

/**
 * The browser's lock `name`, which tabs hold to refresh one after the other. It only saves requests. If
 * the browser has no locks, or the lock is not free in time, the work runs without it.
 */
export class TabLock {
  readonly #parts: TabLockParts;
  /** Whether the last wait was in vain: a tab that the browser has frozen may hold the lock for ever. */
  #isOrphaned = false;

  constructor(parts: TabLockParts) {
    this.#parts = parts;
  }

  /** Runs `work` while this tab holds the lock, or without it. */
  async run<T>(work: () => Promise<T>): Promise<T> {
    const locks = tabLocks();
    if (locks === undefined) {
      return work();
    }
    const { name, ms, clock } = this.#parts;
    const giveUp = new AbortController();
    const cancel = clock.after(ms, () => {
      this.#isOrphaned = true;
      giveUp.abort();
    });
    let running: Promise<T> | undefined;
    const runOnce = (): Promise<T> => {
      cancel();
      running ??= work();
      return running;
    };
    // After a wait in vain, only look whether the lock is free again.
    const how = this.#isOrphaned ? { ifAvailable: true } : { signal: giveUp.signal };
    try {
      return await locks.request(name, how, (lock) => {
        this.#isOrphaned = lock === null;
        return runOnce();
      });
    } catch {
      // The lock was not granted in time, or this kind of page may not use locks: run without it. Or
      // the work itself failed: pass its error on.
      return await runOnce();
    }
  }
}

function tabLocks(): LockManager | undefined {
  try {
    return globalThis.navigator?.locks;
  } catch {
    // With blocked cookies even the access may be refused.
    return undefined;
  }
}

/**
 * A temporary failure of the refresh is a temporary failure of the call that waited for it. So is the
 * answer of something other than the service, such as the page of a gateway, whatever its status.
 */
function asSeenByCaller(error: ConnectError): ConnectError {
  if (!isUnanswered(error) && !temporaryCodes.has(error.code)) {
    return error;
  }
  return withDetails(
    error,
    Code.Unavailable,
    `the session could not be refreshed and is kept (${error.rawMessage}); try again`,
  );
}

const temporaryCodes = new Set([
  Code.Canceled,
  Code.Unknown,
  Code.DeadlineExceeded,
  Code.ResourceExhausted,
  Code.Aborted,
  Code.Internal,
  Code.Unavailable,
  Code.DataLoss,
]);

function refusedAgain(error: ConnectError, retryIn: number): ConnectError {
  return withDetails(
    error,
    Code.Unauthenticated,
    "a new access token was refused right after a refresh; check cookies, and clocks and keys of the " +
      `servers. The next refresh is allowed in ${Math.ceil(retryIn / 1000)} s`,
    error.metadata,
  );
}

/** The error of a call without cookies by a client that is signed in. */
export function cookiesMissing(error: ConnectError): ConnectError {
  return withDetails(
    error,
    Code.Unauthenticated,
    "this client was signed in, but the browser sent no session cookie; sign in again. On http://localhost, " +
      "WebKit needs cookies: { insecure: true }",
    error.metadata,
  );
}

/** The error of an answer that does not tell this client about its session. */
export function unreadable(): ConnectError {
  return new ConnectError(
    "the client cannot read the answer of Refresh; expose the rpcsession-* response headers with " +
      "CORS, and use the same token transport and realm on client and server",
    Code.FailedPrecondition,
  );
}

/** A new error with the details of `cause`. */
function withDetails(
  cause: ConnectError,
  code: Code,
  message: string,
  metadata?: Headers,
): ConnectError {
  const error = new ConnectError(message, code, metadata, undefined, cause);
  error.details = cause.details;
  return error;
}
