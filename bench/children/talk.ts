import { fork } from "node:child_process";
import { once } from "node:events";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";

/**
 * Runs a file of this folder in a process of its own and returns what it reports.
 *
 * @throws Error if the process exits without a report
 */
export async function askChild<T>(
  file: string,
  args: readonly string[],
  { flags = [], sources = true }: { flags?: readonly string[]; sources?: boolean } = {},
): Promise<T> {
  const child = fork(file, [...args], {
    execArgv: [...(sources ? ["--conditions=@rpc-session/source"] : []), ...flags],
    stdio: ["ignore", "inherit", "inherit", "ipc"],
  });
  const [message] = (await Promise.race([
    once(child, "message"),
    once(child, "exit").then(([code]) => {
      throw new Error(`${file} exited with code ${code} before it reported a result`);
    }),
  ])) as [T];
  return message;
}

/** Sends the result to the parent and exits. */
export function tell(message: object): void {
  process.send?.(message, () => process.exit());
}

/** Collects garbage until nothing changes and returns the size of the heap in bytes. */
export function heapUsed(): number {
  setFlagsFromString("--expose-gc");
  const gc = runInNewContext("gc") as () => void;
  for (let i = 0; i < 3; i++) {
    gc();
  }
  return process.memoryUsage().heapUsed;
}
