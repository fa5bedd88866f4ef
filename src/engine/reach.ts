import { SessionError, unavailable } from "../base/errors.ts";

/** Awaits the store: whatever it rejects with is an outage, never a verdict on a session. */
export async function reach<T>(work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (cause) {
    throw cause instanceof SessionError ? cause : unavailable("the session store", cause);
  }
}
