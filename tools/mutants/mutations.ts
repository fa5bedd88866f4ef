import { parseSync } from "vite";

/** One change of a source text: `after` replaces the characters from `start` to `end`. */
export interface Mutation {
  readonly start: number;
  readonly end: number;
  readonly after: string;
  /** Counted from 1. */
  readonly line: number;
  /** The change in one line, for people: `before → after`. */
  readonly change: string;
}

interface Node {
  readonly type: string;
  readonly start: number;
  readonly end: number;
  readonly [member: string]: unknown;
}

/** The place of a node: its parents, the nearest first. */
type Parents = readonly Node[];

const operators: Readonly<Record<string, readonly string[]>> = {
  "===": ["!=="],
  "!==": ["==="],
  "<": ["<=", ">"],
  "<=": ["<", ">"],
  ">": [">=", "<"],
  ">=": [">", "<"],
  "&&": ["||"],
  "||": ["&&"],
  "??": ["||"],
  "+": ["-"],
  "-": ["+"],
  "*": ["/"],
  "/": ["*"],
  "+=": ["-="],
  "-=": ["+="],
};

/** Calls that become the opposite call. */
const opposites: Readonly<Record<string, string>> = {
  min: "max",
  max: "min",
  some: "every",
  every: "some",
  startsWith: "endsWith",
  endsWith: "startsWith",
};

/** Expressions that give an object. */
const objects = new Set(["ArrayExpression", "NewExpression", "ObjectExpression"]);

/** Methods that return what they are called on, changed. */
const changing = new Set(
  "catch filter finally normalize replace replaceAll reverse slice sort subarray toLowerCase toReversed toSorted toUpperCase trim".split(
    " ",
  ),
);

/** A kind, a reason, a code or a name. Sentences for people contain spaces. */
const identifier = /^[A-Za-z][\w-]*$/;

/**
 * Returns all mutations of a TypeScript file, in the order of the source. Types, imports and the
 * messages of errors stay as they are.
 */
export function mutationsOf(source: string): Mutation[] {
  const { program, errors } = parseSync("source.ts", source);
  if (errors.length > 0) {
    throw new Error(`the source cannot be parsed: ${JSON.stringify(errors[0])}`);
  }
  const found: { readonly node: Node; readonly after: string }[] = [];
  const texts = new Map<string, string[]>();
  const text = (node: Node): string => source.slice(node.start, node.end);

  const visit = (value: unknown, parents: Parents): void => {
    if (Array.isArray(value)) {
      for (const each of value) {
        visit(each, parents);
      }
      return;
    }
    if (!isNode(value) || isSkipped(value)) {
      return;
    }
    for (const after of replacements(value, parents, text)) {
      found.push({ node: value, after });
    }
    const role = roleOfText(value, parents, text);
    if (role !== undefined) {
      texts.set(role, [...(texts.get(role) ?? []), text(value)]);
      found.push({ node: value, after: role });
    }
    for (const member of Object.values(value)) {
      visit(member, [value, ...parents]);
    }
  };
  visit(program, []);

  return found
    .map(({ node, after }) => {
      // A text becomes another text of the same role, because any other would not type-check.
      const role = texts.get(after);
      return role === undefined ? { node, after } : { node, after: next(text(node), role) };
    })
    .filter(({ node, after }) => after !== text(node))
    .map(({ node, after }) => ({
      ...{ start: node.start, end: node.end, after },
      line: source.slice(0, node.start).split("\n").length,
      change: describeChange(text(node), after),
    }))
    .sort((a, b) => a.start - b.start);
}

/** Applies one mutation. */
export function mutate(source: string, { start, end, after }: Mutation): string {
  return source.slice(0, start) + after + source.slice(end);
}

function isNode(value: unknown): value is Node {
  return (
    typeof value === "object" && value !== null && "type" in value && typeof value.type === "string"
  );
}

/** Type assertions contain values; everything else of TypeScript has no effect when it runs. */
const assertions = new Set(["TSAsExpression", "TSSatisfiesExpression", "TSNonNullExpression"]);

function isSkipped(node: Node): boolean {
  if (node.type === "ImportDeclaration" || node.type.startsWith("Export")) {
    return node.type !== "ExportNamedDeclaration" || !isNode(node.declaration);
  }
  if (node.type === "NewExpression") {
    const callee = node.callee as Node;
    return typeof callee.name === "string" && callee.name.endsWith("Error");
  }
  return node.type.startsWith("TS") && !assertions.has(node.type);
}

