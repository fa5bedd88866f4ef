import { assertId, assertMembers, type Duration, durationMs } from "../../base/checks.ts";
import { liveOf } from "../../engine/liveness.ts";
import { unprovenError } from "../../engine/refresh/refresh.ts";
import type { SessionInfo } from "../../engine/session.ts";
import type { Call } from "../call/call.ts";
import type { Core } from "../core.ts";
import { infoOf } from "./edits.ts";
import { presentSession } from "./handle.ts";
import { assertCurrent } from "./successors.ts";

/** Options of `sessions.ticket`. */
export interface TicketOptions {
  /** What the ticket may be used for, such as "download:42": 1 to 255 characters. */
  readonly purpose: string;
  /** How long the ticket is valid, by the store's clock: "1s" to "5m". Default "30s". */
  readonly within?: Duration;
}

/** A ticket: whoever has it may redeem it, once. */
export interface SessionTicket {
  /** At most 193 letters, digits, dots, `-` and `_`: it fits a query and a WebSocket subprotocol. */
  readonly ticket: string;
  /** When it expires, by the store's clock. */
  readonly expiresAt: Date;
}

const bounds = { min: 1_000, max: 300_000 };

/**
 * Creates a ticket for the session of a call.
 * @throws SessionError TypeError
 */
export async function createTicket(
  core: Core,
  call: Call,
  options: TicketOptions,
): Promise<SessionTicket> {
  assertMembers("sessions.ticket", options, { purpose: 0, within: 0 });
  assertId("purpose", options.purpose);
  const within = durationMs("within", options.within ?? "30s", bounds);

  // 1. Load the session of the call; it must be alive.
  const { id } = presentSession(call);
  const engine = await core.engine();
  const stored = await engine.load(id);
  const record = liveOf(id, stored);
  assertCurrent(call, record);

  // 2. A ticket carries no key, so a copied token of a bound session must not get one.
  if (record.boundKey !== null && record.boundKey !== call.provenKey) {
    throw unprovenError(id, call.provenKey, await engine.nonces.mint(stored.now));
  }

  // 3. Create the ticket. Nothing is stored until it is redeemed.
  const expires = stored.now + within;
  const ticket = await engine.tickets.mint(record, { purpose: options.purpose, expires });
  return { ticket, expiresAt: new Date(expires) };
}

/** Returns the session of a ticket, once. */
export async function redeemTicket(
  core: Core,
  ticket: unknown,
  options: Pick<TicketOptions, "purpose">,
): Promise<SessionInfo> {
  assertMembers("sessions.redeemTicket", options, { purpose: 0 });
  assertId("purpose", options.purpose);
  const engine = await core.engine();
  return infoOf(core, await engine.tickets.redeem(ticket, options.purpose));
}
