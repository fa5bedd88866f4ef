import type { RevocationListener } from "./revocation-listeners.ts";

/** All that an open stream needs to know of its session after it was opened. */
export interface StreamWatch {
  /** The store's clock as this process knows it without asking; milliseconds since 1970. */
  storeNow(): number;
  /**
   * Calls `listener` once, when the session has ended by anything but its age; at once where it has
   * already.
   *
   * @returns a function that stops it
   */
  watch(session: string, listener: RevocationListener): () => void;
  /**
   * Milliseconds since it was last certain that `watch` had told everything that had happened; 0
   * where there is no change log to follow.
   */
  staleness(): number;
  /** Whether it was closed: nothing will be told any more. */
  isClosed(): boolean;
  /** Reads the change log, or joins the read that runs. Rejects when it cannot be read. */
  catchUp(): Promise<void>;
}
