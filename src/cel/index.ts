import type { DescMethod } from "@bufbuild/protobuf";
import { type ASTNode, Environment } from "@marcbachmann/cel-js";
import { assertMembers } from "../base/checks.ts";
import type { ClaimsSchema, JsonObject } from "../base/json.ts";
import type { Condition, ConditionLanguage } from "../server/policy/conditions.ts";
import { addClaims, addMessage, addType, type JsonSchema, plain, withinLimits } from "./types.ts";

export type {
  Condition,
  ConditionFacts,
  ConditionLanguage,
} from "../server/policy/conditions.ts";

/** The options of {@link cel}. */
export interface CelOptions {
  /**
   * The JSON Schema of the claims, so that a condition that names an unknown claim is refused at the start.
   * Default: what the schema of the option `claims` says of itself (Standard JSON Schema, as zod 4.2
   * does). If it says nothing, claims have any type, and their names are not checked.
   */
  readonly claims?: JsonSchema;
}

/** The size of a condition. It bounds the time that it takes, together with the items of a list. */
const limits = {
  maxAstNodes: 200,
  maxDepth: 24,
  maxListElements: 64,
  maxMapEntries: 16,
  maxCallArguments: 8,
} as const;

/**
 * Conditions of policies in the Common Expression Language (https://cel.dev): `allow` in code and in the
 * schema. Needs the package `@marcbachmann/cel-js`.
 *
 * @example
 * ```ts
 * createSessions({
 *   conditions: cel(),
 *   methods: { "notes.v1.NotesService/*": { allow: "session.claims.role == 'admin'" } },
 * });
 * ```
 * @throws TypeError if an option is not valid
 */
export function cel(options: CelOptions = {}): ConditionLanguage {
  assertMembers("cel", options, { claims: 0 });
  return {
    compile: (source, { method, claims }) =>
      compile(source, method, options.claims ?? schemaOf(claims)),
  };
}

/** What a schema says of itself (Standard JSON Schema); undefined if it says nothing. */
function schemaOf(claims: ClaimsSchema | undefined): JsonSchema | undefined {
  const standard = claims?.["~standard"] as
    | { jsonSchema?: { output?: (options: { target: string }) => JsonSchema } }
    | undefined;
  try {
    return standard?.jsonSchema?.output?.({ target: "draft-2020-12" });
  } catch {
    // A schema with transformations or custom types may not be expressible.
    return undefined;
  }
}

interface SessionFields {
  readonly id: string;
  readonly userId: string;
  readonly tenantId: string | undefined;
  readonly createdAt: Date;
  readonly authTime: Date;
  readonly acr: string | undefined;
  readonly amr: readonly string[];
  readonly claims: JsonObject;
}

function compile(source: string, method: DescMethod, claims: JsonSchema | undefined): Condition {
  // 1. What the condition may name: the session, the request, and the time.
  const env = new Environment({ limits });
  const seen = claims?.properties === undefined ? untyped : addClaims(env, claims);
  const field = <T>(type: string, read: (session: SessionFields) => T) => ({ type, read });
  const session = addType(
    env,
    "session",
    new Map([
      ["id", field("string", ({ id }) => id)],
      ["user_id", field("string", ({ userId }) => userId)],
      ["tenant_id", field("string", ({ tenantId }) => tenantId)],
      ["created_at", field("google.protobuf.Timestamp", ({ createdAt }) => createdAt)],
      ["auth_time", field("google.protobuf.Timestamp", ({ authTime }) => authTime)],
      ["acr", field("string", ({ acr }) => acr)],
      ["amr", field("list<string>", ({ amr }) => [...amr])],
      ["claims", field(seen.type, (one) => seen.see(one.claims as never))],
    ]),
  );
  const request = addMessage(env, method.input);
  env.registerVariable("session", "session");
  env.registerVariable("request", request.type);
  env.registerVariable("now", "google.protobuf.Timestamp");

  // 2. Parse and check it. An unknown name is an error here, and so is anything but true or false.
  const checked = env.check(source);
  if (!checked.valid) {
    const { summary, message, range } = checked.error as Error & {
      readonly summary?: string;
      readonly range?: { readonly start: number };
    };
    throw wrong(source, range?.start ?? 0, summary ?? message.split("\n")[0] ?? "");
  }
  if (checked.type !== "bool") {
    throw wrong(source, 0, `It is ${checked.type}, and must be bool; compare it with a value`);
  }
  const evaluate = env.parse(source);
  const reads = inspect(source, evaluate.ast);

  // 3. It runs on the objects of the call, without a copy.
  return {
    source,
    readsRequest: reads.request,
    claims: reads.anyClaim ? "any" : [...reads.claims],
    holds(facts) {
      const names = {
        session: new session(facts.session),
        now: new Date(facts.now),
        ...(facts.request === undefined ? {} : { request: request.see(facts.request) }),
      };
      const result: unknown = withinLimits(() => evaluate(names));
      return result === true;
    },
  };
}

