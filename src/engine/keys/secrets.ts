import type { Clock } from "../../base/clock.ts";
import {
  type DeadSecrets,
  openSecretRing,
  readSecretOption,
  type SecretKeys,
  type SecretOption,
  type SecretRing,
} from "../../base/crypto.ts";
import { unavailable } from "../../base/errors.ts";
import type { SessionEventListener } from "../../base/events.ts";
import { storeFailed } from "../reach.ts";
import type { RecordedSecret, RecordedSecrets, SecretName, SessionStore } from "../store.ts";

interface SecretsOptions {
  readonly issuer: string;
  /** Further issuers whose tokens are accepted. */
  readonly older?: readonly { readonly issuer: string }[];
  /** The issuers of hosts, for which {@link HostSecrets} has keys. Default: none. */
  readonly hosts?: readonly { readonly issuer: string }[];
  readonly store: SessionStore;
  readonly secret: SecretOption | undefined;
  readonly dead?: DeadSecrets;
  readonly clock: Clock;
}

/** The secrets of a server, without those that are dead. */
export interface TrustedSecrets extends SecretRing {
  /** Whether a secret was declared dead: nothing under it may be accepted. */
  isDead(id: string): boolean;
}

/**
 * What is known of a secret that is not usable here:
 *
 * - `dead`: it was declared dead
 * - `elsewhere`: another server has it, or had it
 * - `never`: no server ever had it
 */
export type UnusableSecret = "dead" | "elsewhere" | "never";

/** Minimum milliseconds between two reads of the recorded secrets because of unknown ids. */
const readCooldown = 5_000;

/**
 * The state of all secrets: those that this server was given or that its store keeps, those of other
 * servers, and those that are dead. A secret has one id for each accepted issuer.
 *
 * A secret is dead by the option `deadSecrets` or by the word of the store. It stays dead in this
 * process even if the store forgets it.
 */
export class EngineSecrets implements TrustedSecrets {
  readonly #options: SecretsOptions;
  /** The keys of this server's secrets, in the order of the option. */
  #own: readonly KeysByIssuer[] = [];
  #byId: ReadonlyMap<string, SecretKeys> = new Map();
  /** The keys for hosts: by the issuer, then by the id of the secret. */
  #forHosts: ReadonlyMap<string, ReadonlyMap<string, SecretKeys>> = new Map();
  /** The ids of the option, and what the store has said since the start. */
  readonly #dead = new Set<string>();
  #recorded: readonly RecordedSecret[] = [];
  /** Monotonic start of the last read of the recorded secrets. */
  #attemptedAt = Number.NEGATIVE_INFINITY;
  #reading: Promise<void> | undefined;

  constructor(options: SecretsOptions) {
    this.#options = options;
  }

