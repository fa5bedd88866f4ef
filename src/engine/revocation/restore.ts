import type { Clock } from "../../base/clock.ts";
import type { EngineSecrets } from "../keys/secrets.ts";
import type { SigningKeys } from "../keys/stored.ts";
import type { SessionStore } from "../store.ts";
import type { RevocationLog } from "./log.ts";

interface RestorerOptions {
  readonly store: SessionStore;
  readonly revocations: Pick<RevocationLog, "all">;
  readonly secrets: Pick<EngineSecrets, "restore">;
  readonly keys: Pick<SigningKeys, "open">;
  readonly clock: Clock;
}

const retryMs = 1_000;
/** Sessions revoked by one call of the store. */
const batchSize = 500;

/**
 * After a store has lost changes, restores in the background what this server still knows.
 *
 * Dead secrets are declared dead again. Signing keys are read again, and created if there are none, so
 * that tokens under lost keys are refused. Every revocation that still matters is written again. The
 * store's own data is kept.
 */
export class Restorer {
  readonly #options: RestorerOptions;
  #work: Promise<void> | undefined;
  #requests = 0;
  #closed = false;
  #cancelRetry = (): void => {};

  constructor(options: RestorerOptions) {
    this.#options = options;
  }

  /** Starts, or starts over; retries until it has succeeded. */
  begin(): void {
    this.#requests += 1;
    this.#cancelRetry();
    this.#work ??= this.#run();
  }

  /** Stops; resolves when no write is in progress. */
  async close(): Promise<void> {
    this.#closed = true;
    this.#cancelRetry();
    await this.#work;
  }

  async #run(): Promise<void> {
    const requests = this.#requests;
    const done = await this.#restore().then(
      () => true,
      () => false,
    );
    this.#work = undefined;
    if (this.#closed || (done && requests === this.#requests)) {
      return;
    }
    this.#cancelRetry = this.#options.clock.after(retryMs, () => {
      this.#work ??= this.#run();
    });
  }

  async #restore(): Promise<void> {
    const { store, revocations, secrets, keys } = this.#options;
    await secrets.restore();
    await keys.open();
    const ends = Map.groupBy(revocations.all(), ({ endedBy }) => endedBy);
    for (const [endedBy, changes] of ends) {
      for (let done = 0; done < changes.length && !this.#closed; done += batchSize) {
        const ids = changes.slice(done, done + batchSize).map(({ session }) => session);
        // One batch at a time, to go easy on a store that has just come back.
        await store.revokeAll({ ids }, endedBy);
      }
    }
  }
}
