import type { DatabaseSync, StatementSync } from "node:sqlite";
import type { Clock } from "../../base/clock.ts";
import type { Push } from "../push.ts";

/** Milliseconds between two polls. */
const pollEvery = 100;

/** The parts of {@link FileWatch}. */
interface Watching {
  /** Writes nothing, because its own writes would go unnoticed; closed by `close`. */
  readonly connection: DatabaseSync;
  readonly clock: Clock;
  /** Throws if the file is gone. */
  readonly check: () => void;
  readonly wake: () => void;
}

/**
 * Polls whether other connections wrote to the file, ten times a second. That takes a few microseconds
 * and reads no table.
 */
export class FileWatch implements Push {
  readonly #connection: DatabaseSync;
  readonly #clock: Clock;
  readonly #check: () => void;
  readonly #wake: () => void;
  readonly #poll: StatementSync;
  #version: unknown;
  #working = true;
  #closed = false;
  #cancelNext = (): void => {};

  constructor({ connection, clock, check, wake }: Watching) {
    this.#connection = connection;
    this.#clock = clock;
    this.#check = check;
    this.#wake = wake;
    this.#poll = connection.prepare("pragma data_version");
    this.#version = this.#poll.get()?.data_version;
    this.#pollLater();
  }

  connected(): boolean {
    return this.#working;
  }

  close(): void {
    this.#closed = true;
    this.#cancelNext();
    this.#connection.close();
  }

  #pollLater(): void {
    if (this.#closed) {
      return;
    }
    this.#cancelNext = this.#clock.after(pollEvery, () => {
      try {
        this.#check();
        const version = this.#poll.get()?.data_version;
        this.#working = true;
        if (version !== this.#version) {
          this.#version = version;
          this.#wake();
        }
      } catch {
        // Locked for the moment, or the disk fails, or the file is gone: then reads of the change log
        // will report it.
        this.#working = false;
      }
      // In a later microtask, so that a test clock that jumps an hour does not poll 36,000 times.
      queueMicrotask(() => this.#pollLater());
    });
  }
}
