import type { StandardSchemaV1 } from "@standard-schema/spec";

/** A JSON value. */
export type JsonValue = string | number | boolean | null | readonly JsonValue[] | JsonObject;

/** A JSON object. */
export interface JsonObject {
  readonly [key: string]: JsonValue;
}

export type { StandardSchemaV1 } from "@standard-schema/spec";

/**
 * What claims must look like, as any library of the Standard Schema says it (zod, valibot, arktype;
 * https://standardschema.dev). It has to accept what it returns: claims are checked when they are
 * issued, and again whenever a token is read.
 */
export type ClaimsSchema<Output extends object = object> = StandardSchemaV1<unknown, Output>;

/** A schema that takes any JSON object. */
export type AnyClaims = StandardSchemaV1<object, JsonObject>;

/** The type of `session.claims` under a schema. */
export type ClaimsOf<Schema extends ClaimsSchema> = StandardSchemaV1.InferOutput<Schema>;

/** What `create` takes under a schema: members with a default may be left out. */
export type ClaimsInput<Schema extends ClaimsSchema> = StandardSchemaV1.InferInput<Schema> & object;
