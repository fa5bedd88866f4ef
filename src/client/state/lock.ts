import type { Clock } from "../../base/clock.ts";

/**
 * Runs `work` while this tab holds the lock `name` of the browser, so that tabs refresh one after
 * the other. Only saves requests: where there are no locks, or the lock is not free within `ms`,
 * the work runs without it.
 */
export async function withLock<T>(
  lock: { readonly name: string; readonly ms: number; readonly clock: Clock },
  work: () => Promise<T>,
): Promise<T> {
  const locks = globalThis.navigator?.locks;
  if (locks === undefined) {
    return work();
  }
  const giveUp = new AbortController();
  const cancel = lock.clock.after(lock.ms, () => giveUp.abort());
  let running: Promise<T> | undefined;
  const once = (): Promise<T> => {
    cancel();
    running ??= work();
    return running;
  };
  try {
    return await locks.request(lock.name, { signal: giveUp.signal }, once);
  } catch {
    // Not granted (in time, or not to this kind of page): go on alone. Or the work itself failed.
    return await once();
  }
}
