import { Code, ConnectError } from "@connectrpc/connect";
import { header } from "../../base/wire.ts";
import type { SessionCore } from "../core.ts";
import { cookiesMissing } from "../refresh/refresher.ts";
import { tokensNotLoaded } from "../state/credentials.ts";
import type { SentSnapshot } from "../state/notice-rule.ts";
import { deadlineExceeded, race } from "./deadline.ts";

/**
 * The mark of a call, carried in its context values. Two layers of this package may handle the same
 * call: `withRefresh` around a client whose transport already has the session's interceptor. The
 * interceptor, which is the inner layer, sets the mark and does the work; the outer layer sees the
 * mark and leaves the call alone. A call is therefore sent at most twice.
 */
export interface HandledMark {
  handled: boolean;
  /** Whether the caller has set an `authorization` header: the call is not made for this session. */
  readonly hasOwnToken: boolean;
}

/** Describes a call before it is sent. */
interface CallDescription {
  readonly signal: AbortSignal | undefined;
  /** The time that all attempts may take together, in milliseconds; undefined for no limit. */
  readonly timeoutMs: number | undefined;
  readonly isStream: boolean;
  /** Whether the message is large; only called when a refresh is due. Default: it is not. */
  readonly isLarge?: () => boolean;
  /** Whether the request can be sent a second time. */
  readonly isReplayable: boolean;
  /** The mark of the call. The outer layer of two passes it before it is set. */
  readonly mark: HandledMark;
  /** Whether this is the outer layer of two, which leaves the call alone once it is marked. */
  readonly isOuter?: boolean;
}

/**
 * One call of a client, unary or streaming. It is sent at most twice: a second time only after a
 * refusal that a refresh, or another authentication of the user, can cure.
 */
export class SessionCall {
  readonly #core: SessionCore;
  readonly #call: CallDescription;
  readonly #startedAt: number;
  #sends = 0;
  /** The session at the time of the last send. */
  #sent: SentSnapshot | undefined;
  /** The step-up during which the call was sent last. */
  #during: Promise<boolean> | undefined;
  /** Whether the headers of the current response have been read. */
  #isAccepted = false;
  /** Whether the caller has received a message. */
  #isDelivered = false;

  constructor(core: SessionCore, call: CallDescription) {
    this.#core = core;
    this.#call = call;
    this.#startedAt = core.options.clock.monotonic();
  }

  /** Whether the call may be sent again after a refusal. */
  get mayResend(): boolean {
    return this.#call.isReplayable && !this.#isDelivered && this.#sends < 2;
  }

  /** Whether the headers of a response announce a refusal after which the call may be sent again. */
  isCurable(headers: Headers): boolean {
    const hint = headers.get(header.hint);
    const { onStepUp } = this.#core.options;
    return this.mayResend && (hint === "refresh" || (hint === "step-up" && onStepUp !== undefined));
  }

  /**
   * Sends the call until it is accepted or finally refused. See {@link recover} for the second half
   * of the story, which a stream enters on its own when it is refused after its headers.
   *
   * @param headers the request headers. Each attempt gets a copy with the credentials, because what
   *   an inner interceptor appends must not be sent twice
   * @param send sends the request once, within `timeoutMs`, and passes the headers of the response
   *   to {@link accept}
   * @param sent the first attempt, if the caller has sent it already
   * @throws the error for the caller of the method
   */
  async run<T>(
    headers: Headers,
    send: (attempt: Headers, timeoutMs: number | undefined) => Promise<T>,
    sent?: Promise<T>,
  ): Promise<T> {
    const { local, refresher } = this.#core;
    const { signal, isStream, isLarge, mark } = this.#call;
    if (this.#sends === 0 && !mark.hasOwnToken) {
      // 1. Wait until the tokens are loaded.
      const loading = local.ready();
      if (loading !== undefined) {
        await race(loading, signal);
      }

      // 2. Refresh early. A unary call waits only if its token has expired already. A stream and a
      //    large message always wait, because sending them again is impossible or costs more.
      const phase = local.lifetime.phase;
      if (phase !== "fresh" && refresher.canRefresh()) {
        const refreshed = refresher.refreshEarly();
        if (refreshed !== undefined && (isStream || phase === "expired" || isLarge?.())) {
          await race(refreshed, signal);
        }
      }
    }
    let attempt = sent;
    for (;;) {
      try {
        // 3. Attach the credentials, send, and read the notice of the response.
        const copy = new Headers(headers);
        return await (attempt ?? send(copy, this.attach(copy)));
      } catch (error) {
        // 4. Refused: refresh and send once more, or throw.
        attempt = undefined;
        await this.recover(error);
      }
    }
  }

