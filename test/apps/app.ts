// Small real applications, each a folder beside this file with its own lock file. A test copies one
// to a temporary folder, installs it and the packed library as a user does, and runs its commands.
import { type ChildProcess, spawn } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync } from "node:fs";
import { join } from "node:path";
import { afterAll, expect, inject, vi } from "vitest";
import { freePort } from "../servers/port.ts";

/** The path of the packed library. */
export const tarball: string = inject("tarball");

/**
 * Whether no application can be installed here: `describe.skipIf(skipApps)`. The reason, and what to do,
 * is printed once at the start.
 */
export const skipApps: boolean = inject("appsMissing") !== "";

export interface Outcome {
  /** The exit code; undefined if a signal ended the program. */
  readonly code: number | undefined;
  /** Everything that the program printed, on both channels. */
  readonly output: string;
  /** What it printed on the standard output. */
  readonly stdout: string;
}

export interface CommandOptions {
  /** Added to the environment. */
  readonly env?: Readonly<Record<string, string>>;
  /** The time limit, in seconds; 240 by default. */
  readonly seconds?: number;
  /** Run it once more if it fails, for steps that depend on a registry or a foreign program. */
  readonly repeatOnce?: boolean;
}

export interface ServerOptions {
  readonly env?: Readonly<Record<string, string>>;
  /** The time limit until it is ready, in seconds; 120 by default. */
  readonly seconds?: number;
  /** What the program prints when it is ready. */
  readonly ready: RegExp;
}

export interface AppServer {
  /** The port, which the program found in `PORT`. */
  readonly port: number;
  readonly url: string;
  /** Everything that it has printed so far. */
  output(): string;
  /** Lets 20 minutes pass in a program of Node.js, so that its access tokens expire. */
  later(): Promise<void>;
  stop(): Promise<void>;
}

const servers = new Set<AppServer>();

afterAll(async () => {
  await Promise.all([...servers].map((server) => server.stop()));
});

export class App {
  readonly folder: string;
  #path: string;

  constructor(folder: string) {
    this.folder = folder;
    this.#path = join(folder, "node_modules/.bin");
  }

  /**
   * Makes an application in a temporary folder: a copy of `test/apps/NAME`, and of the generated code
   * of `notes.v1` in `gen`. Nothing is installed yet.
   * @param parent the folder that NAME is in, relative to `test/apps`
   */
  static copy(name: string, parent = "."): App {
    const folder = mkdtempSync(join(inject("appsFolder"), `${name}-`));
    const here = import.meta.dirname;
    cpSync(join(here, parent, name), folder, {
      recursive: true,
      filter: (path) => !path.includes("node_modules"),
    });
    cpSync(join(here, "gen"), join(folder, "gen"), { recursive: true });
    return new App(folder);
  }

  /** Copies an application, installs what its lock file names, and then the packed library. */
  static async install(name: string, parent?: string): Promise<App> {
    const app = App.copy(name, parent);
    await app.run("npm", ["ci", "--no-audit", "--no-fund"], { repeatOnce: true });
    await app.run("npm", ["install", "--no-save", "--no-audit", "--no-fund", tarball], {
      repeatOnce: true,
    });
    return app;
  }

  /** Adds another Node.js to the path, in front: the folder that contains `bin/node`. */
  useNode(folder: string): void {
    this.#path = `${join(folder, "bin")}:${this.#path}`;
  }

