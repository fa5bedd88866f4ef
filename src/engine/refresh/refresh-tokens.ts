import { SessionError } from "../../base/errors.ts";
import type { SessionEventListener } from "../../base/events.ts";
import type { SecretKeys, SecretRing } from "../../base/secrets.ts";
import type { TokenTransport } from "../../base/transport.ts";
import { badRefreshToken, unknownError } from "../ended.ts";
import { reach } from "../reach.ts";
import {
  mintRefreshToken,
  type ParsedRefreshToken,
  parseRefreshToken,
  type RefreshTokenBinding,
  verifyCheck,
  verifyTag,
} from "./refresh-token.ts";
import type { SessionRecord, SessionStore, Stored } from "../store.ts";

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
