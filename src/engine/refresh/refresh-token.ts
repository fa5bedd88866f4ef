import { base64Decode, base64Encode } from "@bufbuild/protobuf/wire";
import { equalBytes, type SecretKeys } from "../../base/secrets.ts";
import type { TokenTransport } from "../../base/transport.ts";

/** What a refresh token says; proven only after {@link verifyCheck} and {@link verifyTag}. */
export interface ParsedRefreshToken {
  /** The id of the secret that made the token. */
  readonly secretId: string;
  readonly session: string;
  readonly generation: number;
  readonly tag: Uint8Array;
  /** Everything before the check, which it covers. */
  readonly body: string;
  readonly check: Uint8Array;
}

/** What a refresh token is bound to. */
export interface RefreshTokenBinding {
  readonly transport: TokenTransport;
  readonly tenantId: string | null;
  readonly session: string;
  readonly generation: number;
  /** Base64url; known to the store alone. */
  readonly salt: string;
}

/** The longest refresh token there is, in characters. */
export const maxRefreshTokenLength = 256;

const shape =
  /^([\w-]{8})\.([\w-]{22})\.(0|[1-9]\d{0,9})\.([\w-]{42}[AEIMQUYcgkosw048])\.([\w-]{10}[AEIMQUYcgkosw048])$/;

/**
 * Makes the refresh token of a generation. The same binding gives the same token, on every server
 * that has the secret: `secretId.session.generation.tag.check`.
 */
export async function mintRefreshToken(
  keys: SecretKeys,
  binding: RefreshTokenBinding,
): Promise<string> {
  const tag = await keys.refreshTag.sign(tagInput(keys.id, binding));
  const body = `${keys.id}.${binding.session}.${binding.generation}.${base64Encode(tag, "url")}`;
  return `${body}.${base64Encode(await checkOf(keys, body), "url")}`;
}

/** Reads a refresh token; undefined when it has not exactly the form of one. */
export function parseRefreshToken(token: string): ParsedRefreshToken | undefined {
  const match = token.length <= maxRefreshTokenLength ? shape.exec(token) : null;
  if (match === null) {
    return undefined;
  }
  const [, secretId, session, generation, tag, check] = match as unknown as string[];
  if (!secretId || !session || !generation || !tag || !check) {
    return undefined;
  }
  return {
    secretId,
    session,
    generation: Number(generation),
    tag: base64Decode(tag),
    body: token.slice(0, token.lastIndexOf(".")),
    check: base64Decode(check),
  };
}

/** Whether the token was made under the secret: junk is told apart without reading the store. */
export async function verifyCheck(keys: SecretKeys, token: ParsedRefreshToken): Promise<boolean> {
  return equalBytes(await checkOf(keys, token.body), token.check);
}

/** Whether the token is the one of this session, generation, transport and tenant. */
export async function verifyTag(
  keys: SecretKeys,
  token: ParsedRefreshToken,
  binding: RefreshTokenBinding,
): Promise<boolean> {
  return equalBytes(await keys.refreshTag.sign(tagInput(keys.id, binding)), token.tag);
}

async function checkOf(keys: SecretKeys, body: string): Promise<Uint8Array> {
  return (await keys.refreshCheck.sign(encoder.encode(body))).subarray(0, 8);
}

const encoder = new TextEncoder();

/** Length-prefixed, so that no two bindings give the same bytes. */
function tagInput(secretId: string, binding: RefreshTokenBinding): Uint8Array<ArrayBuffer> {
  const fields = [
    secretId,
    binding.transport,
    binding.tenantId ?? "",
    binding.session,
    String(binding.generation),
    binding.salt,
  ];
  // No character takes more than three bytes.
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
