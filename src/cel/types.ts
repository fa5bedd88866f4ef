import {
  type DescField,
  type DescMessage,
  isFieldSet,
  type Message,
  ScalarType,
} from "@bufbuild/protobuf";
import { FeatureSet_FieldPresence, type Timestamp } from "@bufbuild/protobuf/wkt";
import type { Environment } from "@marcbachmann/cel-js";

/** Items of one list or map that a condition may look at. More refuse the call. */
const maxItems = 1_000;
/** Characters, bytes and items of a request that it may look at in all: a loop reads a text many times. */
const maxRead = 4 * 2 ** 20;
/** How many of them are left to the condition that is evaluated now. None waits, so one number is enough. */
let left = 0;

/** Evaluates a condition, which throws a RangeError if it looks at too much. */
export function withinLimits<T>(evaluate: () => T): T {
  left = maxRead;
  return evaluate();
}

/** @throws RangeError if the condition has looked at too much */
function spend(amount: number): void {
  left -= amount;
  if (left < 0) {
    throw new RangeError(`a condition looks at ${maxRead} characters and items at most`);
  }
}

/** What CEL sees of an object: its class has a getter for each field. */
export type View = new (value: object) => object;

/** A field as CEL sees it: its type, and its value; undefined if it is not set. */
interface Field {
  readonly type: string;
  readonly read: (of: never) => unknown;
}

/** Makes a class whose getters read the fields of a value. A field may have any name, also "value". */
function viewOf(fields: ReadonlyMap<string, Field>): View {
  class Seen {
    readonly #value: object;
    constructor(value: object) {
      this.#value = value;
    }
    static of(seen: Seen): never {
      return seen.#value as never;
    }
  }
  for (const [name, { read }] of fields) {
    Object.defineProperty(Seen.prototype, name, {
      get(this: Seen) {
        return read(Seen.of(this));
      },
    });
  }
  return Seen;
}

/** The names of fields that no condition can read: naming one is an error at the start. */
const unreadable: ReadonlySet<string> = new Set(["constructor", "__proto__"]);

/** Adds a type with its fields to an environment. */
export function addType(env: Environment, name: string, fields: ReadonlyMap<string, Field>): View {
  // CEL finds the type of a value by its constructor, and the types of fields in a plain object.
  const readable = new Map([...fields].filter(([field]) => !unreadable.has(field)));
  const ctor = viewOf(readable);
  const types = Object.fromEntries([...readable].map(([field, { type }]) => [field, type]));
  env.registerType(name, { ctor, fields: types });
  return ctor;
}

/** The messages that an environment knows, by their names in CEL. Filled while they are added. */
type Known = Map<string, { view: View | undefined }>;

/**
 * Adds a message and those that it contains. Fields have the names of the schema. Integers and enums are
 * `int`, a Timestamp is a timestamp. Fields of other well-known types cannot be read.
 * @returns the name of its type, and how to see a message of it
 */
export function addMessage(
  env: Environment,
  message: DescMessage,
  known: Known = new Map(),
): { readonly type: string; readonly see: (value: object) => object } {
  const type = `message.${message.typeName}`;
  let entry = known.get(type);
  if (entry === undefined) {
    entry = { view: undefined };
    known.set(type, entry);
    const fields = new Map<string, Field>();
    for (const field of message.fields) {
      const seen = fieldOf(env, field, known);
      if (seen !== undefined) {
        fields.set(field.name, seen);
      }
    }
    entry.view = addType(env, type, fields);
  }
  const { view } = entry;
  const found = entry;
  return {
    type,
    // A message may contain itself, so its class may not be there yet.
    see: (value) => new ((view ?? found.view) as View)(value),
  };
}

interface Item {
  readonly type: string;
  readonly see: (value: never) => unknown;
}

function fieldOf(env: Environment, field: DescField, known: Known): Field | undefined {
  if (field.fieldKind === "map") {
    const item = itemOf(env, field.mapKind, field, known);
    if (item === undefined || field.mapKey !== ScalarType.STRING) {
      return undefined;
    }
    const read = (value: Readonly<Record<string, never>>) => {
      const entries = Object.entries(value);
      assertSize(entries.length);
      return new Map(entries.map(([key, one]) => [key, item.see(one)]));
    };
    return { type: `map<string, ${item.type}>`, read: reading(field, read) };
  }
  if (field.fieldKind === "list") {
    const item = itemOf(env, field.listKind, field, known);
    const read = (value: readonly never[]) => {
      assertSize(value.length);
      return value.map((one) => item?.see(one));
    };
    return item && { type: `list<${item.type}>`, read: reading(field, read) };
  }
  const item = itemOf(env, field.fieldKind, field, known);
  return item && { type: item.type, read: reading(field, item.see) };
}

/** Reads a field of a message, if it is set. Fields without presence always are. */
function reading(field: DescField, see: (value: never) => unknown): Field["read"] {
  return (message: Message & Readonly<Record<string, unknown>>) => {
    if (field.oneof !== undefined) {
      const { case: name, value } = message[field.oneof.localName] as {
        case?: string;
        value: never;
      };
      return name === field.localName ? see(value) : undefined;
    }
    const { presence, fieldKind } = field;
    const isSingular = fieldKind !== "list" && fieldKind !== "map";
    return isSingular &&
      presence !== FeatureSet_FieldPresence.IMPLICIT &&
      !isFieldSet(message, field)
      ? undefined
      : see(message[field.localName] as never);
  };
}