  /**
   * Handles the failure of an attempt. Returns if the call is to be sent again.
   *
   * @throws the error for the caller of the method, if the call is not to be sent again
   */
  async recover(reason: unknown): Promise<void> {
    const { local, options, refresher, stepUp } = this.#core;
    const { signal, mark, isOuter } = this.#call;
    const sent = this.#sent;
    const isForeign = mark.hasOwnToken || (isOuter && mark.handled);
    if (!(reason instanceof ConnectError) || isForeign || sent === undefined) {
      throw reason;
    }
    const error: ConnectError = reason;

    // 5. Read the notice and the hint of the refusal. Either can end the session here.
    const hint = local.obey(error, this.#isAccepted ? undefined : sent);
    this.#isAccepted = true;
    if (local.lostCookies(hint, sent)) {
      throw cookiesMissing(error);
    }

    // 6. The call was sent before its tokens were loaded: load them and send again. If the token
    //    store fails, it is not known whether the user is signed in.
    if (hint?.action === "signIn" && !sent.wasLoaded) {
      const loading = this.mayResend ? local.ready() : undefined;
      if (loading !== undefined) {
        await race(loading, signal);
      }
      if (!local.isLoaded) {
        throw tokensNotLoaded(error);
      }
      if (!this.mayResend || local.tokens === undefined) {
        throw error;
      }
      return;
    }

    // 7. The user must authenticate again: ask once for all calls that were refused until then.
    if (hint?.action === "stepUp" && options.onStepUp && this.mayResend) {
      if (await race(stepUp.run(hint, this.#during), signal)) {
        return;
      }
    }

    // 8. Continue only on a REFRESH hint. Under a different session it would be a different call.
    if (hint?.action !== "refresh" || local.epoch !== sent.epoch) {
      throw error;
    }

    // 9. Refresh once for all calls, unless another call has done so since this one was sent.
    const refreshing =
      local.version === sent.version
        ? refresher.refreshAfterRefusal(error, hint, this.#sends > 1 && !this.#isDelivered)
        : undefined;

    // 10. A call that cannot be sent again fails now. The next call finds the new token.
    if (!this.mayResend) {
      throw error;
    }

    // 11. Wait for the refresh. Send again only if the session is still the same.
    if (refreshing !== undefined) {
      const outcome = await race(refreshing, signal);
      if (outcome.type === "failed") {
        throw outcome.error;
      }
      if (outcome.type === "stale" || local.epoch !== sent.epoch) {
        throw error;
      }
    }
  }

  /**
   * Writes the credentials into the request headers. Call it right before sending.
   *
   * @returns the time left for this attempt: whole milliseconds, at least 1; undefined for no limit
   * @throws ConnectError DeadlineExceeded if no time is left
   */
  attach(headers: Headers): number | undefined {
    const timeoutMs = this.#timeLeft();
    this.#sends += 1;
    this.#during = this.#core.stepUp.running;
    this.#sent = this.#core.local.attach(headers, this.#call.mark.hasOwnToken);
    this.#isAccepted = false;
    return timeoutMs;
  }

  /**
   * Reads the headers of a response, once for each attempt.
   *
   * @throws ConnectError Unauthenticated if the response belongs to another session than this client's
   */
  accept(headers: Headers): void {
    if (!this.#isAccepted && this.#sent !== undefined) {
      this.#isAccepted = true;
      if (this.#core.local.receive(headers, this.#sent) === "other") {
        // The cookies of a session that has ended here live until the service has answered.
        throw new ConnectError("the session has ended meanwhile", Code.Unauthenticated);
      }
    }
  }

  /** Reads the headers of a successful unary response. */
  complete(headers: Headers): void {
    this.accept(headers);
    this.succeeded();
  }

  /** Records a success: a message, or the end of the call without an error. */
  succeeded(): void {
    this.#isDelivered = true;
    if (this.#sends === 2) {
      this.#core.refresher.refused.reset();
    }
  }

  #timeLeft(): number | undefined {
    const { timeoutMs } = this.#call;
    if (timeoutMs === undefined) {
      return undefined;
    }
    const left = timeoutMs - (this.#core.options.clock.monotonic() - this.#startedAt);
    if (left <= 0) {
      throw deadlineExceeded();
    }
    return Math.ceil(left);
  }
}
