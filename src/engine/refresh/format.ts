import { base64Decode } from "@bufbuild/protobuf/wire";
import { encodeBase64url, type SecretKeys, sha256 } from "../../base/crypto.ts";
import type { TokenTransport } from "../../base/wire.ts";

// The two formats of refresh tokens. Nothing here decides whether a token may be used.

/** What every refresh token names. Nothing of it is proven. */
interface NamedByToken {
  /** The id of the secret that made the token. */
  readonly secretId: string;
  readonly session: string;
  readonly generation: number;
}

/** A token of format 1: `secretId.session.generation.tag.check`. */
export interface SaltedToken extends NamedByToken {
  readonly format: 1;
  readonly tag: Uint8Array;
  /** Everything before the check; the check covers it. */
  readonly body: string;
  readonly check: Uint8Array;
}

/**
 * A token of format 2: `secretId.session.generation.2.root.mac`. Before the mac, that of a bound session
 * has the thumbprint of its key, and that of a session that has to be bound has the letter `b`.
 */
export interface RootedToken extends NamedByToken {
  readonly format: 2;
  /** The random value of the session, base64url; its salt if the session is from before. */
  readonly root: string;
  /** The thumbprint of the key that the session is bound to; null if it is bound to none. */
  readonly boundKey: string | null;
  /** Whether the session has to be bound to a key, and is bound to none yet. */
  readonly mustBind: boolean;
  readonly mac: Uint8Array;
}

export type ParsedRefreshToken = SaltedToken | RootedToken;

/** The values that a token of format 1 is bound to. */
export interface SaltedBinding {
  readonly transport: TokenTransport;
  readonly tenantId: string | null;
  readonly session: string;
  readonly generation: number;
  /** Base64url; only the store has it. */
  readonly salt: string;
}

/** The values that a token of format 2 is bound to. */
export interface RootedBinding {
  readonly transport: TokenTransport;
  readonly session: string;
  readonly generation: number;
  readonly root: string;
  /** The thumbprint of the key that the session is bound to. Default null: none. */
  readonly boundKey?: string | null;
  /** Whether the session has to be bound to a key, and is bound to none yet. Default false. */
  readonly mustBind?: boolean;
}

/** Maximum length of a refresh token, in characters. */
export const maxRefreshTokenLength = 256;

const salted =
  /^([\w-]{8})\.([\w-]{22})\.(0|[1-9]\d{0,9})\.([\w-]{42}[AEIMQUYcgkosw048])\.([\w-]{10}[AEIMQUYcgkosw048])$/;
/** The number of fields keeps the formats apart. A salt, the root of older sessions, has 43 characters. */
const rooted =
  /^([\w-]{8})\.([\w-]{22})\.(0|[1-9]\d{0,9})\.2\.([\w-]{22}|[\w-]{43})(?:\.([\w-]{42}[AEIMQUYcgkosw048]|b))?\.([\w-]{42}[AEIMQUYcgkosw048])$/;
/** Stands in the place of the key in tokens of a session that has to be bound to one. */
const toBeBound = "b";

/** Parses a refresh token; undefined unless it has exactly the form of one of the formats. */
export function parseRefreshToken(token: string): ParsedRefreshToken | undefined {
  if (token.length > maxRefreshTokenLength) {
    return undefined;
  }
  return parseRooted(token) ?? parseSalted(token);
}

function parseRooted(token: string): RootedToken | undefined {
  const [, secretId, session, generation, root, key = null, mac] = rooted.exec(token) ?? [];
  if (!secretId || !session || !generation || !root || !mac) {
    return undefined;
  }
  const named = { secretId, session, generation: Number(generation) };
  const mustBind = key === toBeBound;
  const boundKey = mustBind ? null : key;
  return { format: 2, ...named, root, boundKey, mustBind, mac: base64Decode(mac) };
}

