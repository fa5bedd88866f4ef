import { Code, ConnectError, type Transport } from "@connectrpc/connect";
import { SessionService } from "../../../gen/rpcsession/v1/service_pb.ts";
import { type SessionCallOptions, withDeadline } from "../call/deadline.ts";
import type { ResolvedOptions } from "../options.ts";
import { type Credentials, credentialHeaders, tokensNotLoaded } from "../state/credentials.ts";
import { isUnanswered } from "../state/hint.ts";
import type { LocalSession } from "../state/local-session.ts";
import type { Refresher } from "./refresher.ts";

/** The objects that a sign-out works with. */
interface SignOutParts {
  readonly options: ResolvedOptions;
  readonly local: LocalSession;
  readonly refresher: Refresher;
  /** Without the session's interceptor, so that sign-outs do not recur. */
  readonly transport: Transport;
}

/** Signs out: locally at once, then on the server. */
export class SignOut {
  readonly #parts: SignOutParts;
  /** The sign-outs that are still waiting to be sent to the server. */
  #waiting = 0;

  constructor(parts: SignOutParts) {
    this.#parts = parts;
  }

  /** @throws ConnectError if the server could not be reached in time */
  async run(options: SessionCallOptions): Promise<void> {
    const { local, refresher, options: defaults } = this.#parts;
    const bounds = { timeoutMs: defaults.refreshTimeoutMs, ...options };

    // 1. Keep the credentials for the server, and sign out locally whatever happens later. Tokens
    //    that are still loading belong to the session that ends.
    const { transport, csrf } = local;
    let { tokens } = local;
    const refreshing = transport === "cookie" ? refresher.running : undefined;
    const reading = local.ready();
    let isKnown = local.isLoaded;
    const loading = reading?.then((loaded) => {
      if (loaded !== "failed") {
        isKnown = true;
        tokens ??= loaded.tokens;
      }
    });
    local.end("signOut");

    // 2. Wait for the loading tokens. In cookie mode, wait for a running refresh as well: its
    //    response sets cookies, so it must arrive before the server clears them.
    this.#waiting += 1;
    try {
      await this.#waitFor(Promise.all([loading, refreshing]), bounds);
    } finally {
      this.#waiting -= 1;
    }

    // 3. Sign out on the server, which clears the cookies. Without the tokens that is impossible.
    if (!isKnown) {
      throw unreached(tokensNotLoaded());
    }
    await this.#send({ transport, csrf, tokens }, bounds);

    // 4. Wait until the token store is empty.
    await this.#waitFor(local.saved(), bounds);
  }

  /** Signs out on the server once more, because a late response has set the cookies again. */
  repeat(): void {
    // A waiting sign-out will clear these cookies as well.
    if (this.#waiting === 0) {
      const { local, options } = this.#parts;
      const held = { transport: local.transport, csrf: undefined, tokens: undefined };
      this.#send(held, { timeoutMs: options.refreshTimeoutMs }).catch(() => {});
    }
  }

  async #send(held: Credentials, bounds: SessionCallOptions): Promise<void> {
    const { options, local, transport } = this.#parts;
    // After a new sign-in the cookies are those of the new session.
    const isReplaced = held.transport === "cookie" && local.status === "signedIn";
    if (!isReplaced && (held.transport === "cookie" || held.tokens !== undefined)) {
      const refreshToken = held.tokens?.refreshToken ?? "";
      const headers = credentialHeaders(held);
      try {
        const response = await withDeadline(options.clock, bounds, (signal) =>
          transport.unary(SessionService.method.signOut, signal, bounds.timeoutMs, headers, {
            refreshToken,
          }),
        );
        local.signedOutOnServer(response.header);
      } catch (reason) {
        const error = ConnectError.from(reason);
        throw isUnanswered(error) ? unreached(error) : error;
      }
    }
  }

  /** Waits for `work` within the bounds, and continues in any case. */
  async #waitFor(work: Promise<unknown>, bounds: SessionCallOptions): Promise<void> {
    await withDeadline(this.#parts.options.clock, bounds, () => work).catch(() => {});
  }
}

/** The service did not answer: something else did, such as a gateway, or it could not be asked. */
function unreached(cause: ConnectError): ConnectError {
  return new ConnectError(
    "the service did not learn of the sign-out; sign out again",
    Code.Unavailable,
    undefined,
    undefined,
    cause,
  );
}