  async open(): Promise<void> {
    const { issuer, store, secret, dead } = this.#options;

    // 1. The secrets: those of the options, or the one that the store keeps.
    const found = secret ?? (await store.secret?.());
    if (found === undefined) {
      throw new TypeError(
        `secret is missing and ${store.name} does not keep one; pass at least 32 random bytes`,
      );
    }
    const secrets = readSecretOption(found);
    this.#own = await this.#derive(secrets);
    this.#forHosts = await this.#deriveForHosts(secrets);

    // 2. The secrets that the options declare dead. The other servers learn it from the store.
    const deadNames = [
      ...(await this.#derive(dead?.secrets ?? [])).flat().map(nameOf),
      ...(dead?.ids ?? []).map((id) => ({ id, issuer })),
    ];

    // 3. Record this server's secrets, and learn which of all servers' secrets are dead.
    this.#attemptedAt = this.#options.clock.monotonic();
    this.#learn(await store.recordSecrets(this.#own.flat().map(nameOf)));
    if (deadNames.some(({ id }) => !this.#dead.has(id))) {
      this.#learn(await store.retireSecrets(deadNames));
    }
    await this.#tell();

    // 4. One must be left.
    if (this.#current === undefined) {
      throw new TypeError(
        "secret: every secret that was given is dead; give this server a new one, first in the list",
      );
    }
  }

  /**
   * The secret for new tokens: the first one that is not dead.
   * @throws SessionError `unavailable` if all are dead
   */
  get current(): SecretKeys {
    if (this.#current === undefined) {
      throw unavailable("this server has no secret that is trusted; try another server");
    }
    return this.#current;
  }

  /** All secrets of this server that are not dead. Empty before `open`. */
  get byId(): ReadonlyMap<string, SecretKeys> {
    return this.#byId;
  }

  get #current(): SecretKeys | undefined {
    return this.#own.map(([keys]) => keys).find(({ id }) => this.#byId.has(id));
  }

  isDead(id: string): boolean {
    return this.#dead.has(id);
  }

  /** The keys of a secret for the issuer of a host; undefined if the secret is dead or not this server's. */
  keysForHost(issuer: string, id: string): SecretKeys | undefined {
    return this.#byId.has(id) ? this.#forHosts.get(issuer)?.get(id) : undefined;
  }

  /**
   * What is known of a secret that is not in `byId`. An id that is not recorded is looked up in the
   * store, but not within 5 s of the last look: invented ids cost no more than that.
   * @throws SessionError `unavailable` if the store cannot be read now
   */
  async statusOf(id: string): Promise<UnusableSecret> {
    const { clock } = this.#options;
    const known = this.#known(id);
    const due = clock.monotonic() - this.#attemptedAt >= readCooldown;
    if (known === "never" && (due || this.#reading !== undefined)) {
      await this.read().catch(storeFailed);
      return this.#known(id);
    }
    return known;
  }

  #known(id: string): UnusableSecret {
    if (this.#dead.has(id)) {
      return "dead";
    }
    return this.#recorded.some((secret) => secret.id === id) ? "elsewhere" : "never";
  }

  /** Reads the recorded secrets. Callers at the same time share one read. */
  read(): Promise<void> {
    const { store, clock } = this.#options;
    this.#attemptedAt = clock.monotonic();
    this.#reading ??= store
      .recordSecrets([])
      .then((recorded) => {
        this.#learn(recorded);
        return this.#tell();
      })
      .finally(() => {
        this.#reading = undefined;
      });
    return this.#reading;
  }

  /** Reads the recorded secrets after they changed: a read that began before does not count. */
  async reload(): Promise<void> {
    await this.#reading?.catch(() => {});
    await this.read();
  }

  /** Writes again what this server knows, after the store has lost changes. */
  async restore(): Promise<void> {
    const { store, issuer } = this.#options;
    this.#learn(await store.recordSecrets(this.#own.flat().map(nameOf)));
    const lost = [...this.#dead].filter((id) => !this.#recorded.some((one) => isDeadId(one, id)));
    if (lost.length > 0) {
      this.#learn(await store.retireSecrets(lost.map((id) => ({ id, issuer }))));
    }
  }

  /**
   * Where the store knows a secret of this server as dead for one issuer, tells it the ids for the
   * others. A server that does not have the secret cannot derive them, and keys under them are stored too.
   */
  async #tell(): Promise<void> {
    const isTold = ({ id }: SecretName) => this.#recorded.some((one) => isDeadId(one, id));
    const untold = this.#own
      .filter((keys) => keys.some(isTold))
      .flat()
      .filter((one) => !isTold(one));
    if (untold.length > 0) {
      this.#learn(await this.#options.store.retireSecrets(untold.map(nameOf)));
    }
  }

  /** All secrets that the store knows. */
  async list(): Promise<RecordedSecrets> {
    const recorded = await this.#options.store.recordSecrets([]).catch(storeFailed);
    this.#learn(recorded);
    return recorded;
  }

  /**
   * Declares a secret dead, here and in the store.
   * @param given the id of a recorded secret, or secrets. If this server has the secret of the id, the
   * ids of that secret for the other issuers are dead too
   * @returns the ids that are dead now
   * @throws TypeError if no server has recorded the id, or this server would have no secret left
   */
  async retire(given: string | DeadSecrets): Promise<readonly string[]> {
    const names =
      typeof given === "string"
        ? await this.#namesOf(given)
        : (await this.#derive(given.secrets)).flat().map(nameOf);
    const isLeft = ({ id }: SecretName) =>
      this.#byId.has(id) && !names.some((name) => name.id === id);
    if (!this.#own.some(([keys]) => isLeft(keys))) {
      throw new TypeError(
        "the secret is the only one of this server; put a new one first in the list of every server, then retire this one",
      );
    }
    this.#learn(await this.#options.store.retireSecrets(names).catch(storeFailed));
    return names.map(({ id }) => id);
  }

  /** The names of a recorded secret: for every issuer, where this server has the secret. */
  async #namesOf(id: string): Promise<readonly SecretName[]> {
    const own = this.#own.find((keys) => keys.some((one) => one.id === id));
    if (own !== undefined) {
      return own.map(nameOf);
    }
    const { secrets } = await this.list();
    const recorded = secrets.find((secret) => secret.id === id);
    if (recorded === undefined) {
      throw new TypeError(
        "no server has recorded a secret with this id; take the id from the list of secrets, or give the secret itself",
      );
    }
    return [nameOf(recorded)];
  }

  async #derive(secrets: readonly Uint8Array<ArrayBuffer>[]): Promise<readonly KeysByIssuer[]> {
    const { issuer, older = [] } = this.#options;
    return Promise.all(
      secrets.map(async (secret) => {
        const keysFor = async (of: string) => (await openSecretRing([secret], of)).current;
        const others = older.map((one) => keysFor(one.issuer));
        return [await keysFor(issuer), ...(await Promise.all(others))] as const;
      }),
    );
  }

