import { type Duration, durationMs } from "./base/checks.ts";
import type { AnyClaims, ClaimsInput, ClaimsOf, ClaimsSchema, JsonObject } from "./base/json.ts";
import { Engine } from "./engine/engine.ts";
import type { SessionsHealth } from "./engine/revocation/health.ts";
import { incidentTools, type SessionKeys, type SessionSecrets } from "./incident.ts";
import type { JsonWebKeySet } from "./jwt/jwk.ts";
import { readOptions, type SessionsOptions } from "./options.ts";
import type { Core } from "./server/core.ts";
import { sessionOn } from "./server/session/handle.ts";
import { createServerSessions, type ServerSessions } from "./server/sessions.ts";

/**
 * Verified sessions for Connect services. `Claims` is the type that handlers read, `Given` the type
 * that a sign-in passes; they differ if the schema of the option `claims` adds defaults.
 */
export interface Sessions<Claims extends object = JsonObject, Given extends object = object>
  extends ServerSessions<Claims, Given> {
  /**
   * Opens the store, the secrets and the keys now instead of on first use. Call it when the server
   * starts, so that a wrong configuration is reported early.
   * @throws SessionError `unavailable`, with the underlying error as its `cause`
   */
  ready(): Promise<void>;
  /** Reports how current this process's knowledge of revocations is. Does no I/O. */
  health(): SessionsHealth;
  /**
   * The public keys of all access tokens that may be alive, and those that will sign next.
   * `jwksHandler` of `rpc-session/http` publishes them.
   * @throws SessionError `unavailable`
   */
  jwks(): Promise<JsonWebKeySet>;
  /** The generated signing keys: show them, rotate them now, retire one that has leaked. */
  readonly keys: SessionKeys;
  /** The secrets by their ids: show them, declare one dead that has leaked. */
  readonly secrets: SessionSecrets;
  /**
   * Signs everybody out: ends every session that is live when the call begins, of all users and
   * tenants. Takes steps of 500 sessions; sign-ins go on meanwhile, and some of them may end as well.
   * @returns how many sessions this call ended
   * @throws SessionError `unavailable` if the store fails; call it again then
   */
  revokeEverybody(): Promise<number>;
  /**
   * Stops in this order: refuses new calls with `unavailable` and ends open streams, so that clients
   * turn to another server; waits for the calls and operations under way; writes what waits in the
   * background; stops all timers; closes the store, unless another instance has it open. Stop accepting
   * connections first. `health().status` is "closed" from the beginning on.
   *
   * @example
   * process.once("SIGTERM", () => sessions.close({ within: "10s" }));
   */
  close(options?: CloseOptions): Promise<void>;
  /** The same as `close()`, for `await using`. */
  [Symbol.asyncDispose](): Promise<void>;
}

/** The options of `close`. */
export interface CloseOptions {
  /** How long to wait for calls and operations under way, at most. Those fail then. Default "5s". */
  readonly within?: Duration;
}

/**
 * Creates sessions for Connect services. Nothing is opened until the first call, or `ready()`.
 *
 * @example
 * ```ts
 * const sessions = createSessions({
 *   issuer: "https://api.example.com",
 *   store: sqliteStore("sessions.db"),
 * });
 * ```
 * @throws TypeError that names the wrong option and how to correct it
 */
export function createSessions<Schema extends ClaimsSchema = AnyClaims>(
  options: SessionsOptions<Schema>,
): Sessions<ClaimsOf<Schema>, ClaimsInput<Schema>>;
// The implementation treats claims as JSON; the schema guarantees their type.
export function createSessions(options: SessionsOptions): Sessions {
  const { engine: engineOptions, core: serverOptions, policies, events } = readOptions(options);
  const engine = new Engine(engineOptions);
  const core: Core = {
    ...serverOptions,
    revocations: engine.revocations,
    engine: engine.open.bind(engine),
    sessionOn,
  };
  const close = async ({ within = "5s" }: CloseOptions = {}): Promise<void> => {
    await core.operations.close(core.clock, durationMs("within", within));
    await engine.close();
    events.flush();
  };
  return {
    ...createServerSessions(core, policies),
    health: () => engine.health(core.operations.isClosing),
    async jwks() {
      await engine.open();
      return { keys: [...(await engine.publicKeys())] };
    },
    async ready() {
      await engine.open();
    },
    ...incidentTools(engine),
    async revokeEverybody() {
      await engine.open();
      return engine.revokeEverybody();
    },
    close,
    [Symbol.asyncDispose]: () => close(),
  };
}
