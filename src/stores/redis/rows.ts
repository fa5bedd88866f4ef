import type { JsonObject } from "../../base/json.ts";
import type { TokenTransport } from "../../base/wire.ts";
import type {
  AdvanceWrite,
  Device,
  EndedBy,
  ExternalKey,
  NewSession,
  SessionRecord,
} from "../../engine/store.ts";
import { externalKeyText, toAuthentication, toExternalId } from "../common.ts";

/** The keys of a store in Redis. They share the prefix as their hash tag. */
export interface RedisKeys {
  readonly meta: string;
  readonly log: string;
  readonly signing: string;
  readonly secrets: string;
  /** The first KEYS of every script that touches sessions: meta, log, ends, revoking. */
  readonly rows: readonly string[];
  readonly session: (id: string) => string;
  readonly user: (id: string) => string;
  readonly tenant: (id: string) => string;
  readonly external: (external: ExternalKey) => string;
  /** The sessions that an unfinished `revokeAll` is about to end. */
  readonly revoking: (number: string) => string;
  readonly lease: (name: string) => string;
  /** The KEYS of the scripts of the audit log of a user: meta, ends, places, rows. */
  readonly audit: (user: string) => readonly string[];
}

export function redisKeys(prefix: string): RedisKeys {
  const key = (name: string): string => `{${prefix}}:${name}`;
  const [meta, log] = [key("meta"), key("log")];
  return {
    meta,
    log,
    signing: key("keys"),
    secrets: key("secrets"),
    rows: [meta, log, key("ends"), key("revoking")],
    session: (id) => key(`session:${id}`),
    user: (id) => key(`user:${id}`),
    tenant: (id) => key(`tenant:${id}`),
    external: (external) => key(externalKeyText(external)),
    revoking: (number) => key(`revoking:${number}`),
    lease: (name) => key(`lease:${name}`),
    audit: (user) => [
      ...[meta, key("auditEnds")],
      ...[key(`auditPlaces:${user}`), key(`auditRows:${user}`)],
    ],
  };
}

/** Returns the fields of a new session that the script does not set itself. A null value has no field. */
export function toFields(session: NewSession): string[] {
  const { id, userId, tenantId, transport, secretId, accessLife, idleLife } = session;
  const { salt, rootHash, boundKey, lineage, externalId } = session;
  const given = {
    ...{ id, userId, tenantId, transport, secretId, accessLife, idleLife, lineage },
    ...{ salt: salt === "" ? null : salt, rootHash, boundKey },
    externalIssuer: externalId?.issuer,
    externalSid: externalId?.sid,
    externalSub: externalId?.sub,
  };
  const fields: string[] = [];
  for (const [name, value] of Object.entries(given)) {
    if (value !== null && value !== undefined) {
      fields.push(name, String(value));
    }
  }
  const { claims, data, device, authentication } = session;
  return [
    ...fields,
    ...toJsonFields({ claims, data, authentication: authentication ?? undefined }),
    ...toDeviceFields(device),
  ];
}

/**
 * The longest value, in bytes, with which Redis stores a hash compactly (`hash-max-listpack-value`).
 * One longer value doubles the memory of a session.
 */
const compactLength = 64;

/**
 * Returns the fields of a device, whose user agent is long: parts in `device0`, `device1` and so on.
 * Older servers read the field `device`, and see an unknown device there.
 */
function toDeviceFields(device: Device): string[] {
  const json = JSON.stringify(device).replace(/[\u0080-\uffff]/g, escaped);
  if (json.length <= compactLength) {
    return ["device", json];
  }
  const fields = ["device", "{}"];
  for (let from = 0; from < json.length; from += compactLength) {
    const name = `device${from / compactLength}`;
    fields.push(name, json.slice(from, from + compactLength));
  }
  return fields;
}

/** Escapes a character in JSON, so that each character of the text is one byte. */
function escaped(character: string): string {
  return `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`;
}

function toDevice(row: ReadonlyMap<string, string>): Device {
  let json = "";
  for (let part = 0, text = row.get("device0"); text !== undefined; ) {
    json += text;
    part += 1;
    text = row.get(`device${part}`);
  }
  return JSON.parse(json === "" ? required(row, "device") : json) as Device;
}

/** Returns fields with JSON values. An undefined value has no field. */
export function toJsonFields(values: Readonly<Record<string, unknown>>): string[] {
  const fields: string[] = [];
  for (const [name, value] of Object.entries(values)) {
    if (value !== undefined) {
      // As text, because Lua's JSON library does not distinguish [] and {}.
      fields.push(name, JSON.stringify(value));
    }
  }
  return fields;
}

/** Encodes an optional argument of a script; see `optional` in rows.lua. */
export function optional(value: string | null | undefined): string {
  return value === null || value === undefined ? "" : `=${value}`;
}

