import { base64Decode, base64Encode } from "@bufbuild/protobuf/wire";
import { equalBytes, type SecretKeys, type SecretRing } from "../../base/crypto.ts";
import { SessionError } from "../../base/errors.ts";
import type { SessionEventListener } from "../../base/events.ts";
import type { TokenTransport } from "../../base/wire.ts";
import { badRefreshToken, unknownError } from "../liveness.ts";
import { reach } from "../reach.ts";
import type { SessionRecord, SessionStore, Stored } from "../store.ts";

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

/** A refresh token as it was presented. */
export interface PresentedRefreshToken {
  readonly token: string;
  /** How it came; a token of the other transport is none. */
  readonly transport: TokenTransport;
}

/** A refresh token that was proven to be minted for this record. */
export interface ProvenRefreshToken extends Stored<SessionRecord> {
  readonly generation: number;
  readonly secretId: string;
}

/** Mints refresh tokens and proves presented ones. */
export interface RefreshTokens {
  /**
   * The refresh token of the record's generation.
   * @throws UnknownSecretError
   */
  mint(record: SessionRecord): Promise<string>;
  /** @throws UnknownSecretError when the record's generation is under a secret not known here */
  assertKnown(record: SessionRecord): void;
  /**
   * Proves that the token has its form and was made under one of our secrets. No I/O.
   * @throws SessionError `unauthorized` when it was not
   * @throws UnknownSecretError
   */
  precheck(presented: PresentedRefreshToken): Promise<ParsedRefreshToken>;
  /**
   * Reads the session of a prechecked token and proves the token against it.
   * @throws SessionError `unauthorized` or `unavailable`
   */
  prove(parsed: ParsedRefreshToken, transport: TokenTransport): Promise<ProvenRefreshToken>;
}

/** A token or a session is under a secret that this server was not given: a roll-out, or a loss. */
export class UnknownSecretError extends SessionError {
  constructor() {
    super("unavailable", "AUTH_UNAVAILABLE", {
      message:
        "the session is under a secret that this server does not have; give every server the same list",
      retryAfter: 1_000,
    });
  }
}

/** What refresh tokens are made of. */
export interface RefreshTokensOptions {
  readonly store: SessionStore;
  readonly secrets: SecretRing;
  readonly emit: SessionEventListener;
  /**
   * Whether no server can have other secrets, as where the store keeps the only one: then a token
   * under an unknown secret will never be good again, and is not valid instead of unavailable.
   */
  readonly complete: boolean;
}

export function createRefreshTokens(options: RefreshTokensOptions): RefreshTokens {
  const { store, secrets, emit, complete } = options;
  const keysOf = createKeyLookup(secrets, emit);
  return {
    mint: (record) => mintRefreshToken(keysOf(record.secretId), bindingOf(record)),
    assertKnown: (record) => void keysOf(record.secretId),
    async precheck({ token }) {
      const parsed = parseRefreshToken(token);
      if (complete && parsed !== undefined && secrets.get(parsed.secretId) === undefined) {
        throw badRefreshToken();
      }
      if (parsed === undefined || !(await verifyCheck(keysOf(parsed.secretId), parsed))) {
        throw badRefreshToken();
      }
      return parsed;
    },
    async prove(parsed, transport) {
      const { generation, secretId } = parsed;
      const { record, now } = await reach(store.load(parsed.session));
      if (record === undefined) {
        throw unknownError(parsed.session);
      }
      const proven =
        record.transport === transport &&
        // The current generation has one token only: the one of the secret its row names.
        (generation !== record.generation || secretId === record.secretId) &&
        (await verifyTag(keysOf(secretId), parsed, { ...bindingOf(record), generation }));
      if (!proven) {
        throw badRefreshToken();
      }
      return { record, now, generation, secretId };
    },
  };
}

function bindingOf(record: SessionRecord): RefreshTokenBinding {
  const { id: session, transport, tenantId, generation, salt } = record;
  return { session, transport, tenantId, generation, salt };
}

function createKeyLookup(
  secrets: SecretRing,
  emit: SessionEventListener,
): (secretId: string) => SecretKeys {
  return (secretId) => {
    const keys = secrets.get(secretId);
    if (keys !== undefined) {
      return keys;
    }
    emit({ type: "unknownSecret", secretId });
    throw new UnknownSecretError();
  };
}