/** Returns what can replace a node. */
function replacements(node: Node, parents: Parents, text: (node: Node) => string): string[] {
  const [parent] = parents;
  switch (node.type) {
    case "BinaryExpression":
    case "LogicalExpression": {
      const { left, right } = node as unknown as { left: Node; right: Node };
      // A mixture of `??` with `||` or `&&` would need parentheses.
      const mixed = [left, right, parent].some((each) => each?.type === "LogicalExpression");
      // Where the default is an object, `||` differs from `??` for nothing that the left side can be.
      const same = mixed || objects.has(right.type);
      const changes = same && node.operator === "??" ? [] : operators[node.operator as string];
      return [
        ...(changes ?? []).map((each) => `${text(left)} ${each} ${text(right)}`),
        // One of two conditions is left out.
        ...(node.type === "LogicalExpression" ? [text(left), text(right)] : []),
      ].map((expression) => inParentheses(expression, parent));
    }
    case "AssignmentExpression": {
      const { left, right } = node as unknown as { left: Node; right: Node };
      const changes = operators[node.operator as string] ?? [];
      return changes.map((each) => `${text(left)} ${each} ${text(right)}`);
    }
    case "CallExpression":
      return replacementsOfCall(node, text);
    case "UnaryExpression":
      return node.operator === "!" ? [text(node.argument as Node)] : [];
    case "Literal":
      return replacementsOfLiteral(node, parent);
    case "AwaitExpression":
      // `return await x` differs from `return x` only within `try`.
      return parent?.type === "ReturnStatement" ? [] : [text(node.argument as Node)];
    case "ExpressionStatement":
      return node.directive == null && isEffect(node.expression as Node) ? [";"] : [];
    case "ThrowStatement":
      return [";"];
    case "BreakStatement":
    case "ContinueStatement":
      return parent?.type === "SwitchCase" ? [] : [";"];
    case "ReturnStatement":
      return isEarly(parents) ? [";"] : [];
    case "BlockStatement":
    case "FunctionBody": {
      const body = node.body as Node[];
      const isTried = parent?.type === "TryStatement" && parent.block === node;
      // The removal of a single statement is a mutation of its own.
      const single = body.length === 1 && removable.has(body[0]?.type ?? "");
      return body.length === 0 || single || isTried ? [] : ["{}"];
    }
    case "ArrayExpression":
      return without(node, node.elements as Node[], text);
    case "ObjectExpression":
      return without(node, node.properties as Node[], text);
    default:
      return isCondition(node, parent) ? [`!(${text(node)})`] : [];
  }
}

function replacementsOfLiteral(node: Node, parent: Node | undefined): string[] {
  if (typeof node.value === "boolean") {
    return [String(!node.value)];
  }
  // 0x7f and 1e3 are masks and scales.
  if (typeof node.value === "number" && /^[\d_]+$/.test(node.raw as string)) {
    const isUnchanged = isKey(node, parent) || isDefaultOfElement(node, parent);
    return isUnchanged ? [] : replacementsOfNumber(node.value, parent);
  }
  const { regex } = node as unknown as { regex?: { pattern: string; flags: string } };
  if (regex !== undefined) {
    const { pattern, flags } = regex;
    const open = [pattern.replace(/^\^/, ""), pattern.replace(/\$$/, "")];
    return open.filter((each) => each !== "").map((each) => `/${each}/${flags}`);
  }
  return [];
}

/** From here on, one more or less of a time or a size is no difference that anybody would notice. */
const large = 1_000;

function replacementsOfNumber(value: number, parent: Node | undefined): string[] {
  const [more, less] = value < large ? [value + 1, value - 1] : [value * 2, Math.floor(value / 2)];
  return [String(more), isOperand(parent) ? `(${less})` : String(less)];
}

/** The opposite call, the call without its last argument or with two exchanged, or no call. */
function replacementsOfCall(node: Node, text: (node: Node) => string): string[] {
  const { callee, arguments: args } = node as unknown as { callee: Node; arguments: Node[] };
  const call = (list: readonly Node[]) => `${text(callee)}(${list.map(text).join(", ")})`;
  const exchanged = args
    .slice(1)
    .map((second, i) => call(args.with(i, second).with(i + 1, args[i] as Node)));
  const shorter = args.length > 0 ? [call(args.slice(0, -1))] : [];
  if (callee.type !== "MemberExpression" || callee.computed === true) {
    return [...exchanged, ...shorter];
  }
  const { object, property } = callee as unknown as { object: Node; property: Node };
  const name = text(property);
  const opposite = opposites[name];
  const start = text(node).slice(0, property.start - node.start);
  const rest = text(node).slice(property.end - node.start);
  return [
    ...exchanged,
    ...shorter,
    ...(opposite === undefined ? [] : [`${start}${opposite}${rest}`]),
    ...(changing.has(name) ? [text(object)] : []),
  ];
}

