import type { SessionStore } from "rpc-session";
import { memoryStore } from "rpc-session/stores/memory";

type Method = Exclude<keyof SessionStore, "name" | "onChange" | "pushed">;

/** A store that records its calls and can be made to fail or hang. */
export interface WatchedStore {
  readonly store: SessionStore;
  /** The names of the methods called so far, in order. */
  readonly calls: Method[];
  /** The ids of the sessions that were inserted. */
  readonly inserted: string[];
  /** Methods that reject, as in an outage. */
  readonly failing: Set<Method>;
  /** Methods that never settle. */
  readonly hanging: Set<Method>;
  /** The current number of `onChange` listeners. */
  readonly listeners: () => number;
  /** Returns and removes the calls recorded so far. */
  readonly take: () => Method[];
}

/** Every method that a call may use once the store is open. */
export const allMethods: readonly Method[] = [
  "insert",
  "load",
  "advance",
  "refresh",
  "confirm",
  "revoke",
  "changes",
  "signingKeys",
  "addSigningKey",
  "removeSigningKeysBelow",
];

export function watchedStore(inner: SessionStore = memoryStore()): WatchedStore {
  const calls: Method[] = [];
  const inserted: string[] = [];
  const failing = new Set<Method>();
  const hanging = new Set<Method>();
  let listeners = 0;
  const onChange: SessionStore["onChange"] = (wake) => {
    const stop = inner.onChange(wake);
    listeners += 1;
    let stopped = false;
    return () => {
      listeners -= stopped ? 0 : 1;
      stopped = true;
      stop();
    };
  };
  const watch = (name: Method, work: (...args: unknown[]) => Promise<unknown>) => {
    return async (...args: unknown[]): Promise<unknown> => {
      calls.push(name);
      // `advance` reads the session, too.
      const does = (set: ReadonlySet<Method>) =>
        set.has(name) || (name === "advance" && set.has("load"));
      if (does(failing)) {
        throw new Error("CANARY: the store is out of reach");
      }
      if (name === "insert") {
        inserted.push((args[0] as { readonly id: string }).id);
      }
      return does(hanging) ? await new Promise<never>(() => {}) : await work(...args);
    };
  };
  const store = new Proxy(inner, {
    get(target, name) {
      const member: unknown = Reflect.get(target, name);
      // These members do not access the store, so they are not recorded.
      if (name === "onChange" || name === "pushed" || typeof member !== "function") {
        return name === "onChange" ? onChange : member;
      }
      return watch(name as Method, member.bind(target) as () => Promise<unknown>);
    },
  });
  return {
    store,
    calls,
    inserted,
    failing,
    hanging,
    listeners: () => listeners,
    take: () => calls.splice(0),
  };
}