/** Converts fields and values to a record; returns undefined when there are none. */
export function toRecord(fields: readonly string[]): SessionRecord | undefined {
  if (fields.length === 0) {
    return undefined;
  }
  const row = toMap(fields);
  const known = (name: string): string => required(row, name);
  const time = (name: string): number => Number(known(name));
  const orNull = (name: string): number | null => {
    const text = row.get(name);
    return text === undefined ? null : Number(text);
  };
  const rotatedAt = time("rotatedAt");
  // Missing, or before `rotatedAt`, if an older version wrote the row. Then `prolonged` has no meaning.
  const sentAt = Math.max(rotatedAt, orNull("sentAt") ?? 0);
  return {
    id: known("id"),
    userId: known("userId"),
    tenantId: row.get("tenantId") ?? null,
    transport: known("transport") as TokenTransport,
    salt: row.get("salt") ?? "",
    rootHash: row.get("rootHash") ?? null,
    lastSalted: row.get("lastSalted") ?? null,
    boundKey: row.get("boundKey") ?? null,
    secretId: known("secretId"),
    formerSecretId: row.get("formerSecretId") ?? null,
    generation: Number(known("generation")),
    confirmedAt: orNull("confirmedAt"),
    rotatedAt,
    sentAt,
    prolonged: sentAt > rotatedAt ? (orNull("prolonged") ?? 0) : 0,
    createdAt: time("createdAt"),
    authTime: time("authTime"),
    idleExpiresAt: time("idleExpiresAt"),
    expiresAt: time("expiresAt"),
    accessLife: orNull("accessLife"),
    idleLife: orNull("idleLife"),
    lineage: row.get("lineage") ?? null,
    externalId: toExternalId(
      row.get("externalIssuer"),
      row.get("externalSid"),
      row.get("externalSub"),
    ),
    authentication: toAuthentication(row.get("authentication")),
    claims: JSON.parse(known("claims")) as JsonObject,
    claimsVersion: Number(known("claimsVersion")),
    data: JSON.parse(known("data")) as JsonObject,
    version: Number(known("version")),
    device: toDevice(row),
    lastSeenAt: time("lastSeenAt"),
    revokedAt: orNull("revokedAt"),
    endedBy: (row.get("endedBy") as EndedBy | undefined) ?? null,
  };
}

/**
 * Makes the record of a session from the reply of the script `advance`. A busy server reads thousands of these
 * replies a second. So the reply has no field names, and no values that the caller knows.
 *
 * @param values the values that the script returns, in its order; "" for a missing one
 */
export function toAdvanced(
  { id, transport, rootHash, boundKey, secretId, nextSecretId, generation }: AdvanceWrite,
  now: number,
  values: readonly string[],
): SessionRecord {
  const [userId, tenantId, lastSalted, createdAt, authTime, idleExpiresAt, expiresAt] = values;
  const [accessLife, idleLife, lineage, issuer, sid, sub, authentication] = values.slice(7);
  const [claims, claimsVersion, data, version, device] = values.slice(14);
  return {
    id,
    userId: present(userId, "userId"),
    tenantId: tenantId || null,
    transport,
    salt: "",
    rootHash,
    lastSalted: lastSalted || null,
    boundKey,
    secretId: nextSecretId,
    formerSecretId: secretId,
    generation: generation + 1,
    confirmedAt: null,
    rotatedAt: now,
    sentAt: now,
    prolonged: 0,
    createdAt: Number(present(createdAt, "createdAt")),
    authTime: Number(present(authTime, "authTime")),
    idleExpiresAt: Number(idleExpiresAt),
    expiresAt: Number(expiresAt),
    accessLife: accessLife ? Number(accessLife) : null,
    idleLife: idleLife ? Number(idleLife) : null,
    lineage: lineage || null,
    externalId: toExternalId(issuer || undefined, sid || undefined, sub || undefined),
    authentication: toAuthentication(authentication || undefined),
    claims: JSON.parse(present(claims, "claims")) as JsonObject,
    claimsVersion: Number(present(claimsVersion, "claimsVersion")),
    data: JSON.parse(present(data, "data")) as JsonObject,
    version: Number(present(version, "version")),
    device: JSON.parse(present(device, "device")) as Device,
    lastSeenAt: now,
    revokedAt: null,
    endedBy: null,
  };
}

function toMap(fields: readonly string[]): ReadonlyMap<string, string> {
  const row = new Map<string, string>();
  for (let index = 0; index < fields.length; index += 2) {
    row.set(fields[index] ?? "", fields[index + 1] ?? "");
  }
  return row;
}

function required(row: ReadonlyMap<string, string>, name: string): string {
  return present(row.get(name), name);
}

/** @throws Error if a field of a session is missing */
function present(text: string | undefined, name: string): string {
  if (text === undefined || text === "") {
    throw new Error(
      `redisStore: a session has no field ${name}; make sure that only rpc-session writes to its keys`,
    );
  }
  return text;
}