/** Claims by the object of a verified token, as CEL sees them. */
const untypedClaims = new WeakMap<object, unknown>();

/** Claims without a schema: any names, any types. */
const untyped = {
  type: "map<string, dyn>",
  see(claims: JsonObject): unknown {
    let seen = untypedClaims.get(claims);
    if (seen === undefined) {
      seen = plain(claims);
      untypedClaims.set(claims, seen);
    }
    return seen;
  },
};

/** The macros that look at each item of a list. */
const loops: ReadonlySet<string> = new Set(["all", "exists", "exists_one", "map", "filter"]);

/** What a condition reads. @throws TypeError if it could take long */
function inspect(source: string, ast: ASTNode) {
  const reads = { request: false, anyClaim: false, claims: new Set<string>() };
  const visit = (node: unknown, within: number): void => {
    if (Array.isArray(node)) {
      for (const one of node) {
        visit(one, within);
      }
      return;
    }
    if (typeof node !== "object" || node === null || !("op" in node)) {
      return;
    }
    const { op, args, start } = node as { op: string; args: unknown; start: number };
    if (op === "id") {
      reads.request ||= args === "request";
      // The session as a whole, for example under another name, and so all of its claims.
      reads.anyClaim ||= args === "session";
      return;
    }
    const claim = claimIn(node as ASTNode);
    if (claim !== undefined) {
      reads.claims.add(claim);
      return;
    }
    const member = memberOfSession(node);
    if (member !== undefined) {
      reads.anyClaim ||= member === "claims";
      return;
    }
    const called = op === "rcall" || op === "call" ? (args as [string])[0] : "";
    if (called === "matches") {
      throw wrong(source, start, "matches is not available, because a pattern may take very long");
    }
    const isLoop = op === "rcall" && loops.has(called);
    if (isLoop && within > 0) {
      throw wrong(
        source,
        start,
        "A loop within a loop is not available, because it may take very long",
      );
    }
    visit(args, isLoop ? within + 1 : within);
  };
  visit(ast, 0);
  return reads;
}

/** The name of a claim, if a node is `session.claims.name` or `session.claims["name"]`. */
function claimIn({ op, args }: ASTNode): string | undefined {
  if (op !== "." && op !== "[]") {
    return undefined;
  }
  const [of, name] = args as unknown as [ASTNode, string | ASTNode];
  const key = typeof name === "string" ? name : name.op === "value" ? name.args : undefined;
  return memberOfSession(of) === "claims" && typeof key === "string" ? key : undefined;
}

/** The name of a member, if a node is `session.name`. */
function memberOfSession(node: object): string | undefined {
  const { op, args } = node as ASTNode;
  if (op !== ".") {
    return undefined;
  }
  const [of, name] = args as unknown as [ASTNode, string];
  return of.op === "id" && (of.args as unknown) === "session" ? name : undefined;
}

function wrong(source: string, at: number, why: string): TypeError {
  const before = source.slice(0, at).split("\n");
  const line = before.length === 1 ? "" : `line ${before.length}, `;
  return new TypeError(
    `${line}column ${(before.at(-1)?.length ?? 0) + 1}: ${why}: ${JSON.stringify(source)}`,
  );
}
