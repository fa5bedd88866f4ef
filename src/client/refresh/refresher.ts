import { Code, ConnectError } from "@connectrpc/connect";
import { deadlineSignal, race } from "../call/deadline.ts";
import type { SessionContext } from "../state/context.ts";
import type { SentMark, Verdict } from "../state/notice-rule.ts";
import { channelName, withLock } from "../state/tabs.ts";
import { Backoff } from "./backoff.ts";
import { type Hint, withoutTokens } from "./hint.ts";

/**
 * - `refreshed`: there is a new access token.
 * - `stale`: the session changed meanwhile; the answer counts for nobody.
 * - `failed`: there is none; the session is kept unless the server said that it is over.
 */
export type RefreshOutcome =
  | { readonly type: "refreshed" }
  | { readonly type: "stale" }
  | { readonly type: "failed"; readonly error: ConnectError };

/** Refreshes the session, once for everybody who waits. */
export class Refresher {
  /** After a token was refused right after a refresh. */
  readonly refused: Backoff;
  /** After an early refresh that failed: nobody asked for it, so nobody is hurt by waiting. */
  readonly early: Backoff;
  readonly #core: SessionContext;
  #flight: { readonly epoch: number; readonly outcome: Promise<RefreshOutcome> } | undefined;

  constructor(core: SessionContext) {
    this.#core = core;
    this.refused = new Backoff(core.options.clock);
    this.early = new Backoff(core.options.clock);
  }

  /** The refresh that runs now, whatever session it is for. */
  get running(): Promise<RefreshOutcome> | undefined {
    return this.#flight?.outcome;
  }

  /** Whether there is anything to refresh. */
  can(hint?: Hint): boolean {
    const { local } = this.#core;
    if (local.transport === "header") {
      return local.tokens?.refreshToken !== undefined;
    }
    // Signed out here; but a hint that names another session than ours shows that the cookies hold
    // a new one.
    const another = !!hint?.session && local.ended !== undefined && hint.session !== local.ended;
    return local.status !== "signedOut" || another;
  }

  /** Joins the refresh that runs for the present session, or starts one. Never rejects. */
  run(): Promise<RefreshOutcome> {
    const { epoch } = this.#core.local;
    if (this.#flight?.epoch === epoch) {
      return this.#flight.outcome;
    }
    const flight = { epoch, outcome: this.#refresh().finally(() => this.#land(flight)) };
    this.#flight = flight;
    return flight.outcome;
  }

  /** A refresh that nobody needs yet; undefined while one is held back. */
  runEarly(): Promise<RefreshOutcome> | undefined {
    if (this.#flight?.epoch !== this.#core.local.epoch && this.#heldBack) {
      return undefined;
    }
    return this.run().then((outcome) => {
      if (outcome.type === "failed") {
        this.early.failed();
      }
      return outcome;
    });
  }

  /** A new session begins with a clean slate. */
  reset(): void {
    this.refused.reset();
    this.early.reset();
  }

  get #heldBack(): boolean {
    return this.refused.remaining > 0 || this.early.remaining > 0;
  }

  #land(flight: unknown): void {
    if (this.#flight === flight) {
      this.#flight = undefined;
    }
  }

  async #refresh(): Promise<RefreshOutcome> {
    const { local, options } = this.#core;
    const sent = local.mark();
    if (local.transport === "cookie") {
      const { realm, refreshTimeoutMs: ms, clock } = options;
      return withLock({ name: channelName(realm), ms, clock }, () => this.#exchange(sent));
    }
    await this.#lookAgain();
    return this.#exchange(sent);
  }

  /** A store that hangs must not hold the refresh for longer than the refresh itself may take. */
  async #lookAgain(): Promise<void> {
    const { clock, refreshTimeoutMs } = this.#core.options;
    const [signal, done] = deadlineSignal(clock, refreshTimeoutMs);
    await race(this.#core.reload(), signal).catch(() => {});
    done();
  }

  async #exchange(sent: SentMark): Promise<RefreshOutcome> {
    const { local, options, rpc } = this.#core;
    if (local.epoch !== sent.epoch) {
      return { type: "stale" };
    }
    if (local.version !== sent.version) {
      return { type: "refreshed" };
    }
    try {
      const headers = await rpc.refresh(local, options.refreshTimeoutMs);
      return this.#succeed(this.#core.receive(headers, sent, true), sent);
    } catch (error) {
      return this.#fail(withoutTokens(ConnectError.from(error)), sent);
    }
  }

  #succeed(verdict: Verdict | "none", sent: SentMark): RefreshOutcome {
    const { local } = this.#core;
    if (local.epoch !== sent.epoch) {
      this.#lateCookies(verdict, sent);
      return { type: "stale" };
    }
    if (local.version === sent.version) {
      if (local.transport === "header") {
        return this.#fail(unreadable(), sent);
      }
      // The answer told nothing readable, but the browser has the new cookies.
      local.learn();
    }
    this.early.reset();
    this.#core.emit({ type: "refreshed", sessionId: local.session });
    return { type: "refreshed" };
  }

  /** Where the answer has no notice (`receive` acts on those), its cookies may be set even so. */
  #lateCookies(verdict: Verdict | "none", sent: SentMark): void {
    const { local } = this.#core;
    if (verdict === "none" && local.transport === "cookie" && local.intent !== sent.intent) {
      this.#core.clearLateCookies();
    }
  }

  #fail(error: ConnectError, sent: SentMark): RefreshOutcome {
    if (this.#core.local.epoch !== sent.epoch) {
      return { type: "stale" };
    }
    this.#core.obey(error);
    this.#core.emit({ type: "refreshFailed", code: error.code });
    return { type: "failed", error: asSeenByCaller(error) };
  }
}

/** An outage while refreshing is an outage for the call that waited for it. */
function asSeenByCaller(error: ConnectError): ConnectError {
  if (!outages.has(error.code)) {
    return error;
  }
  const seen = new ConnectError(
    "the session could not be refreshed now; it is kept, try again",
    Code.Unavailable,
    undefined,
    undefined,
    error,
  );
  seen.details = error.details;
  return seen;
}

const outages = new Set([
  Code.Canceled,
  Code.Unknown,
  Code.DeadlineExceeded,
  Code.ResourceExhausted,
  Code.Aborted,
  Code.Internal,
  Code.Unavailable,
  Code.DataLoss,
]);

function unreadable(): ConnectError {
  return new ConnectError(
    "the answer to Refresh holds no token this client can read; expose the rpcsession-* response " +
      "headers by CORS, and see that client and server agree on the token transport and the realm",
    Code.FailedPrecondition,
  );
}
