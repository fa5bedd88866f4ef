import type { JsonObject } from "../base/json.ts";
import type { StandardSchemaV1 } from "../base/schema.ts";

/**
 * Reads claims by a schema; the same object for the same claims, undefined where they do not fit.
 * @throws TypeError when the schema is none
 */
export function claimsReader<Claims extends object>(
  schema: StandardSchemaV1<unknown, Claims> | undefined,
): (claims: JsonObject | undefined) => Claims | undefined {
  if (schema === undefined) {
    // Untyped, or typed by the caller's word.
    return (claims) => claims as Claims | undefined;
  }
  if (typeof schema?.["~standard"]?.validate !== "function") {
    throw new TypeError(
      "claims: give a schema of zod, valibot, arktype or another library of the Standard Schema",
    );
  }
  let seen: JsonObject | undefined;
  let read: Claims | undefined;
  return (claims) => {
    if (claims !== seen) {
      seen = claims;
      read = claims && validated(schema, claims);
    }
    return read;
  };
}

function validated<Claims extends object>(
  schema: StandardSchemaV1<unknown, Claims>,
  claims: JsonObject,
): Claims | undefined {
  const result = schema["~standard"].validate(claims);
  if (result instanceof Promise) {
    throw new TypeError("claims: the schema answers later; give one that answers at once");
  }
  return result.issues === undefined ? result.value : undefined;
}
