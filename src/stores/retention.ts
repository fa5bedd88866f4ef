/** Milliseconds for which an ended or expired session can still be loaded. */
export const keepEnded: number = 24 * 3_600_000;

/** Milliseconds for which an entry of the change log is kept. No access token lives that long. */
export const keepChanges: number = 2 * 3_600_000;
