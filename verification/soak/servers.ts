import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import type { StoreKind } from "./options.ts";
import type { ServerConfig, ServerReport } from "./server.ts";
import { createWindows, sleep, type Windows } from "./windows.ts";

/** The server processes of a run. */
export interface Servers {
  readonly count: number;
  url(server: number): string;
  isUp(server: number): boolean;
  /** Ends one with SIGKILL and starts it again. */
  kill(server: number): Promise<void>;
  /** Restarts one server after another with other secrets, as a roll-out does. */
  rollOut(secrets: readonly string[]): Promise<void>;
  /** Replaces the first servers by the older version and the others by this one, one after another. */
  runOlder(count: number): Promise<void>;
  /** When each server was down. */
  readonly down: readonly Windows[];
  readonly kills: number;
  readonly reports: readonly TimedReport[];
  stop(): Promise<void>;
}

/** A report of a server, or the news that it crashed. */
export type TimedReport = (ServerReport | { readonly type: "crashed" }) & {
  readonly server: number;
  readonly at: number;
};

export interface ServersOptions {
  readonly store: StoreKind;
  readonly url: string;
  readonly processes: number;
  readonly secrets: readonly string[];
  readonly now: () => number;
  readonly mixedFormats?: boolean;
  /** The program of an older version, with which all servers start. Default: this version. */
  readonly olderFile?: string | undefined;
}

/** Milliseconds after a start within which earlier requests may still fail. */
const downGrace = 300;
/** Milliseconds that a server may take to start. */
const startsWithin = 60_000;

export async function startServers(options: ServersOptions): Promise<Servers> {
  const fleet = new Fleet(options);
  await fleet.start();
  return fleet;
}

class Fleet implements Servers {
  readonly count: number;
  readonly down: readonly Windows[];
  readonly reports: TimedReport[] = [];
  kills = 0;
  readonly #options: ServersOptions;
  readonly #children: (ChildProcess | undefined)[] = [];
  readonly #ports: number[] = [];
  readonly #turns: Promise<void>[] = [];
  #secrets: readonly string[];
  /** How many servers run the older version. */
  #older: number;
  #stopped = false;

  constructor(options: ServersOptions) {
    this.#options = options;
    this.#secrets = options.secrets;
    this.#older = options.olderFile === undefined ? 0 : options.processes;
    this.count = options.processes;
    this.down = Array.from({ length: this.count }, () => createWindows(options.now, downGrace));
    process.once("exit", () => this.#endAll());
  }

  async start(): Promise<void> {
    for (let server = 0; server < this.count; server++) {
      await this.#spawn(server);
    }
  }

  url(server: number): string {
    return `http://127.0.0.1:${this.#ports[server] ?? 0}`;
  }

  isUp(server: number): boolean {
    return this.#children[server] !== undefined;
  }

  kill(server: number): Promise<void> {
    return this.#inTurn(server, async () => {
      this.kills++;
      await this.#restart(server, "SIGKILL");
    });
  }

  async rollOut(secrets: readonly string[]): Promise<void> {
    this.#secrets = secrets;
    for (let server = 0; server < this.count; server++) {
      await this.#inTurn(server, () => this.#restart(server, "SIGTERM"));
      await sleep(200);
    }
  }

  async runOlder(count: number): Promise<void> {
    const before = this.#older;
    this.#older = count;
    for (let server = 0; server < this.count; server++) {
      if (server < before !== server < count) {
        await this.#inTurn(server, () => this.#restart(server, "SIGTERM"));
        await sleep(200);
      }
    }
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await Promise.allSettled(this.#turns);
    this.#endAll();
  }

  /** A kill and a roll-out of one server wait for each other. */
  #inTurn(server: number, work: () => Promise<void>): Promise<void> {
    const turn = (this.#turns[server] ?? Promise.resolve()).then(() =>
      this.#stopped ? undefined : work(),
    );
    this.#turns[server] = turn;
    return turn;
  }

  async #restart(server: number, signal: "SIGKILL" | "SIGTERM"): Promise<void> {
    const up = this.down[server]?.open(signal);
    const child = this.#children[server];
    this.#children[server] = undefined;
    if (child !== undefined && child.exitCode === null) {
      child.kill(signal);
      await once(child, "exit");
    }
    await this.#spawn(server);
    up?.();
  }

  async #spawn(server: number): Promise<void> {
    const { olderFile } = this.#options;
    const file =
      olderFile !== undefined && server < this.#older
        ? olderFile
        : fileURLToPath(new URL("server.ts", import.meta.url));
    const child = spawn(process.execPath, ["--conditions=@rpc-session/source", file], {
      stdio: ["ignore", "inherit", "inherit", "ipc"],
    });
    // Add it to the list now, so that an exit during its start ends it as well.
    this.#starting.add(child);
    const port = new Promise<number>((resolve, reject) => {
      child.once("exit", () => reject(new Error(`server ${server} exited unexpectedly`)));
      child.on("message", (message) => {
        const report = message as ServerReport;
        this.reports.push({ ...report, server, at: this.#options.now() });
        if (report.type === "listening") {
          resolve(report.port);
        }
      });
      setTimeout(
        () => reject(new Error(`server ${server} did not start within ${startsWithin} ms`)),
        startsWithin,
      ).unref();
    });
    child.send({
      store: this.#options.store,
      url: this.#options.url,
      port: this.#ports[server] ?? 0,
      secrets: this.#secrets,
      tokenFormat: this.#options.mixedFormats ? (server % 2 === 0 ? 1 : 2) : undefined,
    } satisfies ServerConfig);
    this.#ports[server] = await port;
    this.#starting.delete(child);
    this.#children[server] = child;
    child.once("exit", () => {
      // A server that is ended on purpose is removed from the list first.
      if (this.#children[server] === child && !this.#stopped) {
        this.reports.push({ type: "crashed", server, at: this.#options.now() });
        this.#children[server] = undefined;
        void this.#inTurn(server, () => this.#restart(server, "SIGKILL"));
      }
    });
  }

  readonly #starting = new Set<ChildProcess>();

  #endAll(): void {
    for (const child of [...this.#children, ...this.#starting]) {
      child?.kill("SIGKILL");
    }
  }
}
