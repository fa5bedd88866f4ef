import { base64Decode, base64Encode } from "@bufbuild/protobuf/wire";
import type { SecretKeys, SecretRing } from "../../base/crypto.ts";
import { SessionError } from "../../base/errors.ts";
import type { SessionEventListener } from "../../base/events.ts";
import type { TokenTransport } from "../../base/wire.ts";
import type { EngineSecrets } from "../keys/secrets.ts";
import { badRefreshToken, deadSecretError, unknownError } from "../liveness.ts";
import { storeFailed } from "../reach.ts";
import type { SessionRecord, SessionStore, Stored } from "../store.ts";

/** A refresh token as it was presented. */
export interface PresentedRefreshToken {
  readonly token: string;
  /** How it arrived. A token of a session with the other transport is not valid. */
  readonly transport: TokenTransport;
}

/** A refresh token that was proven to be minted for this record. */
export interface ProvenRefreshToken extends Stored<SessionRecord> {
  readonly generation: number;
  readonly secretId: string;
}

/**
 * A token or a session is under a secret that this server was not given: a roll-out is in progress,
 * or a secret was lost.
 */
export class UnknownSecretError extends SessionError {
  constructor() {
    super("unavailable", "AUTH_UNAVAILABLE", {
      message:
        "the session is under a secret that this server does not have; give every server the same list",
      retryAfter: 1_000,
    });
  }
}

/**
 * A token is under a secret that this service never had: it belongs to another service that uses the
 * same cookie names. It is left alone.
 */
export class ForeignRefreshTokenError extends SessionError {
  constructor() {
    super("unauthorized", "TOKEN_INVALID", {
      message:
        "the refresh token was made under a secret that this service never had; sign in. If two services share this host, give each its own cookies.names",
    });
  }
}

interface RefreshTokensOptions {
  readonly store: SessionStore;
  readonly secrets: SecretRing & Pick<EngineSecrets, "statusOf" | "reload">;
  readonly emit: SessionEventListener;
}

/** Mints refresh tokens and proves presented ones. */
export class RefreshTokens {
  readonly #options: RefreshTokensOptions;

  constructor(options: RefreshTokensOptions) {
    this.#options = options;
  }

  /**
   * Mints the refresh token of the record's generation.
   * @throws UnknownSecretError
   * @throws SessionError `unauthorized` if its secret was declared dead
   */
  async mint(record: SessionRecord): Promise<string> {
    return mintRefreshToken(await this.#keysOf(record.secretId), bindingOf(record));
  }

  /**
   * @throws UnknownSecretError if the record's generation is under a secret unknown to this server
   * @throws SessionError `unauthorized` if that secret was declared dead
   */
  async assertKnown(record: SessionRecord): Promise<void> {
    await this.#keysOf(record.secretId);
  }

  /**
   * Proves that the token is well-formed and was made under a known secret. Does no I/O for a secret of
   * this server; an unknown one may be looked up in the store, at most once in 5 s.
   * @throws SessionError `unauthorized` if it was not
   * @throws ForeignRefreshTokenError UnknownSecretError
   */
  async precheck({ token }: PresentedRefreshToken): Promise<CheckedRefreshToken> {
    const parsed = parseRefreshToken(token);
    if (parsed === undefined) {
      throw badRefreshToken();
    }
    const keys = await this.#keysOf(parsed.secretId);
    if (!(await verifyCheck(keys, parsed))) {
      throw badRefreshToken();
    }
    return { ...parsed, keys };
  }

  /**
   * Whether a token names a secret that no server of this service ever had. Proves nothing about it.
   * Reads the recorded secrets now: during a roll-out, the record may be newer than the last look.
   * @throws SessionError `unavailable` if the store cannot be read now
   */
  async isForeign(token: string): Promise<boolean> {
    const { secrets } = this.#options;
    const named = parseRefreshToken(token)?.secretId;
    if (named === undefined || secrets.byId.has(named)) {
      return false;
    }
    await secrets.reload().catch(storeFailed);
    return (await secrets.statusOf(named)) === "never";
  }

  /** Whether a token names a secret of this server. Proves nothing about it. */
  namesOwnSecret(token: string): boolean {
    return this.#options.secrets.byId.has(parseRefreshToken(token)?.secretId ?? "");
  }

  /**
   * Reads the session of a prechecked token and proves the token against it.
   * @throws SessionError `unauthorized` or `unavailable`
   */
  async prove(
    checked: CheckedRefreshToken,
    transport: TokenTransport,
  ): Promise<ProvenRefreshToken> {
    const { session, generation, secretId, keys } = checked;
    const { record, now } = await this.#options.store.load(session).catch(storeFailed);
    if (record === undefined) {
      throw unknownError(session);
    }
    const proven =
      record.transport === transport &&
      // The current generation has one token only: under the secret that its row names.
      (generation !== record.generation || secretId === record.secretId) &&
      (await verifyTag(keys, checked, { ...bindingOf(record), generation }));
    if (!proven) {
      throw badRefreshToken();
    }
    return { record, now, generation, secretId };
  }

  async #keysOf(secretId: string): Promise<SecretKeys> {
    const { secrets, emit } = this.#options;
    const keys = secrets.byId.get(secretId);
    if (keys !== undefined) {
      return keys;
    }
    switch (await secrets.statusOf(secretId)) {
      case "dead":
        throw deadSecretError();
      case "never":
        throw new ForeignRefreshTokenError();
      case "elsewhere":
        emit({ type: "unknownSecret", secretId });
        throw new UnknownSecretError();
    }
  }
}

