import { assertMembers, type Duration, durationMs, durationOf } from "./base/checks.ts";
import { inTime, systemClock } from "./base/clock.ts";
import type { AnyClaims, ClaimsInput, ClaimsOf, ClaimsSchema, JsonObject } from "./base/json.ts";
import { Engine } from "./engine/engine.ts";
import type { SessionsHealth } from "./engine/revocation/health.ts";
import { incidentTools, type SessionKeys, type SessionSecrets } from "./incident.ts";
import type { JsonWebKeySet } from "./jwt/jwk.ts";
import { readOptions, type SessionsOptions } from "./options.ts";
import { Work } from "./server/call/work.ts";
import type { Core } from "./server/core.ts";
import { sessionOn } from "./server/session/handle.ts";
import { createServerSessions, type ServerSessions } from "./server/sessions.ts";

/** Options of `sessions.close`. */
export interface CloseOptions {
  /**
   * How long to wait for what is under way, from "0s" to "10m". Default "10s". Keep it shorter than the time
   * after which your orchestrator kills the process, such as `terminationGracePeriodSeconds`.
   */
  readonly within?: Duration;
}

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
  /**
   * Reports how current this process's knowledge of revocations is, and whether it drains. Does no I/O.
   * `healthHandler` of `rpc-session/http` makes an HTTP answer of it.
   */
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
   * 1. Calls that begin from now on fail with `unavailable`, except those of public methods.
   * 2. Streams end as `drain` ends them.
   * 3. Calls under way finish. Their handlers may still use the sessions. Streams of the policy "never"
   *    are not waited for.
   * 4. Other operations fail with `unavailable`, such as `issue`; those under way finish.
   * 5. What waits to be written is written.
   * 6. All timers stop, and the store closes unless another instance has it open.
   *
   * Stop the HTTP server first, so that step 3 has little to wait for. Do not wait for `close` in a
   * handler: its own call is under way. A further call returns the same promise.
   *
   * @returns when all is done, or the time of `within` is over. What is still under way then fails with
   * `unavailable`, and the event `warning` says so
   * @throws TypeError for an invalid option
   */
  close(options?: CloseOptions): Promise<void>;
  /** The same as `close` without options, for `await using`. */
  [Symbol.asyncDispose](): Promise<void>;
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
    work: new Work(),
    revocations: engine.revocations,
    engine: engine.open.bind(engine),
    sessionOn,
  };
  const server = createServerSessions(core, policies);
  const { keys, secrets } = incidentTools(engine);
  let closing: Promise<void> | undefined;
  const close = async (closeOptions: CloseOptions = {}): Promise<void> => {
    assertMembers("close", closeOptions, { within: 0 });
    const { within = "10s" } = closeOptions;
    const ms = durationMs("close: within", within, { max: 600_000 });
    closing ??= closeAll({ core, engine, server }, ms).finally(() => events.flush());
    await closing;
  };
  return {
    ...server,
    health: () => ({ ...engine.health(), draining: core.work.isDraining }),
    ...core.work.waitedFor({
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
    keys: core.work.waitedFor(keys),
    secrets: core.work.waitedFor(secrets),
    close,
    [Symbol.asyncDispose]: () => close(),
  };
}

interface Closing {
  readonly core: Core;
  readonly engine: Engine;
  readonly server: Pick<ServerSessions, "drain">;
}

/** Milliseconds for the last writes and for closing the store, at most. */
const lastWritesWithin = 2_000;

/** Closes everything: the whole story, as the docstring of `close` tells it. */
async function closeAll({ core, engine, server }: Closing, ms: number): Promise<void> {
  const { work } = core;
  // The time of the orchestrator that stops this server, so no other clock counts.
  const inRealTime = (steps: Promise<unknown>, limit: number, advice: () => string) =>
    inTime(steps, { clock: systemClock, ms: limit, keepAlive: true, late }).catch((error) => {
      if (error !== isLate) {
        throw error;
      }
      core.emit({ type: "warning", option: "close", advice: advice() });
    });

  // 1. Refuse new calls, and wait for those under way. Then refuse operations, and wait for those.
  const finished = work.finish();

  // 2. Meanwhile end the streams. They are calls, too.
  const drained = server.drain({ within: `${Math.min(5_000, ms / 2)}ms` });
  await inRealTime(Promise.all([drained, finished]), ms, () => {
    return `close waited ${durationOf(ms)}, but not everything under way has finished (${work.left}); stop the HTTP server before you close the sessions, or set within to a longer time`;
  });
  work.giveUp();

  // 3. Write what waits, stop the timers, and close the store.
  await inRealTime(engine.close(), lastWritesWithin, () => {
    return "close could not write what waits and close the store within 2s; is the store in reach?";
  });
}

const isLate = new Error("the time to close is over");
const late = (): Error => isLate;
