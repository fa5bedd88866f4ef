import type { Clock } from "../../base/clock.ts";
import { randomId } from "../../base/crypto.ts";
import type { SessionStore } from "../../engine/store.ts";
import type { ChangeListeners } from "../common.ts";
import { type OpenPushLine, type Push, PushConnection } from "../push.ts";

/** What is needed of a client to hear messages: a client of node-redis, a cluster or a sentinel fits. */
interface Subscriber {
  connect(): Promise<unknown>;
  subscribe(channel: string, listener: () => void): Promise<unknown>;
  destroy(): unknown;
  on(event: "error" | "end", listener: () => void): unknown;
  /** Lets the process exit although the connection is open. */
  unref?(): void;
}

/** What is listened to, and how a message is sent. */
export interface RedisPushOptions {
  /** The channel to which the scripts publish what they append. */
  readonly channel: string;
  /** Publishes a message by the store's own client. */
  readonly publish: (channel: string) => Promise<unknown>;
  readonly wakes: ChangeListeners;
}

/** The push of a store that several engines may open. */
export interface RedisPush {
  opened(clock: Clock): void;
  /** It begins with the first listener, and ends when the last engine closes the store. */
  readonly methods: Pick<SessionStore, "close" | "onChange" | "pushed">;
}

export function createRedisPush(client: object, options: RedisPushOptions): RedisPush {
  const open = subscribeWith(client, options);
  const { wakes } = options;
  let clock: Clock | undefined;
  let push: Push | undefined;
  let holders = 0;
  return {
    opened(first) {
      clock ??= first;
      holders += 1;
    },
    methods: {
      // The client is its owner's.
      async close() {
        holders = Math.max(0, holders - 1);
        if (holders === 0) {
          push?.close();
          push = undefined;
        }
      },
      onChange(wake) {
        if (open !== undefined && clock !== undefined && holders > 0) {
          push ??= new PushConnection({ clock, open, wake: () => wakes.call() });
        }
        return wakes.add(wake);
      },
      pushed: () => push?.connected(),
    },
  };
}

/**
 * Listens on a connection of its own, a duplicate of the client's. Each proof is a message that the
 * store's client publishes, so that a line to a server that is no longer the primary is noticed.
 *
 * @returns undefined where the client cannot be duplicated, or a duplicate does not subscribe
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
    const beats = `${channel}:${randomId(12)}`;
    let heard = (): void => {};
    subscriber.on("error", lost);
    subscriber.on("end", lost);
    const close = (): void => {
      try {
        // A sentinel's returns a promise; a client's throws where it is closed already.
        Promise.resolve(subscriber.destroy()).catch(() => {});
      } catch {}
    };
    try {
      await subscriber.connect();
      subscriber.unref?.();
      await subscriber.subscribe(channel, () => wake());
      await subscriber.subscribe(beats, () => heard());
    } catch (error) {
      close();
      throw error;
    }
    return {
      close,
      ping: () =>
        new Promise((resolve, reject) => {
          heard = resolve;
          publish(beats).catch(reject);
        }),
    };
  };
}
