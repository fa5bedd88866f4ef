/**
 * Whether a value is a promise, of whatever class. A library may have replaced the global `Promise`, and a
 * promise may come from another realm: async functions and Web Crypto then return no instance of it.
 */
export function isPromise<T>(value: T | Promise<T>): value is Promise<T> {
  return (
    typeof value === "object" &&
    value !== null &&
    typeof (value as { readonly then?: unknown }).then === "function"
  );
}

/** Goes on with a value once it is known: at once, unless it is a promise. */
export function whenKnown<T, Result>(
  value: T | Promise<T>,
  goOn: (value: T) => Result | Promise<Result>,
): Result | Promise<Result> {
  return isPromise(value) ? Promise.resolve(value).then(goOn) : goOn(value);
}
