import { assertMembers, type Duration, durationMs, durationOf } from "./base/checks.ts";
import { inTime, systemClock } from "./base/clock.ts";
import type { AnyClaims, ClaimsInput, ClaimsOf, ClaimsSchema, JsonObject } from "./base/json.ts";
import type { FeedReadings } from "./base/telemetry.ts";
import { Engine } from "./engine/engine.ts";
import type { SessionsHealth } from "./engine/revocation/health.ts";
import type { ReadHost } from "./host-options.ts";
import { incidentTools, type SessionKeys, type SessionSecrets } from "./incident.ts";
import type { JsonWebKeySet } from "./jwt/jwk.ts";
import { readOptions, type SessionsOptions } from "./options.ts";
import type { Core } from "./server/core.ts";
import { createHostedSessions } from "./server/hosts.ts";
import { sessionOn } from "./server/session/handle.ts";
import { createInstance, type ServerSessions } from "./server/sessions.ts";

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
   * Closes the sessions of this server, in this order:
   *
   * 1. `health().status` is "closed", and calls that begin from now on fail with `unavailable`.
   * 2. Streams end, as `drain` ends them.
   * 3. Calls under way finish, uploads too. Their handlers may still use the sessions. Streams of the
   *    policy "never" are not waited for.
   * 4. Other operations fail with `unavailable`, such as `issue`; those under way finish.
   * 5. What waits to be written is written.
   * 6. All timers stop, and the store closes unless another instance has it open.
   *
   * Stop accepting connections first, so that step 3 has little to wait for. Do not wait for `close` in a
   * handler: its own call is under way. A further call returns the same.
   *
   * @example
   * process.once("SIGTERM", () => sessions.close({ within: "10s" }));
   * @returns when all is done, or its time is over. What is still under way then fails with `unavailable`,
   * and the event `warning` says how much it is
   * @throws TypeError for an invalid option; then nothing is closed
   */
  close(options?: CloseOptions): Promise<void>;
  /** The same as `close()`, for `await using`. */
  [Symbol.asyncDispose](): Promise<void>;
}

/** The options of `close`. */
export interface CloseOptions {
  /**
   * How long to wait for calls and operations under way, from "0s" to "10m". Default "5s". The last writes
   * and the store take at most two seconds more. Keep the sum shorter than the time after which your
   * orchestrator kills the process.
   */
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
  const {
    engine: engineOptions,
    core: serverOptions,
    policies,
    events,
    ...read
  } = readOptions(options);
  const engine = new Engine(engineOptions);
  const core: Core = {
    ...serverOptions,
    revocations: engine.revocations,
    engine: engine.open.bind(engine),
    sessionOn,
  };
  const { operations, telemetry } = core;
  const stopTelemetry = telemetry?.start(() => ({ ...engine.readings, feed: feedOf(health()) }));
  const { keys, secrets } = incidentTools(engine);
  let closing: Promise<void> | undefined;
  const health = (): SessionsHealth => {
    const known = engine.health(operations.isClosing);
    const isDraining = operations.isDraining && known.status !== "closed";
    return isDraining ? { ...known, status: "draining" } : known;
  };
  const close = async (given: CloseOptions = {}): Promise<void> => {
    assertMembers("close", given, { within: 0 });
    const ms = durationMs("close: within", given.within ?? "5s", { max: 600_000 });
    closing ??= closeAll(core, engine, ms).finally(() => {
      events.flush();
      stopTelemetry?.();
    });
    await closing;
  };
  return {
    ...(read.hosts === undefined
      ? createInstance(core, policies).sessions
      : createHostedSessions(core, policies, {
          hosts: read.hosts.map((host) => atHost(core, engine, host)),
          hostOf: read.hostOf,
        })),
    health,
    ...operations.tracked({
      async jwks() {
        await engine.open();
        return { keys: [...(await engine.publicKeys())] };
      },
      async ready() {
        await engine.open();
      },
      async revokeEverybody() {
        await engine.open();
        return engine.revokeEverybody();
      },
    }),
    keys: operations.tracked(keys),
    secrets: operations.tracked(secrets),
    close,
    [Symbol.asyncDispose]: () => close(),
  };
}

/** A host of the service: its instance has an engine of its own, which shares the store. */
function atHost(core: Core, engine: Engine, { names, accepted, core: own }: ReadHost) {
  const ofHost = engine.forHost(accepted);
  return { names, core: { ...core, ...own, engine: ofHost.open.bind(ofHost) } };
}

/** The state of the change log for telemetry; undefined while the instance is not open. */
function feedOf({ status, staleness, lag, changes }: SessionsHealth): FeedReadings | undefined {
  return status === "closed" ? undefined : { status, staleness, lag, changes };
}

/** Milliseconds for the last writes and for closing the store, at most. */
const lastWritesWithin = 2_000;
const isLate = new Error("the time to close the store is over");

/** Closes everything: the whole story, as the docstring of `close` tells it. */
async function closeAll(core: Core, engine: Engine, ms: number): Promise<void> {
  const { operations, emit } = core;
  const warn = (advice: string): void => {
    emit({ type: "warning", option: "close", advice });
  };

  // 1. Refuse new calls, end the streams, and wait for what is under way.
  await operations.close(core.clock, ms);
  if (operations.left !== undefined) {
    warn(
      `close waited ${durationOf(ms)}, but not everything under way has finished (${operations.left}); stop the HTTP server before you close the sessions, or set within to a longer time`,
    );
  }

  // 2. Write what waits, stop the timers, and close the store. A store may never answer, whatever clock
  // the sessions have.
  const limit = { clock: systemClock, ms: lastWritesWithin, keepAlive: true, late: () => isLate };
  await inTime(engine.close(), limit).catch((error: unknown) => {
    if (error !== isLate) {
      throw error;
    }
    warn(
      "close could not write what waits and close the store within 2s; check that the store is in reach",
    );
  });
}
