import { SessionError, unavailable } from "../base/errors.ts";
import type { SessionRecord, SessionStore, Stored } from "./store.ts";

/**
 * Reports a rejection of the store as an outage: it says nothing about the session. Use it as
 * `await store.load(id).catch(storeFailed)`.
 * @throws SessionError `unavailable`, or `cause` if it is a SessionError already
 */
export function storeFailed(cause: unknown): never {
  throw cause instanceof SessionError
    ? cause
    : unavailable("the session store could not be reached; try again", cause);
}

/** Concurrent reads, at most. */
const atOnce = 64;
/** Calls that may wait for a read, at most. */
const waitingMax = 1_000;

/**
 * Reads sessions while the change log is unsure, without flooding the store. Every call gets a read
 * of its own that begins after the call came. If too many calls wait, further ones are refused.
 */
export class RowReads {
  readonly #store: Pick<SessionStore, "load">;
  readonly #waiting: (() => void)[] = [];
  #underWay = 0;

  constructor(store: Pick<SessionStore, "load">) {
    this.#store = store;
  }

  /** @throws SessionError `unavailable` */
  async load(session: string): Promise<Stored<SessionRecord | undefined>> {
    await this.#turn();
    try {
      return await this.#store.load(session).catch(storeFailed);
    } finally {
      // Hands its place to the next caller directly, so that no newer call overtakes.
      const next = this.#waiting.shift();
      if (next === undefined) {
        this.#underWay -= 1;
      } else {
        next();
      }
    }
  }

  async #turn(): Promise<void> {
    if (this.#underWay < atOnce) {
      this.#underWay += 1;
      return;
    }
    if (this.#waiting.length >= waitingMax) {
      throw unavailable("too many calls are waiting for the session store; try again");
    }
    await new Promise<void>((resolve) => {
      this.#waiting.push(resolve);
    });
  }
}
