/** A request whose messages can be read from the start again. */
export interface Replay<T> {
  /**
   * The messages from the first one on. Ending a reader does not end the source: the transport
   * ends the readers of an attempt that failed.
   */
  open(): AsyncIterable<T>;
}

/**
 * Makes a request replayable by keeping every message that was read. Meant for requests of one
 * message; one that is longer is kept as a whole.
 */
export function replayable<T>(source: AsyncIterable<T>): Replay<T> {
  const pulls: Promise<IteratorResult<T>>[] = [];
  let iterator: AsyncIterator<T> | undefined;
  const pull = (index: number): Promise<IteratorResult<T>> => {
    iterator ??= source[Symbol.asyncIterator]();
    pulls[index] ??= iterator.next();
    return pulls[index];
  };
  return { open: () => ({ [Symbol.asyncIterator]: () => reader(pull) }) };
}

/** Transports insist on `throw` and `return`. */
function reader<T>(pull: (index: number) => Promise<IteratorResult<T>>): AsyncIterator<T> {
  let index = 0;
  let ended = false;
  return {
    async next() {
      return ended ? { done: true, value: undefined } : pull(index++);
    },
    async throw(reason) {
      ended = true;
      throw reason;
    },
    async return() {
      ended = true;
      return { done: true, value: undefined };
    },
  };
}
