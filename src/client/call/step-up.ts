import type { StepUpListener } from "../events.ts";
import type { Hint } from "../state/hint.ts";
import type { LocalSession } from "../state/local-session.ts";
import { isCurrent } from "../state/notice-rule.ts";

/** One authentication for all calls that were refused because the last one was not enough. */
export class StepUps {
  readonly #local: LocalSession;
  readonly #onStepUp: StepUpListener | undefined;
  /** The sessions before and after the last one. */
  #replaced: readonly (string | undefined)[] = [];
  /** Whether the calls that wait for it may be sent again; undefined while there is none. */
  running: Promise<boolean> | undefined;

  constructor(local: LocalSession, onStepUp: StepUpListener | undefined) {
    this.#local = local;
    this.#onStepUp = onStepUp;
  }

  /**
   * Returns whether a refused call may be sent again: the user has authenticated since.
   *
   * @param during the authentication during which the call was sent. The call may be part of it, so it
   *   must not wait for it
   */
  async run(hint: Hint, during: Promise<boolean> | undefined): Promise<boolean> {
    if (this.running === undefined) {
      const { sessionId } = this.#local;
      if (!isCurrent(hint.sessionId, this.#local)) {
        return this.#replaced[0] === hint.sessionId && this.#replaced[1] === sessionId;
      }
      // It starts later, so that the calls of the listener already see that it runs.
      this.running = Promise.resolve(hint)
        .then((asked) => this.#ask(asked))
        .finally(() => {
          this.running = undefined;
        });
    }
    return this.running !== during && this.running;
  }

  async #ask({ procedure, acrValues, maxAge, sessionId }: Hint): Promise<boolean> {
    const local = this.#local;
    const { userId } = local;
    const isDone = await this.#onStepUp?.({ procedure, acrValues, maxAge });
    // Under a different user it would be a different call.
    const mayResend = isDone !== false && local.userId === userId;
    this.#replaced = mayResend ? [sessionId, local.sessionId] : [];
    return mayResend;
  }
}
