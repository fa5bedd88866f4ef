// PostgreSQL with a standby that can be promoted: the npm package has neither pg_basebackup nor
// pg_dump, so these servers are Debian's postgresql-15.
import { spawnSync } from "node:child_process";
import { chownSync, existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { freePort } from "./port.ts";

const bin = "/usr/lib/postgresql/15/bin";

/** Why tests with a standby are skipped; undefined if servers can be started. */
export const postgresPairMissing: string | undefined = existsSync(join(bin, "pg_basebackup"))
  ? undefined
  : "Debian's postgresql-15 is not installed; run apt-get install postgresql-15";

/** A server of a pair. */
export interface PairMember {
  readonly port: number;
  /** @param role the user that connects; default: postgres */
  url(role?: string): string;
  /** Kills the server: what it has not sent to its standby is lost. */
  kill(): void;
  /** Starts it again after `kill`. */
  start(): void;
  /** Makes a standby a primary. */
  promote(): void;
  /** Makes a standby of this server, which keeps up until this server is killed. */
  standby(): Promise<PairMember>;
  /** Copies the database to another server, with pg_dump. */
  dumpTo(other: PairMember): void;
}

/** Starts servers in a folder that is removed in the end, with all servers stopped. */
export class PostgresPairs implements AsyncDisposable {
  readonly #account = process.getuid?.() === 0 ? { uid: 65534, gid: 65534 } : {};
  readonly #folder = mkdtempSync(join(tmpdir(), "rpcsession-pair-"));
  readonly #stops: (() => void)[] = [];

  constructor() {
    if (this.#account.uid !== undefined) {
      chownSync(this.#folder, this.#account.uid, this.#account.gid);
    }
  }

  /** Starts an empty primary. */
  async primary(): Promise<PairMember> {
    const data = join(this.#folder, `data${this.#stops.length}`);
    this.#run("initdb", ["-D", data, "-U", "postgres", "-A", "trust", "-N"]);
    return this.#member(data, await freePort());
  }

  #member(data: string, port: number): PairMember {
    const options = `-p ${port} -c listen_addresses=127.0.0.1 -c unix_socket_directories=${this.#folder} -c fsync=off`;
    const control = (...args: string[]) => this.#run("pg_ctl", ["-D", data, "-w", ...args]);
    const start = (): void => control("start", "-l", `${data}.log`, "-o", options);
    const kill = (): void => control("stop", "-m", "immediate");
    const at = ["-h", "127.0.0.1", "-p", String(port), "-U", "postgres"];
    start();
    this.#stops.push(() =>
      spawnSync(join(bin, "pg_ctl"), ["-D", data, "-m", "immediate", "stop"], this.#account),
    );
    return {
      port,
      url: (role = "postgres") => `postgres://${role}@127.0.0.1:${port}/postgres`,
      kill,
      start,
      promote: () => control("promote"),
      standby: async () => {
        const copy = join(this.#folder, `data${this.#stops.length}`);
        this.#run("pg_basebackup", [...at, "-D", copy, "-R", "-X", "stream", "-c", "fast"]);
        return this.#member(copy, await freePort());
      },
      dumpTo: (other) => {
        const file = join(this.#folder, "dump.sql");
        this.#run("pg_dump", [...at, "-f", file, "postgres"]);
        const to = ["-h", "127.0.0.1", "-p", String(other.port), "-U", "postgres", "-q"];
        this.#run("psql", [...to, "-v", "ON_ERROR_STOP=1", "-f", file, "postgres"]);
      },
    };
  }

  #run(program: string, args: readonly string[]): void {
    // Without pipes: a server that pg_ctl starts would keep them open.
    const done = spawnSync(join(bin, program), args, {
      ...this.#account,
      cwd: this.#folder,
      stdio: "ignore",
    });
    if (done.status !== 0) {
      throw new Error(`${program} ended with ${done.status ?? done.error?.message}`);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const stop of this.#stops) {
      stop();
    }
    rmSync(this.#folder, { recursive: true, force: true });
  }
}
