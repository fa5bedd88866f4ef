import { type PolicyViolation, SessionError } from "../base/errors.ts";
import type { ClaimsSchema, JsonObject, StandardSchemaV1 } from "../base/json.ts";
import { isPromise, whenKnown } from "../base/promises.ts";
import { maxNoticeClaims, noticeLength } from "../base/wire.ts";
import { assertUserClaims, claimAges } from "../jwt/claims.ts";
import { maxDepth } from "../jwt/strict-parse.ts";

/** The option `clientClaims`: selects the claims that the client may read. */
export type ClientClaims<Claims> = (claims: Claims) => object;

/** Validates claims before they are stored, and again when they are read from a token. */
export class ClaimsRule {
  readonly #reader: ClaimsReader;
  readonly #clientClaims: ClientClaims<never> | undefined;
  readonly #sourced: readonly string[];
  /** Claims without their ages, by the claims of a verified token. */
  readonly #withoutAges = new WeakMap<JsonObject, JsonObject>();

  /**
   * @param sourced the claims that have a source; it is noted when they are set
   * @throws TypeError if `schema` does not implement Standard Schema
   */
  constructor(
    schema: ClaimsSchema | undefined,
    clientClaims: ClientClaims<never> | undefined,
    sourced: readonly string[] = [],
  ) {
    if (schema !== undefined && typeof schema?.["~standard"]?.validate !== "function") {
      throw new TypeError(
        "claims must be a schema from zod, valibot, arktype or another Standard Schema library",
      );
    }
    this.#reader = schema === undefined ? new JsonClaims() : new SchemaClaims(schema);
    this.#clientClaims = clientClaims;
    this.#sourced = sourced;
  }

  /**
   * Validates new claims and returns the schema's output, which is what gets stored, with the ages of
   * claims that have a source.
   *
   * @param given new claims, without ages
   * @param setting when they are set, and the claims that they replace
   * @throws TypeError if they do not match, if the schema does not accept its own output, or if
   * `clientClaims` selects claims that cannot be sent
   */
  async accept(
    given: unknown,
    { now, present = {}, named = [] }: ClaimsSetting,
  ): Promise<JsonObject> {
    const former = this.plain(present);
    const claims = await this.#reader.accept(given, namesIn(former));
    // Compute what the client may read now, while a mistake still changes nothing.
    await this.forClient(claims);
    const ages = { ...(present[claimAges] as JsonObject | undefined) };
    for (const name of this.#sourced) {
      const isSet = JSON.stringify(claims[name]) !== JSON.stringify(former[name]);
      if (isSet || named.includes(name)) {
        ages[name] = Math.floor(now / 1000);
      }
    }
    return Object.keys(ages).length === 0 ? claims : { ...claims, [claimAges]: ages };
  }

  /** Claims as they were given: without the ages. Returns the same object for the same claims. */
  plain(claims: JsonObject): JsonObject {
    if (claims[claimAges] === undefined) {
      return claims;
    }
    let plain = this.#withoutAges.get(claims);
    if (plain === undefined) {
      const { [claimAges]: _ages, ...others } = claims;
      // As in a token: a lookup finds only claims.
      plain = Object.setPrototypeOf(others, null) as JsonObject;
      this.#withoutAges.set(claims, plain);
    }
    return plain;
  }

  /**
   * Validates the claims of a token and returns them as handlers see them. Returns the same object
   * for the same claims, without a promise if they were read before.
   * @throws SessionError `forbidden`, `CLAIM_REJECTED`, if they do not match, or no longer do
   */
  read(claims: JsonObject): JsonObject | Promise<JsonObject> {
    return this.#reader.read(this.plain(claims));
  }

  /**
   * Returns the claims that the client may read; undefined without the option `clientClaims`.
   * @throws TypeError if they are not a JSON object, or too large for a header
   * @throws SessionError like `read`
   */
  async forClient(claims: JsonObject): Promise<JsonObject | undefined> {
    return this.#clientClaims === undefined
      ? undefined
      : selectForClient(this.#clientClaims, await this.read(claims));
  }

  /** The length of these claims in bytes of their header; 0 if there are none, or they cannot be sent. */
  readonly shownLength: ShownLength = async (claims) => {
    const shown = await this.forClient(claims).catch(() => undefined);
    return shown === undefined ? 0 : noticeLength(shown);
  };
}

/** How claims are set. */
export interface ClaimsSetting {
  /** Milliseconds since 1970 by the store's clock: how old what is set is. */
  readonly now: number;
  /** The claims that they replace. Default: none. */
  readonly present?: JsonObject;
  /** The claims that are set, even to the value that they have. Default: those that change. */
  readonly named?: readonly string[];
}

/**
 * When a claim was set, in milliseconds since 1970 by the store's clock, rounded down to seconds;
 * undefined if that is not known.
 */
export function claimSetAt(claims: JsonObject, name: string): number | undefined {
  const ages = claims[claimAges];
  const at =
    typeof ages === "object" && ages !== null && Object.hasOwn(ages, name)
      ? (ages as JsonObject)[name]
      : undefined;
  return typeof at === "number" ? at * 1000 : undefined;
}

/** Returns the length of the claims that the client may read; see `TokenContent.shownLength`. */
export type ShownLength = (claims: JsonObject) => Promise<number>;

interface ClaimsReader {
  accept(given: unknown, kept: ReadonlySet<string>): Promise<JsonObject>;
  read(claims: JsonObject): JsonObject | Promise<JsonObject>;
}

/** Without a schema: any JSON object. */
class JsonClaims implements ClaimsReader {
  async accept(given: unknown, kept: ReadonlySet<string>): Promise<JsonObject> {
    assertUserClaims(given, kept);
    return given;
  }