function parseSalted(token: string): SaltedToken | undefined {
  const [, secretId, session, generation, tag, check] = salted.exec(token) ?? [];
  if (!secretId || !session || !generation || !tag || !check) {
    return undefined;
  }
  return {
    format: 1,
    ...{ secretId, session, generation: Number(generation) },
    tag: base64Decode(tag),
    body: token.slice(0, token.lastIndexOf(".")),
    check: base64Decode(check),
  };
}

/**
 * Mints a token of format 2. The same binding gives the same token on every server that has the
 * secret, so that a lost response can be sent again.
 */
export async function mintRooted(keys: SecretKeys, binding: RootedBinding): Promise<string> {
  const { session, generation, root } = binding;
  const signed = keys.refresh.sign(rootedInput(keys.id, binding));
  const mac = encodeBase64url(signed instanceof Uint8Array ? signed : await signed);
  const key = keyField(binding);
  return `${keys.id}.${session}.${generation}.2.${root}${key && `.${key}`}.${mac}`;
}

/**
 * Whether a token of format 2 was made under the secret, for a transport. Admits it to the store, and
 * proves no more: whoever has the secret can make one with another root.
 */
export function verifyRooted(
  keys: SecretKeys,
  token: RootedToken,
  transport: TokenTransport,
): boolean | Promise<boolean> {
  return keys.refresh.verify(rootedInput(token.secretId, { ...token, transport }), token.mac);
}

/**
 * The purpose and the fields, each after its length, so that no two bindings give the same bytes. The
 * last field is empty if the session neither is nor has to be bound to a key.
 */
function rootedInput(secretId: string, binding: RootedBinding): string {
  const { transport, session, generation, root } = binding;
  const number = String(generation);
  const key = keyField(binding);
  // All of it is ASCII.
  return `refresh:${secretId.length}:${secretId},${transport.length}:${transport},${session.length}:${session},${number.length}:${number},${root.length}:${root},${key.length}:${key},`;
}

function keyField({ boundKey, mustBind }: RootedBinding): string {
  return boundKey ?? (mustBind ? toBeBound : "");
}

/** The hash of a root, by which the store knows it. */
export function hashOfRoot(root: string): string | Promise<string> {
  return sha256(`rpc-session/root:${root}`);
}

/** Mints a token of format 1. The same binding gives the same token on every server. */
export async function mintSalted(keys: SecretKeys, binding: SaltedBinding): Promise<string> {
  const tag = await keys.refreshTag.sign(saltedInput(keys.id, binding));
  const body = `${keys.id}.${binding.session}.${binding.generation}.${encodeBase64url(tag)}`;
  const check = await keys.refreshCheck.sign(body);
  return `${body}.${encodeBase64url(check)}`;
}

/** Whether a token of format 1 was made under the secret. Detects junk without reading the store. */
export function verifyCheck(keys: SecretKeys, token: SaltedToken): boolean | Promise<boolean> {
  return keys.refreshCheck.verify(token.body, token.check);
}

/** Whether a token of format 1 belongs to this session, generation, transport and tenant. */
export function verifyTag(
  keys: SecretKeys,
  token: SaltedToken,
  binding: SaltedBinding,
): boolean | Promise<boolean> {
  return keys.refreshTag.verify(saltedInput(keys.id, binding), token.tag);
}

const encoder = new TextEncoder();

/** Fields are length-prefixed, so that no two bindings give the same bytes. */
function saltedInput(secretId: string, binding: SaltedBinding): Uint8Array<ArrayBuffer> {
  const fields = [
    secretId,
    binding.transport,
    binding.tenantId ?? "",
    binding.session,
    String(binding.generation),
    binding.salt,
  ];
  // A UTF-16 code unit takes at most three bytes in UTF-8.
  const bytes = new Uint8Array(fields.reduce((sum, field) => sum + 4 + 3 * field.length, 0));
  const view = new DataView(bytes.buffer);
  let offset = 0;
  for (const field of fields) {
    const { written } = encoder.encodeInto(field, bytes.subarray(offset + 4));
    view.setUint32(offset, written);
    offset += 4 + written;
  }
  return bytes.subarray(0, offset);
}
