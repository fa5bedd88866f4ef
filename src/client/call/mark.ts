import { type ContextKey, type ContextValues, createContextValues } from "@connectrpc/connect";

/**
 * The mark of a call, carried in its context values. Two layers of this package may handle the same
 * call: `withRefresh` around a client whose transport already has the session's interceptor. The
 * interceptor, which is the inner layer, sets the mark and does the work; the outer layer sees the
 * mark and leaves the call alone. So a call is sent twice at most.
 */
export interface HandledMark {
  handled: boolean;
}

const markKey: ContextKey<HandledMark | undefined> = {
  // A registered symbol, so that two copies of this package recognize each other's mark.
  id: Symbol.for("rpc-session.client.handled"),
  defaultValue: undefined,
};

/**
 * Claims a call for the interceptor that asks.
 *
 * @returns the context values for the layers further in, or undefined if an interceptor further out
 *   has claimed the call already
 */
export function claim(values: ContextValues): ContextValues | undefined {
  const mark = values.get(markKey);
  if (mark === undefined) {
    return withMark(values, { handled: true });
  }
  const isClaimed = mark.handled;
  mark.handled = true;
  return isClaimed ? undefined : values;
}

/** Adds the mark to the caller's context values without changing the caller's object. */
export function withMark(
  values: ContextValues = createContextValues(),
  mark: HandledMark,
): ContextValues {
  return {
    get: (key) => (key.id === markKey.id ? (mark as never) : values.get(key)),
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
