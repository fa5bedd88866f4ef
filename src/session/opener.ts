/** Opens something once, however many wait for it; a failure is forgotten, so that it is tried again. */
export interface Opener<T> {
  get(): Promise<T>;
  /** Ends it for good: resolves to what was opened, if anything was. Later calls of `get` reject. */
  end(): Promise<T | undefined>;
}

export function createOpener<T>(open: () => Promise<T>): Opener<T> {
  let opened: Promise<T> | undefined;
  let ended = false;
  return {
    get() {
      if (ended) {
        return Promise.reject(new Error("closed"));
      }
      if (opened === undefined) {
        const opening = open();
        opened = opening;
        opening.catch(() => {
          if (opened === opening) {
            opened = undefined;
          }
        });
      }
      return opened;
    },
    async end() {
      ended = true;
      return await opened?.catch(() => undefined);
    },
  };
}
