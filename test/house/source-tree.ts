// Reads the files of `src` and `gen` and what they import and export, for test/layers.test.ts.
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";

export const root = join(import.meta.dirname, "../..");

export interface Import {
  readonly from: string;
  readonly specifier: string;
  /** The imported file, relative to the root; undefined for a package. */
  readonly to: string | undefined;
}

const importPattern =
  /^(?:import|export|\})[^"\n]*\bfrom "([^"]+)"|^import "([^"]+)"|\bimport\("([^"]+)"\)/gm;
const exportPattern =
  /^export (?:abstract |async )*(function\*?|const|let|class|interface|type|enum) (\w+)/gm;

/** Returns every TypeScript file below `folder`, relative to the root. */
export function filesIn(folder: string): string[] {
  return readdirSync(join(root, folder), { recursive: true, encoding: "utf8" })
    .filter((file) => file.endsWith(".ts") && !file.includes("node_modules"))
    .map((file) => join(folder, file).replaceAll("\\", "/"))
    .sort();
}

export function read(file: string): string {
  return readFileSync(join(root, file), "utf8");
}

/** Returns the imports of a file, type imports and re-exports included. */
export function importsOf(file: string, source: string = read(file)): Import[] {
  return [...source.matchAll(importPattern)].map((match) => {
    const specifier = match[1] ?? match[2] ?? match[3] ?? "";
    const to = specifier.startsWith(".")
      ? relative(root, join(root, dirname(file), specifier)).replaceAll("\\", "/")
      : undefined;
    return { from: file, specifier, to };
  });
}

/** Returns the names that a file declares and exports. */
export function exportsOf(source: string): string[] {
  return namesIn(source, () => true);
}

/** Returns the functions, classes and constants that a file declares and exports. */
export function valuesOf(source: string): string[] {
  return namesIn(source, (kind) => kind !== "interface" && kind !== "type");
}

function namesIn(source: string, wanted: (kind: string) => boolean): string[] {
  const names = [...source.matchAll(exportPattern)]
    .filter(([, kind = ""]) => wanted(kind))
    .map(([, , name = ""]) => name);
  // Overloads of a function repeat its name.
  return [...new Set(names)];
}

/** Returns the files of one import cycle, the first one repeated at the end; empty if there is none. */
export function findCycle(graph: ReadonlyMap<string, readonly string[]>): string[] {
  const done = new Set<string>();
  const visit = (file: string, path: readonly string[]): string[] => {
    if (path.includes(file)) {
      return [...path.slice(path.indexOf(file)), file];
    }
    if (done.has(file)) {
      return [];
    }
    for (const next of graph.get(file) ?? []) {
      const cycle = visit(next, [...path, file]);
      if (cycle.length > 0) {
        return cycle;
      }
    }
    done.add(file);
    return [];
  };
  for (const file of graph.keys()) {
    const cycle = visit(file, []);
    if (cycle.length > 0) {
      return cycle;
    }
  }
  return [];
}

/**
 * Returns the stops `src/file.ts#name` in a page that do not exist. A name is a declaration, a
 * member of a class or object, or `Class.member`.
 */
export function missingStops(
  page: string,
  sourceOf: (file: string) => string | undefined = readIfExists,
): string[] {
  const stops = page.matchAll(/\b((?:src|gen|proto)\/[\w./-]+\.\w+)(?:#([\w$.#]+\w))?/g);
  return [...stops]
    .filter(([, file = "", name]) => {
      const source = sourceOf(file);
      const parts = name?.split(/[.#]/).filter((part) => part !== "") ?? [];
      return source === undefined || parts.some((part) => !declares(source, part));
    })
    .map(([stop]) => stop);
}

function readIfExists(file: string): string | undefined {
  return existsSync(join(root, file)) ? read(file) : undefined;
}

function declares(source: string, name: string): boolean {
  const declaration = `\\b(?:function\\*?|class|interface|type|const|let|service|message|rpc) ${name}\\b`;
  const member = `^\\s+(?:(?:async|static|get|set|readonly|public|private) )*[*#]*${name}\\??(?:<[^>]*>)?\\s*[(:=]`;
  return new RegExp(`${declaration}|${member}`, "m").test(source);
}
