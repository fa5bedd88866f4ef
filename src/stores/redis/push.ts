import type { Clock } from "../../base/clock.ts";
import { randomId } from "../../base/crypto.ts";
import { type ChangeListeners, type OpenPushLine, PushConnection } from "../push.ts";

/** The part of a client that listening needs: a client of node-redis, a cluster or a sentinel fits. */
interface Subscriber {
  connect(): Promise<unknown>;
  subscribe(channel: string, listener: () => void): Promise<unknown>;
  destroy(): unknown;
  on(event: "error" | "end", listener: () => void): unknown;
  /** Lets the process exit while the connection is open. */
  unref?(): void;
}

/** Options of {@link RedisPush}. */
interface RedisPushOptions {
  /** The channel to which the scripts publish when they append to the change log. */
  readonly channel: string;
  /** Publishes a message through the store's own client. */
  readonly publish: (channel: string) => Promise<unknown>;
  readonly listeners: ChangeListeners;
}

/**
 * Wakes a store's listeners when other processes append to the change log. Starts with the first
 * listener, and ends when the last engine closes the store.
 */
export class RedisPush {
  readonly #client: object;
  readonly #options: RedisPushOptions;
  #clock: Clock | undefined;
  #push: PushConnection | undefined;
  #holders = 0;

  constructor(client: object, options: RedisPushOptions) {
    this.#client = client;
    this.#options = options;
  }

  /** Counts an engine that opened the store. The clock of the first one stays. */
  open(clock: Clock): void {
    this.#clock ??= clock;
    this.#holders += 1;
  }

  /** Counts an engine that closed the store. */
  close(): void {
    this.#holders = Math.max(0, this.#holders - 1);
    if (this.#holders === 0) {
      this.#push?.close();
      this.#push = undefined;
    }
  }

  onChange(wake: () => void): () => void {
    const { listeners } = this.#options;
    if (this.#push === undefined && this.#clock !== undefined && this.#holders > 0) {
      const open = subscribeWith(this.#client, this.#options);
      this.#push = open && new PushConnection({ clock: this.#clock, open, wake: listeners.call });
    }
    return listeners.add(wake);
  }

  /** Whether messages arrive at this moment; undefined before the first listener, or if they never do. */
  connected(): boolean | undefined {
    return this.#push?.connected();
  }
}

/**
 * Listens on a connection of its own, a duplicate of the client's. Each ping is a message that the
 * store's client publishes, so that a connection to a demoted primary is noticed.
 *
 * @returns undefined when the client cannot be duplicated or the duplicate cannot subscribe
 */
function subscribeWith(
  client: object,
  { channel, publish }: RedisPushOptions,
): OpenPushLine | undefined {
  const { duplicate } = client as { readonly duplicate?: unknown };
  if (typeof duplicate !== "function" || !("subscribe" in client)) {
    return undefined;
  }
  return async ({ wake, lost }) => {
    const subscriber = duplicate.call(client) as Subscriber;
    const pings = `${channel}:${randomId(12)}`;
    let heard = (): void => {};
    subscriber.on("error", lost);
    subscriber.on("end", lost);
    const close = (): void => {
      try {
        // A sentinel returns a promise; a client throws if it is closed already.
        Promise.resolve(subscriber.destroy()).catch(() => {});
      } catch {}
    };
    try {
      await subscriber.connect();
      subscriber.unref?.();
      await subscriber.subscribe(channel, () => wake());
      await subscriber.subscribe(pings, () => heard());
    } catch (error) {
      close();
      throw error;
    }
    return {
      close,
      ping: () =>
        new Promise<void>((resolve, reject) => {
          heard = resolve;
          publish(pings).catch(reject);
        }),
    };
  };
}
