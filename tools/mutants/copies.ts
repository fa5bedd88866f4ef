import {
  chmodSync,
  cpSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  symlinkSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";

/** The names of temporary folders: the prefix, the id of the process, and random characters. */
const prefix = "rpc-mutants-";

/** Not copied: they are large, private to the tree, or written by its tools. */
const left = new Set(["node_modules", ".git", "dist", "coverage", ".vitest", "profiles"]);

/** Copies of a tree in a temporary folder. Nothing that happens in them reaches the tree. */
export class Copies implements Disposable {
  readonly #folder: string;
  readonly roots: readonly string[];
  /** For temporary files of the programs that run in the copies. */
  readonly temporary: string;

  constructor(tree: string, count: number) {
    removeAbandoned();
    this.#folder = mkdtempSync(join(tmpdir(), `${prefix}${process.pid}-`));
    // Database servers refuse to run as root; they run under another account and must get in.
    chmodSync(this.#folder, 0o711);
    process.on("exit", this.#remove);
    this.temporary = join(this.#folder, "t");
    mkdirSync(this.temporary);
    this.roots = Array.from({ length: count }, (_, i) => copy(tree, join(this.#folder, String(i))));
  }

  readonly #remove = (): void => {
    rmSync(this.#folder, { recursive: true, force: true, maxRetries: 5 });
  };

  [Symbol.dispose](): void {
    process.off("exit", this.#remove);
    this.#remove();
  }
}

function copy(tree: string, to: string): string {
  cpSync(tree, to, { recursive: true, filter: (source) => !left.has(basename(source)) });
  // Links to the packages, in a folder of its own: tools write their caches into `node_modules`.
  const packages = join(to, "node_modules");
  mkdirSync(packages);
  for (const name of readdirSync(join(tree, "node_modules"))) {
    if (name === ".bin" || !name.startsWith(".")) {
      symlinkSync(join(tree, "node_modules", name), join(packages, name));
    }
  }
  return to;
}

/** Removes the folders of processes that were killed. */
function removeAbandoned(): void {
  for (const name of readdirSync(tmpdir())) {
    const id = Number(
      name.startsWith(prefix) ? name.slice(prefix.length).split("-")[0] : Number.NaN,
    );
    if (Number.isInteger(id) && !isRunning(id)) {
      rmSync(join(tmpdir(), name), { recursive: true, force: true });
    }
  }
}

function isRunning(id: number): boolean {
  try {
    process.kill(id, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}