const integers: ReadonlySet<ScalarType> = new Set([
  ...[ScalarType.INT32, ScalarType.INT64, ScalarType.UINT32, ScalarType.UINT64],
  ...[ScalarType.SINT32, ScalarType.SINT64, ScalarType.FIXED32, ScalarType.FIXED64],
  ...[ScalarType.SFIXED32, ScalarType.SFIXED64],
]);

function itemOf(
  env: Environment,
  kind: "scalar" | "enum" | "message",
  field: DescField,
  known: Known,
): Item | undefined {
  if (kind === "enum") {
    return { type: "int", see: BigInt };
  }
  const { message } = field;
  if (kind === "message") {
    if (message?.typeName === "google.protobuf.Timestamp") {
      return { type: "google.protobuf.Timestamp", see: timeOf };
    }
    return message === undefined || message.typeName.startsWith("google.protobuf.")
      ? undefined
      : addMessage(env, message, known);
  }
  const scalar = field.scalar as ScalarType;
  if (integers.has(scalar)) {
    return { type: "int", see: BigInt };
  }
  if (scalar === ScalarType.STRING || scalar === ScalarType.BYTES) {
    const see = (value: string | Uint8Array): unknown => {
      spend(value.length);
      return value;
    };
    return { type: scalar === ScalarType.STRING ? "string" : "bytes", see };
  }
  return { type: scalar === ScalarType.BOOL ? "bool" : "double", see: (value: unknown) => value };
}

/** The times that CEL knows, in seconds since 1970: the years 1 to 9999, as for every Timestamp. */
const times = { first: -62_135_596_800n, last: 253_402_300_799n } as const;

/** @throws RangeError for a time that no `Date` has, and that would compare as neither before nor after */
function timeOf({ seconds, nanos }: Timestamp): Date {
  if (seconds < times.first || seconds > times.last || nanos < 0 || nanos > 999_999_999) {
    throw new RangeError("a Timestamp of the request is outside of the years 1 to 9999");
  }
  return new Date(Number(seconds) * 1000 + Math.floor(nanos / 1e6));
}

function assertSize(length: number): void {
  if (length > maxItems) {
    throw new RangeError(`a condition looks at ${maxItems} items at most`);
  }
  spend(length);
}

/** The part of JSON Schema that types claims. Anything else is not typed. */
export interface JsonSchema {
  readonly type?: unknown;
  readonly properties?: Readonly<Record<string, JsonSchema>>;
  readonly items?: unknown;
}

/** Adds the claims of a session, as far as their JSON Schema types them. */
export function addClaims(env: Environment, schema: JsonSchema, name = "claims"): Item {
  const fields = new Map<string, Field>();
  for (const [claim, of] of Object.entries(schema.properties ?? {})) {
    const item = claimOf(env, of, `${name}.${claim.replace(/\W/g, "_")}`);
    const read = (claims: Readonly<Record<string, unknown>>) => {
      const value = Object.hasOwn(claims, claim) ? claims[claim] : undefined;
      return value === undefined || value === null ? undefined : item.see(value as never);
    };
    fields.set(claim, { type: item.type, read });
  }
  const view = addType(env, name, fields);
  return { type: name, see: (value: object) => new view(value) };
}

function claimOf(env: Environment, schema: JsonSchema, name: string): Item {
  const same = (value: unknown): unknown => value;
  switch (schema.type) {
    case "string":
      return { type: "string", see: same };
    case "boolean":
      return { type: "bool", see: same };
    case "number":
      return { type: "double", see: same };
    case "integer":
      return { type: "int", see: integerOf };
    case "array": {
      const items = (schema.items ?? {}) as JsonSchema;
      const item = claimOf(env, items, `${name}.items`);
      return {
        type: `list<${item.type}>`,
        see: (values: readonly never[]) => {
          assertSize(values.length);
          return values.map((value) => item.see(value));
        },
      };
    }
    case "object":
      return schema.properties === undefined
        ? { type: "map<string, dyn>", see: plain }
        : addClaims(env, schema, name);
    default:
      return { type: "dyn", see: plain };
  }
}

/** @throws TypeError for a claim that is no integer, against its schema: `BigInt("")` would be 0 */
function integerOf(claim: unknown): bigint {
  if (typeof claim !== "number") {
    throw new TypeError(`a claim is a ${typeof claim}, but its schema says integer`);
  }
  return BigInt(claim);
}

/** Copies JSON into objects that CEL takes for maps. The claims of a token have no prototype. */
export function plain(value: unknown): unknown {
  if (typeof value !== "object" || value === null) {
    return value;
  }
  if (Array.isArray(value)) {
    assertSize(value.length);
    return value.map(plain);
  }
  return new Map(Object.entries(value).map(([name, member]) => [name, plain(member)]));
}
