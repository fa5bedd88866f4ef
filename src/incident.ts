import { readDeadSecrets } from "./base/crypto.ts";
import type { Engine } from "./engine/engine.ts";
import type { KeyFacts, KeyState } from "./engine/keys/rotation.ts";

/** A signing key whose tokens are accepted. */
export interface SigningKeyInfo {
  readonly kid: string;
  readonly algorithm: string;
  /**
   * - `next`: it is published and will sign
   * - `signing`: it signs now
   * - `former`: it signs no more; tokens that it has signed are accepted
   */
  readonly state: "next" | "signing" | "former";
  /** The id of the secret that encrypts it in the store. */
  readonly secretId: string;
  readonly createdAt: Date;
  /** When a `next` key begins to sign; earlier if the signing key is retired. */
  readonly signsFrom?: Date;
  /** When the key is removed and its tokens are refused; absent until there is a later key. */
  readonly trustedUntil?: Date;
}

/** Shows, rotates and retires the generated signing keys. */
export interface SessionKeys {
  /**
   * The keys whose tokens are accepted, oldest first. Empty if the keys are your own (`keys.signing`).
   * @throws SessionError `unavailable`
   */
  list(): Promise<readonly SigningKeyInfo[]>;
  /**
   * Creates the next signing key now instead of at the end of `keys.rotation`. All servers publish it
   * at once, and sign with it 10 minutes later, when every verifier has it. If there is such a key
   * already, it is returned.
   * @throws TypeError if the keys are your own, or there are 32 keys already
   * @throws SessionError `unavailable`
   */
  rotate(): Promise<SigningKeyInfo>;
  /**
   * Removes a key: what it has signed is refused on every server, here when the call resolves and
   * elsewhere within `maxStaleness`. Clients refresh; nobody is signed out. Another key must have been
   * published for a minute, so that every server knows it.
   * @param options.now retires the key even if there is no such key. Sign-ins and refreshes then wait
   * for `maxStaleness`, until every server knows the new one. Default false
   * @returns whether there was a key with this id
   * @throws TypeError if the keys are your own, or no other key is known to all servers
   * @throws SessionError `unavailable`
   */
  retire(kid: string, options?: { readonly now?: boolean }): Promise<boolean>;
}

/** A secret that a server has used, or that is dead. */
export interface SecretInfo {
  /** Derived from the secret and the issuer. Reveals nothing about the secret. */
  readonly id: string;
  readonly issuer: string;
  /**
   * - `current`: this server makes new tokens with it
   * - `accepted`: this server accepts tokens under it
   * - `elsewhere`: another server has it, or had it
   * - `dead`: nothing under it is accepted
   */
  readonly state: "current" | "accepted" | "elsewhere" | "dead";
  /** When a server that has it started last. */
  readonly seenAt: Date;
  /** Since when it is dead. */
  readonly deadAt?: Date;
}

/** Shows secrets by their ids, and declares them dead. */
export interface SessionSecrets {
  /** @throws SessionError `unavailable` */
  list(): Promise<readonly SecretInfo[]>;
  /**
   * Declares a secret dead on every server, for ever: here when the call resolves, elsewhere within
   * `maxStaleness`. Refresh tokens under it are refused with SIGN_IN, and their cookies are cleared.
   * Signing keys that it encrypts are no longer accepted, nor is what they have signed.
   *
   * Give every server a new secret first. A server without another one refuses to create and refresh
   * sessions, as `unavailable`.
   * @param secret the id of a recorded secret, or the secret
   * @returns the ids that are dead: one for each issuer that is known here
   * @throws TypeError if no server has recorded the id, or the secret is the only one of this server
   * @throws SessionError `unavailable`
   */
  retire(secret: string | Uint8Array): Promise<readonly string[]>;
}

/** What `sessions.keys` and `sessions.secrets` do. */
export function incidentTools(engine: Engine): {
  readonly keys: SessionKeys;
  readonly secrets: SessionSecrets;
} {
  return {
    keys: {
      async list() {
        await engine.open();
        return (await engine.keys.states()).map(toKeyInfo);
      },
      async rotate() {
        await engine.open();
        return toKeyInfo(await engine.keys.rotate());
      },
      async retire(kid, { now = false } = {}) {
        await engine.open();
        return engine.keys.retire(kid, now);
      },
    },
    secrets: {
      async list() {
        await engine.open();
        const { secrets } = await engine.secrets.list();
        return secrets.map(({ id, issuer, seenAt, deadAt }) => ({
          ...{ id, issuer, state: stateOf(engine, id), seenAt: new Date(seenAt) },
          ...(deadAt === null ? {} : { deadAt: new Date(deadAt) }),
        }));
      },
      async retire(secret) {
        const given = readDeadSecrets([secret]);
        await engine.open();
        return engine.retireSecret(given.ids[0] ?? given);
      },
    },
  };
}

function toKeyInfo({ key, state, signsFrom, trustedUntil }: KeyState<KeyFacts>): SigningKeyInfo {
  const { kid, alg: algorithm, secretId, createdAt } = key;
  return {
    ...{ kid, algorithm, state, secretId, createdAt: new Date(createdAt) },
    ...(signsFrom === undefined ? {} : { signsFrom: new Date(signsFrom) }),
    ...(trustedUntil === undefined ? {} : { trustedUntil: new Date(trustedUntil) }),
  };
}

function stateOf({ secrets }: Engine, id: string): SecretInfo["state"] {
  if (secrets.isDead(id)) {
    return "dead";
  }
  if (!secrets.byId.has(id)) {
    return "elsewhere";
  }
  return secrets.current.id === id ? "current" : "accepted";
}
