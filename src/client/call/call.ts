import { Code, ConnectError } from "@connectrpc/connect";
import { header } from "../../base/wire.ts";
import { type Hint, withoutTokens } from "../refresh/hint.ts";
import { sessionHeaders } from "../refresh/rpc.ts";
import type { SessionCore } from "../state/core.ts";
import type { SentMark } from "../state/notice-rule.ts";
import { race } from "./deadline.ts";

/**
 * One call of a client, of whatever kind: prepare, then attach and send, then accept; when it is
 * refused, recover and send once more. It is sent twice at most.
 */
export class SessionCall {
  readonly #core: SessionCore;
  readonly #signal: AbortSignal | undefined;
  readonly #replayable: boolean;
  #delivered = false;
  #sends = 0;
  #sent: SentMark;
  #loaded = false;
  #accepted = false;

  /** @param options.replayable whether the request can be sent a second time */
  constructor(
    core: SessionCore,
    options: { readonly signal: AbortSignal | undefined; readonly replayable: boolean },
  ) {
    this.#core = core;
    this.#signal = options.signal;
    this.#replayable = options.replayable;
    this.#sent = core.local.mark();
  }

  /** Whether a refusal could still be answered by sending the call again. */
  get mayResend(): boolean {
    return this.#replayable && !this.#delivered && this.#sends < 2;
  }

  /**
   * Waits for the tokens to be loaded, and refreshes ahead of the token's end: in the background
   * while the token is good; before anything is sent once it is not, or for a stream, which cannot
   * simply be sent again.
   *
   * @throws the reason of the call's signal
   */
  async prepare(stream: boolean): Promise<void> {
    const { local, options, refresher } = this.#core;
    const loading = this.#core.ready();
    if (loading !== undefined) {
      await race(loading, this.#signal);
    }
    const phase = local.phase(options.earlyRefresh);
    if (phase === "unknown" || phase === "fresh" || !refresher.can()) {
      return;
    }
    const refreshed = refresher.runEarly();
    if (refreshed !== undefined && (stream || phase === "over")) {
      await race(refreshed, this.#signal);
    }
  }

  /** Writes the token and the rest into the headers of the request, which is sent right after. */
  attach(headers: Headers): void {
    const { local } = this.#core;
    this.#sends += 1;
    this.#sent = local.mark();
    this.#loaded = this.#core.ready() === undefined;
    this.#accepted = false;
    headers.delete(header.csrf);
    for (const [name, value] of Object.entries(sessionHeaders(local))) {
      headers.set(name, value);
    }
    if (local.tokens !== undefined) {
      headers.set("authorization", `Bearer ${local.tokens.accessToken}`);
    }
  }

  /** Takes the headers of the answer. Once for each time the call was sent. */
  accept(headers: Headers): void {
    if (!this.#accepted) {
      this.#accepted = true;
      this.#core.receive(headers, this.#sent);
    }
  }

  /** The answer was good: a message, or an end without an error. */
  succeeded(): void {
    this.#delivered = true;
    if (this.#sends === 2) {
      this.#core.refresher.refused.reset();
    }
  }

  /**
   * Returns when the call shall be sent again.
   *
   * @throws what the caller shall see otherwise
   */
  async recover(reason: unknown): Promise<void> {
    if (!(reason instanceof ConnectError)) {
      throw reason;
    }
    const error: ConnectError = reason;
    this.accept(error.metadata);
    const hint = this.#core.obey(withoutTokens(error));
    if (hint?.action === "signIn" && !this.#loaded && this.mayResend) {
      return this.#loadThenResend(error);
    }
    // Under another session than it was sent for, the call would be another call.
    if (hint?.action !== "refresh" || this.#core.local.epoch !== this.#sent.epoch) {
      throw error;
    }
    if (this.#core.local.version !== this.#sent.version) {
      return this.#mustResend(error);
    }
    return this.#refresh(error, hint);
  }

  async #refresh(error: ConnectError, hint: Hint): Promise<void> {
    const { refresher } = this.#core;
    if (!refresher.can(hint)) {
      throw error;
    }
    if (this.#sends > 1 && !this.#delivered) {
      const retryIn = refresher.refused.failed();
      this.#core.emit({ type: "refreshRefused", retryIn });
      throw refusedAgain(error, retryIn);
    }
    if (refresher.refused.remaining > 0) {
      throw refusedAgain(error, refresher.refused.remaining);
    }
    const running = refresher.run();
    // Not for this call, but the next one shall find a good token.
    this.#mustResend(error);
    const outcome = await race(running, this.#signal);
    if (outcome.type === "failed") {
      throw outcome.error;
    }
    if (outcome.type === "stale" || this.#core.local.epoch !== this.#sent.epoch) {
      throw error;
    }
  }

  /** The call went out before the store had told what it holds. */
  async #loadThenResend(error: ConnectError): Promise<void> {
    const loading = this.#core.ready();
    if (loading !== undefined) {
      await race(loading, this.#signal);
    }
    if (this.#core.local.tokens === undefined) {
      throw error;
    }
  }

  #mustResend(error: ConnectError): void {
    if (!this.mayResend) {
      throw error;
    }
  }
}

function refusedAgain(error: ConnectError, retryIn: number): ConnectError {
  const seen = new ConnectError(
    "a fresh access token was refused right after a refresh. Likely causes: the browser blocks or " +
      "drops the session cookies, the clocks of the servers are apart, or the servers do not share " +
      `their keys. The next refresh is tried in ${Math.ceil(retryIn / 1000)} s`,
    Code.Unauthenticated,
    error.metadata,
    undefined,
    error,
  );
  seen.details = error.details;
  return seen;
}
