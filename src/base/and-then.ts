/**
 * Goes on with a value: at once where it is there, so that a call that waits for nothing makes no
 * promises.
 */
export function andThen<T, R>(
  value: T | Promise<T>,
  next: (value: T) => R | Promise<R>,
): R | Promise<R> {
  return value instanceof Promise ? goOn(value, next) : next(value);
}

async function goOn<T, R>(value: Promise<T>, next: (value: T) => R | Promise<R>): Promise<R> {
  return next(await value);
}
