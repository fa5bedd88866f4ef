import type { SessionClientEvent } from "../client-event.ts";
import { type ClientTokens, isClientTokens, type TokenStore } from "./token-store.ts";

/**
 * Speaks to the {@link TokenStore}: checks what it loads, saves one at a time with the newest last,
 * and turns every failure into an event. Nothing here rejects.
 */
export class TokenKeeper {
  readonly #store: TokenStore;
  readonly #emit: (event: SessionClientEvent) => void;
  #saving: Promise<void> | undefined;
  #next: { readonly tokens: ClientTokens | undefined } | undefined;

  constructor(store: TokenStore, emit: (event: SessionClientEvent) => void) {
    this.#store = store;
    this.#emit = emit;
  }

  /** Gives `then` what the store holds, at once where the store answers at once. */
  load(then: (loaded: Loaded) => void): void | Promise<void> {
    try {
      const value = this.#store.load();
      if (!isPromise(value)) {
        then(this.#checked(value));
        return;
      }
      return value.then(
        (tokens) => then(this.#checked(tokens)),
        (error: unknown) => then(this.#failed(error)),
      );
    } catch (error) {
      then(this.#failed(error));
    }
  }

  /** Saves `tokens` after the save that runs now. Of several that wait only the newest is done. */
  save(tokens: ClientTokens | undefined): void {
    this.#next = { tokens };
    this.#saving ??= this.#drain();
  }

  /** Resolves when nothing is left to save. */
  async idle(): Promise<void> {
    await this.#saving;
  }

  async #drain(): Promise<void> {
    while (this.#next !== undefined) {
      const { tokens } = this.#next;
      this.#next = undefined;
      try {
        await this.#store.save(tokens);
      } catch (error) {
        this.#emit({ type: "storeFailed", operation: "save", error: nameOf(error) });
      }
    }
    this.#saving = undefined;
  }

  #checked(value: unknown): Loaded {
    if (value === undefined || value === null) {
      return { tokens: undefined };
    }
    return isClientTokens(value)
      ? { tokens: value }
      : this.#failed(new TypeError("what the store holds are no tokens"));
  }

  #failed(error: unknown): Loaded {
    this.#emit({ type: "storeFailed", operation: "load", error: nameOf(error) });
    return "failed";
  }
}

/** What a load found; `failed` is not the same as nothing. */
export type Loaded = { readonly tokens: ClientTokens | undefined } | "failed";

function isPromise<T>(value: T | Promise<T>): value is Promise<T> {
  return typeof (value as { then?: unknown } | undefined)?.then === "function";
}

/** Only the name: the message of a store's error might hold what it failed to save. */
function nameOf(error: unknown): string {
  return error instanceof Error ? error.name : typeof error;
}