  /** Runs a command of the system or of `node_modules/.bin`. Throws with its output if it fails. */
  async run(command: string, args: readonly string[], options: CommandOptions = {}) {
    const first = await this.outcome(command, args, options);
    const last =
      first.code !== 0 && options.repeatOnce === true
        ? await this.outcome(command, args, options)
        : first;
    if (last.code !== 0) {
      throw new Error(this.#failure(command, args, `ended with ${last.code}`, last.output));
    }
    return last;
  }

  /** Runs a command that may fail. Throws only if it takes too long or cannot be started. */
  async outcome(
    command: string,
    args: readonly string[],
    { env = {}, seconds = 240 }: CommandOptions = {},
  ): Promise<Outcome> {
    const child = this.#spawn(command, args, env);
    const [all, out]: [string[], string[]] = [[], []];
    child.stdout?.on("data", (text: string) => all.push(text) && out.push(text));
    child.stderr?.on("data", (text: string) => all.push(text));
    let late = false;
    const timer = setTimeout(() => {
      late = true;
      end(child);
    }, seconds * 1000);
    try {
      const code = await new Promise<number | undefined>((resolve, reject) => {
        child.once("error", reject);
        child.once("close", (status) => resolve(status ?? undefined));
      });
      if (late) {
        throw new Error(this.#failure(command, args, `took more than ${seconds} s`, all.join("")));
      }
      return { code, output: all.join(""), stdout: out.join("") };
    } finally {
      clearTimeout(timer);
    }
  }

  /** Starts a server on a free port, and resolves when it prints `ready`. It ends after the tests. */
  async serve(
    command: string,
    args: readonly string[],
    { env = {}, seconds = 120, ready }: ServerOptions,
  ): Promise<AppServer> {
    const port = await freePort();
    const child = this.#spawn(command, args, {
      PORT: String(port),
      NODE_OPTIONS: `--import=${join(import.meta.dirname, "later.mjs")}`,
      ...env,
    });
    const said: string[] = [];
    const output = () => said.join("");
    let laps = 0;
    const closed = new Promise<void>((resolve) => child.once("close", () => resolve()));
    const server = {
      port,
      url: `http://localhost:${port}`,
      output,
      async later() {
        laps++;
        child.kill("SIGWINCH");
        await vi.waitFor(() => expect(output()).toContain(`20 minutes later (${laps * 20})`));
      },
      async stop() {
        servers.delete(server);
        end(child);
        await closed;
      },
    };
    servers.add(server);
    await new Promise<void>((resolve, reject) => {
      const fail = (how: string) => reject(new Error(this.#failure(command, args, how, output())));
      const timer = setTimeout(() => fail(`was not ready after ${seconds} s`), seconds * 1000);
      const listen = (text: string) => {
        said.push(text);
        if (ready.test(output())) {
          clearTimeout(timer);
          resolve();
        }
      };
      child.stdout?.on("data", listen);
      child.stderr?.on("data", listen);
      child.once("error", reject);
      child.once("close", (status) => {
        clearTimeout(timer);
        fail(`ended with ${status}`);
      });
    });
    return server;
  }

  #spawn(command: string, args: readonly string[], env: Readonly<Record<string, string>>) {
    mkdirSync(this.folder, { recursive: true });
    const child = spawn(command, args, {
      cwd: this.folder,
      // A group of its own, so that the programs it starts end with it.
      detached: true,
      stdio: ["ignore", "pipe", "pipe"],
      env: {
        ...withoutVitest(process.env),
        PATH: `${this.#path}:${process.env.PATH ?? ""}`,
        NO_COLOR: "1",
        ...env,
      },
    });
    child.stdout?.setEncoding("utf8");
    child.stderr?.setEncoding("utf8");
    return child;
  }

  #failure(command: string, args: readonly string[], how: string, output: string): string {
    return `In ${this.folder}, \`${[command, ...args].join(" ")}\` ${how}. It printed:\n${output}`;
  }
}

/** What vitest and npm tell the programs they start is not meant for those of an application. */
function withoutVitest(env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  return Object.fromEntries(
    Object.entries(env).filter(
      ([name]) =>
        !/^(?:VITEST|NODE_ENV$|NODE_OPTIONS$|TEST$|npm_(?!config_(?:registry|cache)))/i.test(name),
    ),
  );
}

function end(child: ChildProcess): void {
  if (child.pid === undefined || child.exitCode !== null) {
    return;
  }
  try {
    process.kill(-child.pid, "SIGKILL");
  } catch {
    // It has ended by itself.
  }
}