  read(claims: JsonObject): JsonObject {
    return frozen(claims);
  }
}

/** Claims that must match a schema. */
class SchemaClaims implements ClaimsReader {
  readonly #validate: (value: unknown) => Result | Promise<Result>;
  /** Results by the claims object of a verified token, which is cached together with the token. */
  readonly #read = new WeakMap<JsonObject, JsonObject>();

  constructor(schema: ClaimsSchema) {
    this.#validate = (value) => {
      const failed = (cause: unknown): never => {
        throw serviceFault("the schema of the option claims threw an error", cause);
      };
      try {
        const result = schema["~standard"].validate(value);
        return isPromise(result) ? Promise.resolve(result).catch(failed) : result;
      } catch (cause) {
        return failed(cause);
      }
    };
  }

  async accept(given: unknown, kept: ReadonlySet<string>): Promise<JsonObject> {
    const first = await this.#validate(given);
    if (first.issues !== undefined) {
      throw new TypeError(`the claims do not match the schema: ${namesOf(first.issues)}`, {
        cause: first.issues,
      });
    }
    const claims: unknown = withoutUndefined(first.value);
    assertUserClaims(claims, kept);
    const again = await this.#validate(claims);
    // JSON has no undefined, so a member that is undefined counts as absent.
    if (again.issues !== undefined || JSON.stringify(again.value) !== JSON.stringify(claims)) {
      throw new TypeError(
        "the schema of the option claims changes its own output; it runs again on every token, so do not transform a value that is already transformed",
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
    return whenKnown(result, (read) => this.#keep(claims, read));
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

function selectForClient(clientClaims: ClientClaims<never>, claims: JsonObject): JsonObject {
  let selected: unknown;
  try {
    selected = withoutUndefined(clientClaims(claims as never));
  } catch (cause) {
    throw serviceFault("the option clientClaims threw an error", cause);
  }
  try {
    // A session of an older version may have claims that were reserved later.
    assertUserClaims(selected, namesIn(claims));
  } catch (error) {
    throw new TypeError(`clientClaims: ${(error as Error).message}`, { cause: error });
  }
  const length = noticeLength(selected);
  if (length > maxNoticeClaims) {
    throw new TypeError(
      `clientClaims must return at most ${maxNoticeClaims} characters after form encoding, got ${length}; select fewer claims`,
    );
  }
  return selected;
}

function namesIn(claims: JsonObject): ReadonlySet<string> {
  return new Set(Object.keys(claims));
}

type Result = StandardSchemaV1.Result<object>;
type Issues = readonly StandardSchemaV1.Issue[];

/** Freezes deeply, because all calls with a token share one object that no handler may change. */
function frozen<T>(value: T): T {
  if (typeof value === "object" && value !== null && !Object.isFrozen(value)) {
    Object.freeze(value);
    Object.values(value).forEach(frozen);
  }
  return value;
}

/**
 * Like `frozen`, but also visits frozen objects: a read-only schema may freeze only the outermost one.
 * @param known objects already visited, because a schema's output may contain cycles
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

/** Removes undefined members, as JSON does. Keeps values that are not JSON, so that they are refused. */
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

/** An error thrown by the service's own code goes only to its logs, because it may contain a value. */
function serviceFault(message: string, cause: unknown): SessionError {
  return new SessionError("general", "INTERNAL", { message, cause });
}

/** Leaves out the issues of the schema, which may contain values. */
function rejected(issues: Issues): SessionError {
  return new SessionError("forbidden", "CLAIM_REJECTED", {
    message:
      "the claims of the session do not match the schema of the service; its violations name them",
    violations: issues.map(
      (issue): PolicyViolation => ({
        claim: nameOf(issue),
        requirement: "schema",
        message: "does not match the schema",
        rule: "schema",
      }),
    ),
  });
}

function namesOf(issues: Issues): string {
  return [...new Set(issues.map(nameOf))].slice(0, 10).join(", ");
}

function nameOf({ path = [] }: StandardSchemaV1.Issue): string {
  const keys = path.map((part) => String(typeof part === "object" ? part.key : part));
  return keys.length === 0 ? "the whole object" : keys.join(".");
}
