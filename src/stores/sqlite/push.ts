import type { DatabaseSync } from "node:sqlite";
import type { Clock } from "../../base/clock.ts";
import type { Push } from "../push.ts";

/** Milliseconds between two looks. */
const lookEvery = 100;

/**
 * Looks whether other connections wrote to the file, ten times a second; that takes some microseconds
 * and reads no table.
 *
 * @param open opens the file on a connection that writes nothing: its own writes it would not see
 */
export function watchFile(
  { clock, wake }: { readonly clock: Clock; readonly wake: () => void },
  open: () => DatabaseSync,
): Push {
  const database = open();
  const look = database.prepare("pragma data_version");
  let version = look.get()?.data_version;
  let working = true;
  let closed = false;
  let cancelNext = (): void => {};
  const next = (): void => {
    if (!closed) {
      cancelNext = clock.after(lookEvery, () => {
        try {
          const found = look.get()?.data_version;
          working = true;
          if (found !== version) {
            version = found;
            wake();
          }
        } catch {
          // Locked for the moment, or the disk fails: the reads of the log will tell.
          working = false;
        }
        // Later, so that a clock that jumps over an hour does not look 36,000 times.
        queueMicrotask(next);
      });
    }
  };
  next();
  return {
    connected: () => working,
    close() {
      closed = true;
      cancelNext();
      database.close();
    },
  };
}
