import { type ContextKey, type ContextValues, createContextValues } from "@connectrpc/connect";

/** Tells the outer of two layers that the inner one refreshes and retries. */
export interface Handled {
  by: boolean;
}

const handledKey: ContextKey<Handled | undefined> = {
  // By name, so that two copies of this package know each other's mark.
  id: Symbol.for("rpc-session.client.handled"),
  defaultValue: undefined,
};

/**
 * Called by the interceptor of a request.
 *
 * @returns the context values for the layers inside, or undefined when a layer of ours further out
 *   does the work already
 */
export function claim(values: ContextValues): ContextValues | undefined {
  const mark = values.get(handledKey);
  if (mark === undefined) {
    return withMark(values, { by: true });
  }
  const claimed = mark.by;
  mark.by = true;
  return claimed ? undefined : values;
}

/** The caller's context values with the mark; the caller's own object stays as it is. */
export function withMark(
  values: ContextValues = createContextValues(),
  mark: Handled,
): ContextValues {
  return {
    get: (key) => (key.id === handledKey.id ? (mark as never) : values.get(key)),
    set(key, value) {
      values.set(key, value);
      return this;
    },
    delete(key) {
      values.delete(key);
      return this;
    },
  };
}
