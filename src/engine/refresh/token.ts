import { randomId, type SecretKeys, type SecretRing, sha256 } from "../../base/crypto.ts";
import { SessionError } from "../../base/errors.ts";
import type { SessionEventListener } from "../../base/events.ts";
import type { TokenTransport } from "../../base/wire.ts";
import type { EngineSecrets } from "../keys/secrets.ts";
import { badRefreshToken, deadSecretError, unknownError } from "../liveness.ts";
import { storeFailed } from "../reach.ts";
import type { SessionRecord, SessionStore, Stored, TokenFormat, TokenProof } from "../store.ts";
import {
  hashOfRoot,
  mintRooted,
  mintSalted,
  parseRefreshToken,
  type RootedToken,
  type SaltedToken,
  verifyCheck,
  verifyRooted,
  verifyTag,
} from "./format.ts";

/** A refresh token as it was presented. */
export interface PresentedRefreshToken {
  readonly token: string;
  /** How it arrived. A token of a session with the other transport is not valid. */
  readonly transport: TokenTransport;
  /** The thumbprint of the key that its request has freshly proven. Default: none was proven. */
  readonly provenKey?: string | undefined;
  /** Why its request has proven no key. Default "missing". */
  readonly unproven?: Unproven | undefined;
}

/**
 * Why a request has proven no key:
 *
 * - `missing`: it has no proof
 * - `stale`: it has a proof for another refresh token, or an expired one
 * - `skipped`: the browser says that it could not make one now
 */
export type Unproven = "missing" | "stale" | "skipped";

/**
 * A well-formed token that was made under a secret of this server. That only admits it to the store:
 * the row decides whether it proves anything; see {@link RefreshTokens.prove}.
 */
export type CheckedRefreshToken = (SaltedToken & Admission) | CheckedRootedToken;

/** The same for a token of format 2. */
type CheckedRootedToken = RootedToken & { readonly rootHash: string } & Admission;

/** What is known of a presented token of either format once it was checked. */
interface Admission {
  readonly token: string;
  readonly transport: TokenTransport;
  /** The key that its request has freshly proven; undefined if none was proven. */
  readonly provenKey: string | undefined;
  readonly unproven: Unproven;
  /** The keys of its secret. */
  readonly keys: SecretKeys;
}

/** A refresh token that was proven to be minted for this record. */
export interface ProvenRefreshToken extends Stored<SessionRecord> {
  readonly generation: number;
  readonly secretId: string;
  /** The root that it carries; undefined for format 1. */
  readonly root?: string | undefined;
  /**
   * The key that its session is bound to: by the row, or by the token if the store was restored to a
   * state from before that. Null if it is bound to none.
   */
  readonly boundKey: string | null;
}

/** The token that follows a presented one if that advances its session. */
export interface NextToken extends Pick<SessionRecord, "generation" | "secretId" | "boundKey"> {
  readonly token: string;
}

/** The salt, root and root hash of a new session. The root goes into its token and is not stored. */
export interface Beginning extends Pick<SessionRecord, "salt" | "rootHash"> {
  readonly root: string | undefined;
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
  /** The option `refresh.tokenFormat`; undefined for the store's. */
  readonly format?: TokenFormat | undefined;
}

/** Mints refresh tokens and proves presented ones. */
export class RefreshTokens {
  readonly #options: RefreshTokensOptions;
  #format: TokenFormat;

  /** @throws TypeError if the option asks for a format that the store does not keep */
  constructor(options: RefreshTokensOptions) {
    const { store, format } = options;
    if (format === 2 && store.tokenFormat === undefined) {
      throw new TypeError(
        `refresh.tokenFormat is 2, but ${store.name} has no method tokenFormat and so does not keep what such tokens need; remove the option or update the store`,
      );
    }
    this.#options = options;
    this.#format = format ?? 1;
  }

  /** The format of the tokens of new sessions. */
  get format(): TokenFormat {
    return this.#format;
  }

