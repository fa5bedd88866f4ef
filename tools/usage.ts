/** Reads the arguments of a tool; what is wrong with them ends it, with how it is used. */
export function readOrExplain<T>(usage: string, read: () => T): T {
  try {
    return read();
  } catch (error) {
    console.error(`${(error as Error).message}\n\nUsage: ${usage}`);
    return process.exit(2);
  }
}
