// What the drivers of Firefox and WebKit share: programs, and values that pass as JSON.
import { type ChildProcess, spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { InPage } from "../engines.ts";

/** A script that runs `work` and returns its outcome as text, for {@link outcomeOf}. */
export function scriptOf<A extends unknown[]>(work: InPage<A, unknown>, args: A): string {
  return `(async () => {
    try {
      return JSON.stringify({ value: await (${String(work)})(...${JSON.stringify(args)}) });
    } catch (error) {
      return JSON.stringify({ error: String(error) + "\\n" + error?.stack });
    }
  })()`;
}

/** @throws Error if the script threw */
export function outcomeOf<R>(text: unknown): R {
  const { value, error } = JSON.parse(String(text)) as { value: R; error?: string };
  if (error !== undefined) {
    throw new Error(`A script of the page failed: ${error}`);
  }
  return value;
}

/** A folder that disappears with `remove`. */
export function temporaryFolder(): { readonly path: string; readonly remove: () => void } {
  const path = mkdtempSync(join(tmpdir(), "rpc-session-browser-"));
  return { path, remove: () => rmSync(path, { recursive: true, force: true, maxRetries: 5 }) };
}

/** A program that a driver started. */
export interface Program {
  readonly child: ChildProcess;
  /** Resolves to the first match of `pattern` in what the program prints. */
  printed(pattern: RegExp): Promise<string>;
  stop(): Promise<void>;
}

export function start(path: string, args: string[], env: NodeJS.ProcessEnv = {}): Program {
  const child = spawn(path, args, {
    env: { ...process.env, ...env },
    // The fourth is for programs that report to a descriptor.
    stdio: ["ignore", "pipe", "pipe", "pipe"],
  });
  // A test that is interrupted leaves no browser behind.
  const abandon = (): void => void child.kill("SIGKILL");
  process.once("exit", abandon);
  const ended = new Promise<void>((resolve) => child.once("close", () => resolve()));
  let text = "";
  const listeners = new Set<() => void>();
  const heard = (): void => {
    for (const listener of [...listeners]) {
      listener();
    }
  };
  for (const stream of child.stdio.slice(1)) {
    stream?.on("data", (chunk: Buffer) => {
      text = (text + chunk.toString()).slice(-100_000);
      heard();
    });
  }
  return {
    child,
    printed: (pattern) =>
      new Promise((resolve, reject) => {
        const look = (): void => {
          const match = pattern.exec(text);
          if (match !== null) {
            listeners.delete(look);
            resolve(match[1] ?? match[0]);
          }
        };
        listeners.add(look);
        look();
        child.once("error", reject);
        void ended.then(() => reject(new Error(`${path} ended: ${text.slice(-2_000)}`)));
      }),
    async stop() {
      child.kill("SIGTERM");
      const kill = setTimeout(() => child.kill("SIGKILL"), 5_000);
      await ended;
      clearTimeout(kill);
      process.off("exit", abandon);
    },
  };
}
