/** Reads the arguments of a tool. If they are wrong, prints the error and the usage and exits with 2. */
export function readOrExplain<T>(usage: string, read: () => T): T {
  try {
    return read();
  } catch (error) {
    console.error(`${(error as Error).message}\n\nUsage: ${usage}`);
    return process.exit(2);
  }
}
