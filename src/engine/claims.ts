import { type PolicyViolation, SessionError } from "../base/errors.ts";
import type { ClaimsSchema, JsonObject, StandardSchemaV1 } from "../base/json.ts";
import { maxNoticeClaims, noticeLength } from "../base/wire.ts";
import { assertUserClaims } from "../jwt/claims.ts";
import { maxDepth } from "../jwt/strict-parse.ts";

/** Checks claims on their way into a token and out of it. */
export interface ClaimsRule {
  /**
   * What a session keeps of the claims it is given: what the schema makes of them.
   * @throws TypeError when they do not fit, or when the schema does not accept its own output
   */
  accept(given: unknown): Promise<JsonObject>;
  /**
   * The claims of a token as handlers see them; the same object for the same claims.
   * @throws SessionError `forbidden`, `CLAIM_REJECTED`, when they do not fit (any more)
   */
  read(claims: JsonObject): JsonObject | Promise<JsonObject>;
  /**
   * What the client is told; undefined when nothing is.
   * @throws TypeError when it is no JSON object, or too long for a header
   * @throws SessionError as `read` does
   */
  forClient(claims: JsonObject): Promise<JsonObject | undefined>;
}

/** Which claims a session's client may read. */
export type ClientClaims<Claims> = (claims: Claims) => object;

/** @throws TypeError when the schema is none, or the projection no function */
export function createClaimsRule(
  schema: ClaimsSchema | undefined,
  clientClaims: ClientClaims<never> | undefined,
): ClaimsRule {
  if (schema !== undefined && typeof schema?.["~standard"]?.validate !== "function") {
    throw new TypeError(
      "claims: give a schema of zod, valibot, arktype or another library of the Standard Schema",
    );
  }
  const rule = schema === undefined ? anyClaims : new SchemaRule(schema);
  return {
    accept: (given) => rule.accept(given),
    read: (claims) => rule.read(claims),
    async forClient(claims) {
      if (clientClaims === undefined) {
        return undefined;
      }
      return readProjection(clientClaims, await rule.read(claims));
    },
  };
}

function readProjection(clientClaims: ClientClaims<never>, claims: JsonObject): JsonObject {
  let told: unknown;
  try {
    told = withoutUndefined(clientClaims(claims as never));
  } catch (cause) {
    throw theirFault("clientClaims", cause);
  }
  try {
    assertUserClaims(told);
  } catch (error) {
    throw new TypeError(`clientClaims: ${(error as Error).message}`, { cause: error });
  }
  if (noticeLength(told) > maxNoticeClaims) {
    throw new TypeError(
      `clientClaims: more than ${maxNoticeClaims} characters do not fit a header; tell the client less`,
    );
  }
  return told;
}

const anyClaims: Pick<ClaimsRule, "accept" | "read"> = {
  async accept(given) {
    assertUserClaims(given);
    return given;
  },
  read: frozen,
};

class SchemaRule implements Pick<ClaimsRule, "accept" | "read"> {
  readonly #validate: (value: unknown) => Result | Promise<Result>;
  /** By the claims of a verified token, which are one object for as long as the token is known. */
  readonly #read = new WeakMap<JsonObject, JsonObject>();

  constructor(schema: ClaimsSchema) {
    this.#validate = (value) => {
      const failed = (cause: unknown): never => {
        throw theirFault("the schema of the option claims", cause);
      };
      try {
        const result = schema["~standard"].validate(value);
        return result instanceof Promise ? result.catch(failed) : result;
      } catch (cause) {
        return failed(cause);
      }
    };
  }

  async accept(given: unknown): Promise<JsonObject> {
    const first = await this.#validate(given);
    if (first.issues !== undefined) {
      throw new TypeError(`claims: ${namesOf(first.issues)} not as the schema says`, {
        cause: first.issues,
      });
    }
    const claims: unknown = withoutUndefined(first.value);
    assertUserClaims(claims);
    const again = await this.#validate(claims);
    // JSON has no undefined, so a member that is undefined is as good as one that is absent.
    if (again.issues !== undefined || JSON.stringify(again.value) !== JSON.stringify(claims)) {
      throw new TypeError(
        "claims: the schema does not return what it made of them unchanged; it is run again on every token, so leave out what transforms a value that is transformed already",
        { cause: again.issues },
      );
    }
    return claims;
  }

  read(claims: JsonObject): JsonObject | Promise<JsonObject> {
    const known = this.#read.get(claims);
    if (known !== undefined) {
      return known;
    }
    const result = this.#validate(claims);
    return result instanceof Promise
      ? result.then((later) => this.#keep(claims, later))
      : this.#keep(claims, result);
  }

  #keep(claims: JsonObject, result: Result): JsonObject {
    if (result.issues !== undefined) {
      throw rejected(result.issues);
    }
    const value = frozenThroughout(result.value as JsonObject);
    this.#read.set(claims, value);
    return value;
  }
}

type Result = StandardSchemaV1.Result<object>;
type Issues = readonly StandardSchemaV1.Issue[];

/** One object serves all calls of a token: what a handler writes into it would be read by the next. */
function frozen<T>(value: T): T {
  if (typeof value === "object" && value !== null && !Object.isFrozen(value)) {
    Object.freeze(value);
    Object.values(value).forEach(frozen);
  }
  return value;
}

/**
 * The same where a schema may have frozen the outside alone, as those do that call it read-only.
 * @param known what was seen already; what a schema returns may contain itself
 */
function frozenThroughout<T>(value: T, known = new Set<unknown>()): T {
  if (typeof value === "object" && value !== null && !known.has(value)) {
    known.add(value);
    Object.freeze(value);
    for (const member of Object.values(value)) {
      frozenThroughout(member, known);
    }
  }
  return value;
}

/** Members that are undefined go, as JSON has it; what is no plain JSON stays, to be refused. */
function withoutUndefined(value: unknown, depth = 0): unknown {
  if (typeof value !== "object" || value === null || depth > maxDepth) {
    return value;
  }
  if (Array.isArray(value)) {
    return value.map((item) => withoutUndefined(item, depth + 1));
  }
  const prototype: unknown = Object.getPrototypeOf(value);
  if (prototype !== Object.prototype && prototype !== null) {
    return value;
  }
  return Object.fromEntries(
    Object.entries(value)
      .filter(([, member]) => member !== undefined)
      .map(([name, member]) => [name, withoutUndefined(member, depth + 1)]),
  );
}

/** What code of the service threw is for its logs: its text may repeat a value. */
function theirFault(what: string, cause: unknown): SessionError {
  return new SessionError("general", "INTERNAL", { message: `${what} threw`, cause });
}

/** The issues of a schema may repeat a value, in their texts and beside them, so they are left out. */
function rejected(issues: Issues): SessionError {
  return new SessionError("forbidden", "CLAIM_REJECTED", {
    message: "the claims of the session are not as the service expects them",
    violations: issues.map(
      (issue): PolicyViolation => ({
        claim: nameOf(issue),
        requirement: "schema",
        message: "is not as the schema says",
      }),
    ),
  });
}

function namesOf(issues: Issues): string {
  const names = [...new Set(issues.map(nameOf))].slice(0, 10);
  return `${names.join(", ")} ${names.length === 1 ? "is" : "are"}`;
}

function nameOf({ path = [] }: StandardSchemaV1.Issue): string {
  const keys = path.map((part) => String(typeof part === "object" ? part.key : part));
  return keys.length === 0 ? "the whole" : keys.join(".");
}
