import { SessionError, unavailable } from "../base/errors.ts";
import type { SessionTelemetry } from "../base/telemetry.ts";
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

/** Methods that answer at once, or are no operation on sessions. */
const unobserved: ReadonlySet<string> = new Set(["onChange", "pushed", "close"]);

/** A store that does the same as another one, and reports each of its operations to `telemetry`. */
export function observedStore(store: SessionStore, telemetry: SessionTelemetry): SessionStore {
  const methods = new Map<string, unknown>();
  const bound = (name: string, method: (...given: unknown[]) => unknown) => {
    if (unobserved.has(name)) {
      return method.bind(store);
    }
    return (...given: unknown[]) =>
      telemetry.store(name, async () => Reflect.apply(method, store, given));
  };
  return new Proxy(store, {
    get(_, name) {
      // The receiver is the store itself, because its fields are private.
      const value: unknown = Reflect.get(store, name, store);
      if (typeof value !== "function" || typeof name !== "string") {
        return value;
      }
      // A method that appears later, or is replaced in a test, is bound anew.
      const known = methods.get(name) as { readonly of: unknown; readonly as: unknown } | undefined;
      if (known?.of === value) {
        return known.as;
      }
      const as = bound(name, value as (...given: unknown[]) => unknown);
      methods.set(name, { of: value, as });
      return as;
    },
  });
}
