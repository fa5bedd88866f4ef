import { deadlineSignal, race } from "../call/deadline.ts";
import type { SessionContext } from "../state/context.ts";
import type { Credentials, SessionCallOptions } from "./rpc.ts";

/** Signs out: here at once, then at the server. */
export class SignOuts {
  readonly #core: SessionContext;
  #waiting = 0;

  constructor(core: SessionContext) {
    this.#core = core;
  }

  /**
   * @param refresh the refresh that runs now. In cookie mode its answer sets cookies, so it must
   *   land before they are cleared
   * @throws ConnectError when the server could not be told
   */
  async run(options: SessionCallOptions, refresh: Promise<unknown> | undefined): Promise<void> {
    const { local, keeper } = this.#core;
    const { transport, csrf } = local;
    let { tokens } = local;
    const loading = this.#core.ready()?.then((found) => {
      tokens ??= found;
    });
    this.#core.end("signOut");
    const bounds = { timeoutMs: this.#core.options.refreshTimeoutMs, ...options };
    this.#waiting += 1;
    try {
      await this.#bounded(bounds, Promise.all([loading, transport === "cookie" && refresh]));
    } finally {
      this.#waiting -= 1;
    }
    await this.#send({ transport, csrf, tokens }, bounds);
    await this.#bounded(bounds, keeper.idle());
  }

  /** An answer that came after the sign-out has set cookies once more; clears them too. */
  again(): void {
    if (this.#waiting === 0) {
      const timeoutMs = this.#core.options.refreshTimeoutMs;
      const held = { transport: this.#core.local.transport, csrf: undefined, tokens: undefined };
      this.#send(held, { timeoutMs }).catch(() => {});
    }
  }

  async #send(held: Credentials, bounds: SessionCallOptions): Promise<void> {
    const { local, rpc } = this.#core;
    // Signed in again meanwhile: the cookies are those of the new session.
    const replaced = held.transport === "cookie" && local.status === "signedIn";
    if (!replaced && (held.transport === "cookie" || held.tokens !== undefined)) {
      await rpc.signOut(held, bounds);
    }
  }

  /** Waits for `work` within the bounds, and goes on when they are passed. */
  async #bounded({ timeoutMs, signal }: SessionCallOptions, work: Promise<unknown>): Promise<void> {
    const [until, done] = deadlineSignal(this.#core.options.clock, timeoutMs, signal);
    await race(work, until).catch(() => {});
    done();
  }
}