function bindingOf(record: SessionRecord): RefreshTokenBinding {
  const { id: session, transport, tenantId, generation, salt } = record;
  return { session, transport, tenantId, generation, salt };
}

/** The fields of a refresh token, proven only after {@link verifyCheck} and {@link verifyTag}. */
export interface ParsedRefreshToken {
  /** The id of the secret that made the token. */
  readonly secretId: string;
  readonly session: string;
  readonly generation: number;
  readonly tag: Uint8Array;
  /** Everything before the check; the check covers it. */
  readonly body: string;
  readonly check: Uint8Array;
}

/** A well-formed token that was made under a secret of this server. */
export interface CheckedRefreshToken extends ParsedRefreshToken {
  /** The keys of its secret. */
  readonly keys: SecretKeys;
}

/** The values that a refresh token is bound to. */
export interface RefreshTokenBinding {
  readonly transport: TokenTransport;
  readonly tenantId: string | null;
  readonly session: string;
  readonly generation: number;
  /** Base64url; only the store has it. */
  readonly salt: string;
}

/** Maximum length of a refresh token, in characters. */
export const maxRefreshTokenLength = 256;

const shape =
  /^([\w-]{8})\.([\w-]{22})\.(0|[1-9]\d{0,9})\.([\w-]{42}[AEIMQUYcgkosw048])\.([\w-]{10}[AEIMQUYcgkosw048])$/;

/**
 * Mints the refresh token of a generation: `secretId.session.generation.tag.check`. The same binding
 * gives the same token on every server that has the secret.
 */
export async function mintRefreshToken(
  keys: SecretKeys,
  binding: RefreshTokenBinding,
): Promise<string> {
  const tag = await keys.refreshTag.sign(tagInput(keys.id, binding));
  const body = `${keys.id}.${binding.session}.${binding.generation}.${base64Encode(tag, "url")}`;
  const check = await keys.refreshCheck.sign(encoder.encode(body));
  return `${body}.${base64Encode(check, "url")}`;
}

/** Parses a refresh token; undefined unless it has exactly the right form. */
export function parseRefreshToken(token: string): ParsedRefreshToken | undefined {
  const match = token.length <= maxRefreshTokenLength ? shape.exec(token) : null;
  if (match === null) {
    return undefined;
  }
  const [, secretId, session, generation, tag, check] = match;
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

/** Whether the token was made under the secret. Detects junk without reading the store. */
export async function verifyCheck(keys: SecretKeys, token: ParsedRefreshToken): Promise<boolean> {
  return keys.refreshCheck.verify(encoder.encode(token.body), token.check);
}

/** Whether the token belongs to this session, generation, transport and tenant. */
export async function verifyTag(
  keys: SecretKeys,
  token: ParsedRefreshToken,
  binding: RefreshTokenBinding,
): Promise<boolean> {
  return keys.refreshTag.verify(tagInput(keys.id, binding), token.tag);
}

const encoder = new TextEncoder();

/** Fields are length-prefixed, so that no two bindings give the same bytes. */
function tagInput(secretId: string, binding: RefreshTokenBinding): Uint8Array<ArrayBuffer> {
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
