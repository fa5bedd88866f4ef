// Traces which file of src/ has control: loaded with `node --import`, it instruments every module of
// src/ as Node loads it. See main.ts.
import { readFileSync } from "node:fs";
import { registerHooks, stripTypeScriptTypes } from "node:module";
import { join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { parseSync } from "vite";

/** The files that had control, one entry per change of file. */
export interface Trace {
  recording: boolean;
  /** Names of files below src/, without their extension. */
  files: string[];
  /** `file#function` of every call. */
  calls: string[];
}

interface Insertion {
  readonly at: number;
  readonly text: string;
  readonly closes: boolean;
}

interface Node {
  readonly type: string;
  readonly start: number;
  readonly end: number;
  readonly [member: string]: unknown;
}

const root = join(import.meta.dirname, "../..");
export const trace: Trace = { recording: false, files: [], calls: [] };
let current: string | undefined;

function move(file: string | undefined): void {
  if (file === current) {
    return;
  }
  current = file;
  if (trace.recording && file !== undefined) {
    trace.files.push(file);
  }
}

Object.assign(globalThis, {
  /** A function begins; returns the file to go back to. */
  walkIn(file: string, name: string): string | undefined {
    const before = current;
    move(file);
    if (trace.recording) {
      trace.calls.push(`${file}#${name}`);
    }
    return before;
  },
  /** A synchronous function ends. */
  walkOut: move,
  /** An asynchronous function goes on after an `await`. */
  walkOn<T>(file: string, value: T): T {
    move(file);
    return value;
  },
});

registerHooks({
  load(url, context, next) {
    if (!url.startsWith("file:")) {
      return next(url, context);
    }
    const path = relative(root, fileURLToPath(url));
    if (!path.startsWith("src/") || !path.endsWith(".ts")) {
      return next(url, context);
    }
    const source = stripTypeScriptTypes(readFileSync(fileURLToPath(url), "utf8"));
    const file = path.slice("src/".length, -".ts".length);
    return { format: "module", shortCircuit: true, source: instrument(source, file) };
  },
});

function instrument(source: string, file: string): string {
  const { program, errors } = parseSync(`${file}.js`, source);
  if (errors.length > 0) {
    throw new Error(`src/${file}.ts cannot be parsed: ${JSON.stringify(errors[0])}`);
  }
  const insertions: Insertion[] = [];
  let functions = 0;
  const put = (at: number, text: string, closes = false): void => {
    insertions.push({ at, text, closes });
  };
  const enclose = (node: Node, name: string): void => {
    const body = node.body as Node;
    const before = `walkBefore${functions++}`;
    // The end of an asynchronous function is the return to nobody; its caller goes on by itself.
    const synchronous = node.async !== true && node.generator !== true;
    const begin = `const ${before} = walkIn(${JSON.stringify(file)}, ${JSON.stringify(name)});${synchronous ? "try {" : ""}`;
    const end = synchronous ? `} finally { walkOut(${before}); }` : "";
    const isBlock = body.type === "BlockStatement" || body.type === "FunctionBody";
    if (!isBlock) {
      put(body.start, `{ ${begin} return (`);
      put(body.end, `);${end} }`, true);
    } else if (body.end - body.start === 2) {
      put(body.start + 1, begin + end);
    } else {
      put(body.start + 1, begin);
      put(body.end - 1, end, true);
    }
  };
  const visit = (value: unknown, name: string): void => {
    if (Array.isArray(value)) {
      for (const each of value) {
        visit(each, name);
      }
    }
    if (!isNode(value)) {
      return;
    }
    const own = nameOf(value) ?? name;
    if (value.type.includes("Function") && isNode(value.body)) {
      enclose(value, own);
    }
    if (value.type === "AwaitExpression") {
      put(value.start, `walkOn(${JSON.stringify(file)}, `);
      put(value.end, ")", true);
    }
    for (const member of Object.values(value)) {
      visit(member, own);
    }
  };
  visit(program, "module");
  return apply(source, insertions);
}

function isNode(value: unknown): value is Node {
  return (
    typeof value === "object" && value !== null && "type" in value && typeof value.type === "string"
  );
}

function nameOf(node: Node): string | undefined {
  const named = (node.id ?? node.key) as { readonly name?: string } | null | undefined;
  return named?.name;
}

/** Inserts the texts. At one place, inner ends come first, then outer ends, then outer beginnings. */
function apply(source: string, insertions: readonly Insertion[]): string {
  const sorted = insertions
    .map((insertion, order) => ({ ...insertion, order }))
    .sort((a, b) => {
      if (a.at !== b.at) {
        return a.at - b.at;
      }
      if (a.closes !== b.closes) {
        return a.closes ? -1 : 1;
      }
      return a.closes ? b.order - a.order : a.order - b.order;
    });
  let result = "";
  let from = 0;
  for (const { at, text } of sorted) {
    result += source.slice(from, at) + text;
    from = at;
  }
  return result + source.slice(from);
}
