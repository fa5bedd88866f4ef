import { type Client, createClient, type Transport } from "@connectrpc/connect";
import { SessionService } from "../../../gen/rpcsession/v1/service_pb.ts";
import type { Clock } from "../../base/clock.ts";
import { header } from "../../base/wire.ts";
import { deadlineSignal, race } from "../call/deadline.ts";
import type { LocalSession } from "../state/local-session.ts";

/** What identifies a session to SessionService: tokens by header, or the anti-CSRF token alone. */
export type Credentials = Pick<LocalSession, "transport" | "tokens" | "csrf">;

/** Options of one call that a user of the client starts. */
export interface SessionCallOptions {
  /** Stops waiting. */
  readonly signal?: AbortSignal;
  /** How long to wait, in milliseconds. */
  readonly timeoutMs?: number;
}

/** Calls SessionService on a transport without our interceptor, so that nothing recurs. */
export class SessionRpc {
  readonly #client: Client<typeof SessionService>;
  readonly #clock: Clock;

  constructor(transport: Transport, clock: Clock) {
    this.#client = createClient(SessionService, transport);
    this.#clock = clock;
  }

  /**
   * Refreshes.
   *
   * @returns the response headers, where the tokens are
   * @throws ConnectError
   */
  async refresh(held: Credentials, timeoutMs: number): Promise<Headers> {
    const refreshToken = held.tokens?.refreshToken ?? "";
    let answer = new Headers();
    await this.#bounded({ timeoutMs }, (bounds) =>
      this.#client.refresh(
        { refreshToken },
        {
          ...bounds,
          headers: sessionHeaders(held),
          onHeader: (headers) => {
            answer = headers;
          },
        },
      ),
    );
    return answer;
  }

  /**
   * Ends the session.
   *
   * @throws ConnectError
   */
  async signOut(held: Credentials, options: SessionCallOptions): Promise<void> {
    const refreshToken = held.tokens?.refreshToken ?? "";
    const headers = new Headers(sessionHeaders(held));
    if (held.tokens !== undefined) {
      headers.set("authorization", `Bearer ${held.tokens.accessToken}`);
    }
    await this.#bounded(options, (bounds) =>
      this.#client.signOut({ refreshToken }, { ...bounds, headers }),
    );
  }

  /** The server is told the deadline; the timer is ours, in case the transport knows no signals. */
  async #bounded<T>(
    { timeoutMs, signal }: SessionCallOptions,
    call: (bounds: { signal?: AbortSignal; timeoutMs?: number }) => Promise<T>,
  ): Promise<T> {
    const [until, done] = deadlineSignal(this.#clock, timeoutMs, signal);
    try {
      const bounds = { ...(until && { signal: until }), ...(timeoutMs && { timeoutMs }) };
      return await race(call(bounds), until);
    } finally {
      done();
    }
  }
}

/** The headers of every call but for the access token. */
export function sessionHeaders(held: Credentials): Record<string, string> {
  return {
    [header.transport]: held.transport,
    ...(held.csrf !== undefined && { [header.csrf]: held.csrf }),
  };
}
