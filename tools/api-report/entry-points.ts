import { readFileSync } from "node:fs";
import { join } from "node:path";

export interface EntryPoint {
  /** The path behind the package's name, with dashes: `index`, `client`, `stores-sqlite`. */
  readonly name: string;
  /** The declaration file, as package.json names it. */
  readonly types: string;
}

/**
 * Lists the entry points of package.json. Patterns such as `./gen/*.js` are left out: the proto
 * files specify that surface, and `buf breaking` compares it.
 */
export function entryPoints(root: string): readonly EntryPoint[] {
  const { exports } = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as {
    readonly exports: Readonly<Record<string, string | { readonly types: string }>>;
  };
  return Object.entries(exports).flatMap(([path, target]) =>
    typeof target === "string" || path.includes("*")
      ? []
      : [{ name: nameOf(path), types: target.types }],
  );
}

function nameOf(path: string): string {
  return path === "." ? "index" : path.replace("./", "").replaceAll("/", "-");
}
