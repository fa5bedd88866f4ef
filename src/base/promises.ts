/**
 * Whether a value is a promise of any class. `instanceof Promise` is false for promises of another realm.
 * Where a library has replaced the global `Promise`, it is also false for those of async functions and of
 * Web Crypto.
 */
export function isPromise<T>(value: T | Promise<T>): value is Promise<T> {
  return (
    typeof value === "object" &&
    value !== null &&
    typeof (value as { readonly then?: unknown }).then === "function"
  );
}

/** Passes a value to a function: at once, or later if the value is a promise. */
export function whenKnown<T, Result>(
  value: T | Promise<T>,
  use: (value: T) => Result | Promise<Result>,
): Result | Promise<Result> {
  return isPromise(value) ? Promise.resolve(value).then(use) : use(value);
}
