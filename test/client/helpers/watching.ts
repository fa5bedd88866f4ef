import type { ResumeOptions } from "../../../src/client/index.ts";
import type { InboxWorld } from "./inbox.ts";

/** A loop over a resumed stream: its messages so far, and how it ended. */
export interface Watching {
  readonly numbers: number[];
  readonly ended: Promise<unknown>;
  state: "on" | "over";
  /** Set to leave the loop at the next message. */
  leave: boolean;
}

/** Watches an inbox in the way an application does. */
export function watch(
  world: InboxWorld,
  options: ResumeOptions<{ readonly number: number }> = {},
): Watching {
  const numbers: number[] = [];
  const messages = world.session.resume((after, call) => world.client.watch({ after }, call), {
    start: 0,
    cursor: (message) => message.number,
    ...options,
  });
  const read = async (): Promise<unknown> => {
    try {
      for await (const { number } of messages) {
        numbers.push(number);
        if (watching.leave) {
          break;
        }
      }
      return undefined;
    } catch (error) {
      return error;
    } finally {
      watching.state = "over";
    }
  };
  const watching: Watching = { numbers, ended: Promise.resolve(), state: "on", leave: false };
  return Object.assign(watching, { ended: read() });
}

/** Yields to the event loop until `holds` returns true. */
export async function until(holds: () => boolean): Promise<void> {
  const deadline = performance.now() + 120_000;
  while (!holds()) {
    if (performance.now() > deadline) {
      throw new Error("the condition was still false after two minutes");
    }
    await new Promise((resolve) => setImmediate(resolve));
  }
}

/** The numbers from 1 to `to`. */
export function range(to: number): number[] {
  return Array.from({ length: to }, (_, i) => i + 1);
}
