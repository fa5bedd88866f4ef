import type { StandardSchemaV1 } from "@standard-schema/spec";

/** A JSON value. */
export type JsonValue = string | number | boolean | null | readonly JsonValue[] | JsonObject;

/** A JSON object. */
export interface JsonObject {
  readonly [key: string]: JsonValue;
}

export type { StandardSchemaV1 } from "@standard-schema/spec";

/**
 * A schema of claims, from any library that implements Standard Schema (https://standardschema.dev),
 * such as zod, valibot and arktype. It must accept its own output: claims are validated when they are
 * issued, and again whenever a token is read.
 */
export type ClaimsSchema<Output extends object = object> = StandardSchemaV1<unknown, Output>;

/** A schema that accepts any JSON object. */
export type AnyClaims = StandardSchemaV1<object, JsonObject>;

/** The type of `session.claims` under a schema. */
export type ClaimsOf<Schema extends ClaimsSchema> = StandardSchemaV1.InferOutput<Schema>;

/** The claims that `create` accepts under a schema: members with a default are optional. */
export type ClaimsInput<Schema extends ClaimsSchema> = StandardSchemaV1.InferInput<Schema> & object;
