import type { Clock } from "../../base/clock.ts";
import type { SigningKeys } from "../keys/stored.ts";
import type { SessionStore } from "../store.ts";
import type { Revocations } from "./revocations.ts";

/** What a server needs to bring back what its store has lost. */
export interface RestoreOptions {
  readonly store: SessionStore;
  readonly revocations: Revocations;
  readonly keys: SigningKeys;
  readonly clock: Clock;
}

/** Brings back what a store has lost, in the background. */
export interface Restorer {
  /** Begins, or begins anew; goes on until it is done. */
  begin(): void;
  /** Ends it; resolves when no write is under way. */
  close(): Promise<void>;
}

const retryMs = 1_000;
/** Sessions that are ended at once. */
const atOnce = 500;

export function createRestorer(options: RestoreOptions): Restorer {
  return new BackgroundRestorer(options);
}

class BackgroundRestorer implements Restorer {
  readonly #options: RestoreOptions;
  #work: Promise<void> | undefined;
  #asked = 0;
  #closed = false;
  #cancelRetry = (): void => {};

  constructor(options: RestoreOptions) {
    this.#options = options;
  }

  begin(): void {
    this.#asked += 1;
    this.#cancelRetry();
    this.#work ??= this.#restore();
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#cancelRetry();
    await this.#work;
  }

  async #restore(): Promise<void> {
    const asked = this.#asked;
    const done = await restoreStore(this.#options, () => !this.#closed).then(
      () => true,
      () => false,
    );
    this.#work = undefined;
    if (this.#closed || (done && asked === this.#asked)) {
      return;
    }
    this.#cancelRetry = this.#options.clock.after(retryMs, () => {
      this.#work ??= this.#restore();
    });
  }
}

/**
 * Brings back, after the store has lost changes, what this server knows: signing keys are read
 * again, and made anew where there are none, so that tokens under lost ones are refused; every
 * revocation that still matters is written again. What the store knows stays as it is.
 */
async function restoreStore(
  { store, revocations, keys }: RestoreOptions,
  goOn: () => boolean,
): Promise<void> {
  await keys.open();
  const ends = Map.groupBy(revocations.all(), ({ endedBy }) => endedBy);
  for (const [endedBy, changes] of ends) {
    for (let done = 0; done < changes.length && goOn(); done += atOnce) {
      const ids = changes.slice(done, done + atOnce).map(({ session }) => session);
      // One after the other: a store that has just come back has enough to do.
      await store.revokeAll({ ids }, endedBy);
    }
  }
}
