/** Opens something once, however many wait for it; a failure is forgotten, so that it is tried again. */
export interface Opener<T> {
  get(): Promise<T>;
  /** What is open now, without a promise; undefined before and after. */
  opened(): T | undefined;
  /** Ends it for good: resolves to what was opened, if anything was. Later calls of `get` reject. */
  end(): Promise<T | undefined>;
}

export function createOpener<T>(open: () => Promise<T>): Opener<T> {
  let opening: Promise<T> | undefined;
  let opened: T | undefined;
  let ended = false;
  return {
    get() {
      if (ended) {
        return Promise.reject(new Error("closed"));
      }
      opening ??= open().then(
        (value) => {
          opened = value;
          return value;
        },
        (error: unknown) => {
          opening = undefined;
          throw error;
        },
      );
      return opening;
    },
    opened: () => (ended ? undefined : opened),
    async end() {
      ended = true;
      return await opening?.catch(() => undefined);
    },
  };
}
