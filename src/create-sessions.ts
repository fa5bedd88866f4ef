import type { AnyClaims, ClaimsInput, ClaimsOf, ClaimsSchema, JsonObject } from "./base/json.ts";
import { createOpener } from "./base/promises.ts";
import { openEngine } from "./engine/engine.ts";
import { reach } from "./engine/reach.ts";
import { closedHealth, type SessionsHealth } from "./engine/revocation/health.ts";
import type { JsonWebKeySet } from "./jwt/jwk.ts";
import { readOptions, type SessionsOptions } from "./options.ts";
import type { Core } from "./server/core.ts";
import { SessionHandle } from "./server/session/handle.ts";
import { createServerSessions, type ServerSessions } from "./server/sessions.ts";

/**
 * Verified sessions for Connect services. `Claims`: what handlers read; `Given`: what a sign-in
 * gives, where the schema of the option `claims` adds to it.
 */
export interface Sessions<Claims extends object = JsonObject, Given extends object = object>
  extends ServerSessions<Claims, Given> {
  /**
   * Opens the store, the secrets and the keys now instead of on first use.
   * @throws SessionError `unavailable`, with what stood in the way as its cause
   */
  ready(): Promise<void>;
  /** How well this process knows of revocations; for health checks and metrics. Does no I/O. */
  health(): SessionsHealth;
  /**
   * The public keys of all access tokens that may be alive, and of those to come: what
   * `jwksHandler` of `rpc-session/http` publishes.
   * @throws SessionError `unavailable`
   */
  jwks(): Promise<JsonWebKeySet>;
  /**
   * Waits for background writes, ends timers, feed and sweeper, and closes the store, unless another
   * instance has it open. Calls that come later are `unavailable`.
   */
  close(): Promise<void>;
  [Symbol.asyncDispose](): Promise<void>;
}

/**
 * Makes verified sessions for Connect services. Opens nothing yet.
 * @throws TypeError with what to change, when an option is wrong
 */
export function createSessions<Schema extends ClaimsSchema = AnyClaims>(
  options: SessionsOptions<Schema>,
): Sessions<ClaimsOf<Schema>, ClaimsInput<Schema>>;
// Inside, claims are JSON; the schema vouches for their type.
export function createSessions(options: SessionsOptions): Sessions {
  const resolved = readOptions(options);
  const opener = createOpener(() => openEngine(resolved.engine));
  const core: Core = {
    ...resolved.core,
    storeNow: () => opener.opened()?.revocations.storeNow() ?? resolved.engine.clock.now(),
    sessionOn: (call, verified) => new SessionHandle(core, verified, call),
    engine: () => opener.opened() ?? reach(opener.get()),
  };
  const closeOnce = async (): Promise<void> => {
    const engine = await opener.end();
    await engine?.settled();
    await engine?.close();
  };
  let closing: Promise<void> | undefined;
  const close = (): Promise<void> => {
    closing ??= closeOnce();
    return closing;
  };
  return {
    ...createServerSessions(core, resolved.policies),
    health: () => opener.opened()?.health() ?? closedHealth,
    async jwks() {
      return { keys: [...(await (await core.engine()).publicKeys())] };
    },
    async ready() {
      await core.engine();
    },
    close,
    [Symbol.asyncDispose]: close,
  };
}