  /** The keys of each secret for each host, under the id that the secret has for the issuer. */
  async #deriveForHosts(secrets: readonly Uint8Array<ArrayBuffer>[]) {
    const { hosts = [] } = this.#options;
    const entries = hosts.map(async ({ issuer }) => {
      const ring = await Promise.all(secrets.map((secret) => openSecretRing([secret], issuer)));
      const keys = this.#own.flatMap(([{ id }], index) => {
        const current = ring[index]?.current;
        return current === undefined ? [] : ([[id, { ...current, id }]] as const);
      });
      return [issuer, new Map(keys)] as const;
    });
    return new Map(await Promise.all(entries));
  }

  #learn({ secrets }: RecordedSecrets): void {
    this.#recorded = secrets;
    for (const { id, deadAt } of secrets) {
      if (deadAt !== null) {
        this.#dead.add(id);
      }
    }
    // A secret that has leaked is dead for every issuer.
    for (const { id } of this.#own
      .filter((keys) => keys.some((one) => this.isDead(one.id)))
      .flat()) {
      this.#dead.add(id);
    }
    const live = this.#own.flat().filter(({ id }) => !this.#dead.has(id));
    this.#byId = new Map(live.map((keys) => [keys.id, keys]));
  }
}

/**
 * The secrets as one of several hosts uses them: with the same ids, and keys that depend on the issuer of
 * the host. A token of another host names a known secret, but its code is wrong.
 */
export class HostSecrets implements SecretRing {
  readonly #home: EngineSecrets;
  readonly #issuer: string;
  #byId: ReadonlyMap<string, SecretKeys> = new Map();
  /** What `#byId` was made of. */
  #madeOf: ReadonlyMap<string, SecretKeys> | undefined;

  constructor(home: EngineSecrets, issuer: string) {
    this.#home = home;
    this.#issuer = issuer;
  }

  /** @throws SessionError `unavailable` if all secrets are dead */
  get current(): SecretKeys {
    const keys = this.#home.keysForHost(this.#issuer, this.#home.current.id);
    if (keys === undefined) {
      throw unavailable("this server has no secret for the host; try another server");
    }
    return keys;
  }

  get byId(): ReadonlyMap<string, SecretKeys> {
    const { byId } = this.#home;
    if (this.#madeOf !== byId) {
      const entries = [...byId.keys()].flatMap((id) => {
        const keys = this.#home.keysForHost(this.#issuer, id);
        return keys === undefined ? [] : ([[id, keys]] as const);
      });
      this.#byId = new Map(entries);
      this.#madeOf = byId;
    }
    return this.#byId;
  }

  /** See `EngineSecrets.statusOf`. */
  statusOf(id: string): Promise<UnusableSecret> {
    return this.#home.statusOf(id);
  }

  /** See `EngineSecrets.reload`. */
  reload(): Promise<void> {
    return this.#home.reload();
  }
}

/** The keys of one secret: for the issuer, then for the older ones. */
type KeysByIssuer = readonly [SecretKeys, ...SecretKeys[]];

function nameOf({ id, issuer }: SecretName): SecretName {
  return { id, issuer };
}

function isDeadId(secret: RecordedSecret, id: string): boolean {
  return secret.id === id && secret.deadAt !== null;
}

/**
 * Unknown secret ids that are remembered. At this number the memory is cleared, so that invented ids
 * cannot suppress later events for good.
 */
const unknownSecretsMax = 100;

/** Drops `unknownSecret` events except the first one for each secret. */
export function oncePerSecret(emit: SessionEventListener): SessionEventListener {
  const reported = new Set<string>();
  return (event) => {
    if (event.type !== "unknownSecret") {
      emit(event);
    } else if (!reported.has(event.secretId)) {
      if (reported.size >= unknownSecretsMax) {
        reported.clear();
      }
      reported.add(event.secretId);
      emit(event);
    }
  };
}