function isOperand(parent: Node | undefined): boolean {
  return parent?.type === "BinaryExpression" || parent?.type === "UnaryExpression";
}

/** Whether a number stands for an element of a list that the type checker thinks may be missing. */
function isDefaultOfElement(node: Node, parent: Node | undefined): boolean {
  const left = parent?.left as Node | undefined;
  return parent?.operator === "??" && parent.right === node && left?.computed === true;
}

function isKey(node: Node, parent: Node | undefined): boolean {
  return parent?.key === node;
}

/** The operands of the other conditions are mutated themselves. */
function isCondition(node: Node, parent: Node | undefined): boolean {
  return (
    parent?.test === node &&
    ["IfStatement", "ConditionalExpression", "WhileStatement"].includes(parent.type)
  );
}

const removable = new Set(["ExpressionStatement", "ThrowStatement", "ReturnStatement"]);

function isEffect(node: Node): boolean {
  return node.type === "AwaitExpression"
    ? isEffect(node.argument as Node)
    : ["CallExpression", "AssignmentExpression", "UpdateExpression"].includes(node.type);
}

/** Whether a return is inside an `if`. */
function isEarly([parent, grandparent]: Parents): boolean {
  return parent?.type === "IfStatement" || grandparent?.type === "IfStatement";
}

/** Returns the list with each of its members left out, once. */
function without(node: Node, members: readonly (Node | null)[], text: (node: Node) => string) {
  const [open, close] = node.type === "ArrayExpression" ? ["[", "]"] : ["{ ", " }"];
  const present = members.filter((member) => member !== null);
  return present.map((left) => {
    const rest = present.filter((member) => member !== left);
    return rest.length === 0 ? `${open}${close}` : `${open}${rest.map(text).join(", ")}${close}`;
  });
}

function inParentheses(expression: string, parent: Node | undefined): string {
  return isOperand(parent) || parent?.type === "LogicalExpression" ? `(${expression})` : expression;
}

/**
 * Returns the role of a text that the program compares, returns or stores. Undefined for all other
 * nodes.
 */
function roleOfText(node: Node, [parent]: Parents, text: (node: Node) => string) {
  const isName =
    node.type === "Literal" && typeof node.value === "string" && identifier.test(node.value);
  if (!isName || parent === undefined) {
    return undefined;
  }
  switch (parent.type) {
    case "BinaryExpression": {
      const other = (parent.left === node ? parent.right : parent.left) as Node;
      return other.operator === "typeof" ? undefined : `compared with ${text(other)}`;
    }
    case "SwitchCase":
      return "case";
    case "ReturnStatement":
    case "ArrowFunctionExpression":
      return "returned";
    case "ConditionalExpression":
      return "chosen";
    case "Property":
    case "PropertyDefinition":
      return isKey(node, parent) ? undefined : `value of ${text(parent.key as Node)}`;
    case "CallExpression":
      return parent.callee === node ? undefined : `argument of ${text(parent.callee as Node)}`;
    default:
      return undefined;
  }
}

/** Returns the text after `own` in the role; if there is only one, the empty text. */
function next(own: string, role: readonly string[]): string {
  const different = [...new Set(role)];
  return different.length === 1
    ? '""'
    : (different[(different.indexOf(own) + 1) % different.length] ?? '""');
}

/** Shows where two texts differ, with a few characters around. */
function describeChange(before: string, after: string): string {
  const [from, to] = [before, after].map((text) => text.replaceAll(/\s+/g, " ")) as [
    string,
    string,
  ];
  const shorter = Math.min(from.length, to.length);
  let start = 0;
  while (start < shorter && from[start] === to[start]) {
    start += 1;
  }
  let end = 0;
  while (end < shorter - start && from.at(-1 - end) === to.at(-1 - end)) {
    end += 1;
  }
  const around = 30;
  const shown = [from, to].map((text) => {
    const first = Math.max(0, start - around);
    const last = Math.min(text.length, text.length - end + around);
    const part = text.slice(first, last);
    const middle = part.length > 120 ? `${part.slice(0, 70)} … ${part.slice(-46)}` : part;
    return `${first > 0 ? "…" : ""}${middle}${last < text.length ? "…" : ""}`;
  });
  return shown.join(" → ");
}
