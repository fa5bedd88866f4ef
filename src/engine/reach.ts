import { SessionError, unavailable } from "../base/errors.ts";
import type { SessionRecord, SessionStore, Stored } from "./store.ts";

/** Awaits the store: whatever it rejects with is an outage, never a verdict on a session. */
export async function reach<T>(work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (cause) {
    throw cause instanceof SessionError
      ? cause
      : unavailable("the session store could not be reached; try again", cause);
  }
}

/** Reads sessions where the change log says too little, without flooding the store. */
export type RowReads = (session: string) => Promise<Stored<SessionRecord | undefined>>;

/** Reads under way at most. */
const atOnce = 64;
/** Calls that may wait for their turn. */
const waitingMax = 1_000;

/**
 * Each call has a read of its own, which begins after it came. Of more calls than can be served
 * some wait; the rest rejects with `unavailable`.
 */
export function createRowReads(store: Pick<SessionStore, "load">): RowReads {
  const waiting: (() => void)[] = [];
  let underWay = 0;
  const turn = async (): Promise<void> => {
    if (underWay < atOnce) {
      underWay += 1;
      return;
    }
    if (waiting.length >= waitingMax) {
      throw unavailable("too many calls are waiting for the session store; try again");
    }
    // The turn is handed over, so that nobody comes in between.
    await new Promise<void>((resolve) => {
      waiting.push(resolve);
    });
  };
  return async (session) => {
    await turn();
    try {
      return await reach(store.load(session));
    } finally {
      const next = waiting.shift();
      if (next === undefined) {
        underWay -= 1;
      } else {
        next();
      }
    }
  };
}