  /** Finds out which format new tokens have. */
  async open(): Promise<void> {
    const { store, format } = this.#options;
    this.#format = format ?? (await store.tokenFormat?.()) ?? 1;
  }

  /**
   * Returns the random values of a new session.
   * @param namesKey whether its tokens name a key, or that it has to be bound to one. Then they have format
   * 2 from the start, and servers that do not know of keys refuse them.
   */
  async begin(namesKey: boolean): Promise<Beginning> {
    if (this.#format === 1 && !namesKey) {
      return { salt: randomId(32), rootHash: null, root: undefined };
    }
    const root = randomId(16);
    return { salt: "", rootHash: await hashOfRoot(root), root };
  }

  /**
   * Mints the refresh token of the record's generation, in the format that the record says.
   * @param root the session's root, from its beginning or from a token that was proven
   * @param next a token that was minted for the same session; used if the record says the same
   * @throws UnknownSecretError
   * @throws SessionError `unauthorized` if its secret was declared dead
   */
  async mint(record: SessionRecord, root: string | undefined, next?: NextToken): Promise<string> {
    const { id: session, transport, tenantId, generation, salt, boundKey } = record;
    const keys = this.#options.secrets.byId.get(record.secretId) ?? (await this.#keysOf(record));
    if (record.rootHash === null) {
      return mintSalted(keys, { session, transport, tenantId, generation, salt });
    }
    const mustBind = boundKey === null && hasToBeBound(record);
    const isNext =
      next?.generation === generation &&
      next.secretId === record.secretId &&
      next.boundKey === boundKey;
    if (isNext && !mustBind) {
      return next.token;
    }
    const named = { session, transport, generation, root: root ?? salt };
    return mintRooted(keys, { ...named, boundKey, mustBind });
  }

  /**
   * Mints the token that follows a presented one if the store advances its session. That needs no row, so
   * it is done while the store works; {@link mint} decides whether it is the right one.
   */
  async mintNext(presented: CheckedRootedToken, keys: SecretKeys): Promise<NextToken | undefined> {
    const { session, transport, root, boundKey } = presented;
    const generation = presented.generation + 1;
    try {
      const token = await mintRooted(keys, { session, transport, generation, root, boundKey });
      return { token, generation, secretId: keys.id, boundKey };
    } catch {
      // It is minted again from the row, and that error reaches the caller.
      return undefined;
    }
  }

  /**
   * How the tokens of a session are proven once the presented one has advanced it or moved it forward;
   * undefined if that does not change. The first token of format 2 has the salt as its root, which stays
   * so that a lost response can be sent again. Its own advance erases the salt.
   */
  async proofAfter(
    { record, root }: ProvenRefreshToken,
    presented: CheckedRefreshToken,
    kind: "advance" | "forward",
  ): Promise<TokenProof | undefined> {
    const { salt, rootHash, lastSalted } = record;
    if (root !== undefined) {
      const kept = kind === "advance" ? "" : salt;
      const isNew = rootHash === null || kept !== salt;
      return isNew ? { salt: kept, rootHash: await hashOfRoot(root), lastSalted } : undefined;
    }
    const isFirst = rootHash === null && this.#format === 2 && kind === "advance";
    return isFirst
      ? { salt, rootHash: await hashOfRoot(salt), lastSalted: await sha256(presented.token) }
      : undefined;
  }

  /**
   * @throws UnknownSecretError if the record's generation is under a secret unknown to this server
   * @throws SessionError `unauthorized` if that secret was declared dead
   */
  async assertKnown(record: SessionRecord): Promise<void> {
    await this.#keysOf(record);
  }

  /**
   * Proves that the token is well-formed and was made under a known secret. Does no I/O for a secret of
   * this server; an unknown one may be looked up in the store, at most once in 5 s.
   * @throws SessionError `unauthorized` if it was not
   * @throws ForeignRefreshTokenError UnknownSecretError
   */
  async precheck({
    token,
    transport,
    provenKey,
    unproven = "missing",
  }: PresentedRefreshToken): Promise<CheckedRefreshToken> {
    const parsed = parseRefreshToken(token);
    if (parsed === undefined) {
      throw badRefreshToken();
    }
    const keys = this.#options.secrets.byId.get(parsed.secretId) ?? (await this.#keysOf(parsed));
    const given = { token, transport, provenKey, unproven, keys };
    if (parsed.format === 1) {
      if (!(await verifyCheck(keys, parsed))) {
        throw badRefreshToken();
      }
      return { ...parsed, ...given };
    }
    const isMade = verifyRooted(keys, parsed, transport);
    if (!(typeof isMade === "boolean" ? isMade : await isMade)) {
      throw badRefreshToken();
    }
    const hash = hashOfRoot(parsed.root);
    return { ...parsed, ...given, rootHash: typeof hash === "string" ? hash : await hash };
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
   * Proves a prechecked token against the row of its session.
   * @param found the row, if it has been read
   * @throws SessionError `unauthorized` or `unavailable`
   */
  async prove(
    checked: CheckedRefreshToken,
    found?: Stored<SessionRecord | undefined>,
  ): Promise<ProvenRefreshToken> {
    const { session, generation, secretId } = checked;
    const { record, now } = found ?? (await this.load(session));
    if (record === undefined) {
      throw unknownError(session);
    }
    if (!this.#isSigned(record, checked) || !(await belongsTo(record, checked))) {
      throw badRefreshToken();
    }
    const { root, boundKey } = checked.format === 2 ? checked : unbound;
    return { record, now, generation, secretId, root, boundKey: record.boundKey ?? boundKey };
  }

  /**
   * Whether the token is under a secret that may have signed its generation. A session's root is in all
   * of its tokens, so an older secret that is still listed must not be enough. The current generation has
   * one token only: under the secret that its row names. The row does not name that of the generation
   * before if the session was moved forward; then a secret has to be the row's or the current one.
   */
  #isSigned(record: SessionRecord, { format, generation, secretId }: CheckedRefreshToken): boolean {
    const { secretId: own, formerSecretId: former } = record;
    if (generation === record.generation) {
      return secretId === own;
    }
    if (generation !== record.generation - 1 || format === 1) {
      return true;
    }
    const { current } = this.#options.secrets;
    return former === null ? secretId === own || secretId === current.id : secretId === former;
  }

  /** Reads the row of a session. */
  load(session: string): Promise<Stored<SessionRecord | undefined>> {
    return this.#options.store.load(session).catch(storeFailed);
  }

  async #keysOf({ secretId }: { readonly secretId: string }): Promise<SecretKeys> {
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

/** Whether a session in cookies has to be bound to a key of its browser. */
export function hasToBeBound({ device }: Pick<SessionRecord, "device">): boolean {
  return device.bind === "required";
}

const unbound = { root: undefined, boundKey: null } as const;

/** The hash of the root of a session, which stays the same; null if the row has lost it. */
export async function rootHashOf({
  rootHash,
  salt,
}: Pick<SessionRecord, "rootHash" | "salt">): Promise<string | null> {
  return rootHash ?? (salt === "" ? null : hashOfRoot(salt));
}

/** Whether the token was made for this session: by its root, or by the salt. */
async function belongsTo(record: SessionRecord, checked: CheckedRefreshToken): Promise<boolean> {
  const { id: session, transport, tenantId, salt, lastSalted } = record;
  if (transport !== checked.transport) {
    return false;
  }
  if (checked.format === 2) {
    // A store that was restored to a state from before format 2 still has the salt.
    const hash = await rootHashOf(record);
    // A token from before the session was bound names no key; the row does.
    const named = checked.boundKey ?? record.boundKey;
    return hash === checked.rootHash && named === (record.boundKey ?? named);
  }
  const { generation, keys } = checked;
  if (salt === "") {
    // Without the salt, its root cannot be derived. The token can only be recognised as an old one.
    const isOld = generation < record.generation - 1;
    return isOld && lastSalted !== null && lastSalted === (await sha256(checked.token));
  }
  return verifyTag(keys, checked, { session, transport, tenantId, generation, salt });
}
