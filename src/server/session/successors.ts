import { assertId, assertMembers, type Duration, durationMs } from "../../base/checks.ts";
import { SessionError } from "../../base/errors.ts";
import type { TokenTransport } from "../../base/wire.ts";
import type { Created, Creation } from "../../engine/create.ts";
import { type OwnLifetimes, readOwnLifetimes, type SessionLife } from "../../engine/lifetimes.ts";
import { liveOf } from "../../engine/liveness.ts";
import { hasToBeBound } from "../../engine/refresh/token.ts";
import type { Session } from "../../engine/session.ts";
import type { SessionRecord } from "../../engine/store.ts";
import { type Call, endOwn } from "../call/call.ts";
import type { ClientContext } from "../call/exchange.ts";
import type { Core } from "../core.ts";
import { assertStepUp } from "../policy/demands.ts";
import { type AuthenticationOptions, readAuthentication } from "./authentication.ts";
import { presentSession } from "./handle.ts";
import {
  assertNotCommitted,
  deviceOf,
  enterCreated,
  readBoundKey,
  readTransport,
  writeCreated,
} from "./sign-in.ts";

/** Options of `fork`. */
export interface ForkOptions {
  /** The user's name for the second token holder, at most 255 characters. Default none. */
  readonly label?: string;
  /** Lifetimes shorter than those of the session it comes from. Default: the same. */
  readonly lifetimes?: OwnLifetimes;
  /** How its tokens will travel. Default "header". */
  readonly transport?: TokenTransport;
  /**
   * How long ago the user may have authenticated, by the store. Otherwise a stolen access token could
   * make itself a session that lasts. "any" allows that. Default "15m".
   */
  readonly freshWithin?: Duration | "any";
  /**
   * The thumbprint of the second holder's key (RFC 7638, SHA-256, base64url), if the session is bound to
   * a key. The call must prove the key of the session itself. Default: that key.
   */
  readonly boundKey?: string | undefined;
}

/** How many forks may lie between a session and the sign-in that it comes from. */
const maxForks = 8;

/**
 * Replaces the session after its user has authenticated again: a new id, new tokens in the response
 * of the call, and `authTime` set to now. The former session ends in the same transaction (ASVS
 * 7.2.4). `acr` and `amr` are those of this authentication, and not inherited.
 * @throws SessionError TypeError
 */
export async function reauthenticate(
  core: Core,
  call: Call,
  context: ClientContext,
  options: AuthenticationOptions,
): Promise<Session> {
  // 1. Check the options, and that the response can still carry the new tokens.
  const authentication = readAuthentication(options);
  assertNotCommitted(call, "sessions.reauthenticate");

  // 2. Load the session of the call; it must be alive.
  const { id } = presentSession(call);
  const engine = await core.engine();
  const record = liveOf(id, await engine.load(id));
  assertCurrent(call, record);

  // 3. Create its successor. The session ends in the same transaction.
  const creation: Creation = {
    ...inheritedFrom(record),
    authentication,
    device: { ...record.device, ...deviceOf(core, context) },
    transport: record.transport,
    life: lifeOf(core, record),
    replaces: id,
    from: { ...originOf(record), authTime: null, endsBy: null },
    boundKey: record.boundKey,
    provenKey: call.provenKey,
  };
  const created = await endOwn(call, () => engine.creator.create(creation));

  // 4. Write its tokens. From now on it is the session of this call.
  await writeCreated(core, call, engine, created);
  return enterCreated(core, call, created);
}

/**
 * Creates a second session of the same user for a second token holder. If two holders shared one
 * session, reuse detection would revoke it. The new session has the same claims and data and ends no
 * later. It also ends if reuse detection ends the session that it comes from.
 * @throws SessionError TypeError
 */
export async function fork(core: Core, call: Call, options: ForkOptions): Promise<Created> {
  // 1. Check the options.
  assertMembers("sessions.fork", options, optionNames);
  const { label, lifetimes: own = {}, freshWithin = "15m" } = options;
  const transport = readTransport(options.transport);
  const ownKey = readBoundKey(options.boundKey, transport);
  if (label !== undefined) {
    assertId("label", label);
  }
  const within = freshWithin === "any" ? undefined : durationMs("freshWithin", freshWithin);

  // 2. Load the session of the call; it must be alive.
  const { id } = presentSession(call);
  const engine = await core.engine();
  const record = liveOf(id, await engine.load(id));
  assertCurrent(call, record);

  // 3. The user must have authenticated recently, and forks of forks must end somewhere.
  if (within !== undefined) {
    assertStepUp(
      core,
      { sessionId: id, authTime: record.authTime },
      { freshWithin: within, acr: [] },
    );
  }
  const origin = originOf(record);
  if (origin.lineage.split(".").length > maxForks) {
    throw new SessionError("forbidden", "SESSION_LIMIT", {
      message: `the session is a fork of a fork, ${maxForks} deep, which is the limit; sign in instead`,
      sessionId: id,
    });
  }

  // 4. Create the second session. Nothing is written to the response.
  return engine.creator.create({
    ...inheritedFrom(record),
    authentication: record.authentication,
    device: label === undefined ? {} : { label },
    transport,
    life: lifeOf(core, record, own),
    replaces: null,
    from: { ...origin, authTime: record.authTime, endsBy: record.expiresAt },
    boundKey: ownKey ?? record.boundKey,
    provenKey: call.provenKey,
  });
}

const optionNames: Readonly<Record<keyof ForkOptions, 0>> = {
  ...{ label: 0, lifetimes: 0, transport: 0, freshWithin: 0, boundKey: 0 },
};

/**
 * A new session, or a ticket, comes from the row, never from what a token says: whoever has the signing
 * key can say anything. So the token must be of the present generation of the row, or of the one before,
 * whose holder may not have used the new tokens yet.
 * @throws SessionError `tryRefreshToken`
 */
export function assertCurrent({ generation = -1 }: Call, record: SessionRecord): void {
  if (generation !== record.generation && generation !== record.generation - 1) {
    throw new SessionError("tryRefreshToken", "TOKEN_EXPIRED", {
      message:
        "the access token is older than the present tokens of its session; refresh the session and try again",
      sessionId: record.id,
    });
  }
}

function originOf(record: SessionRecord) {
  const { id, lineage, version, boundKey, transport } = record;
  const mustBind = hasToBeBound(record);
  return { session: id, lineage: lineage ?? id, version, boundKey, mustBind, transport };
}

function inheritedFrom({ userId, tenantId, claims, data, externalId }: SessionRecord) {
  return { userId, tenantId, claims, data, externalId };
}

/** Returns the lifetimes of a successor: never longer than those of the session it comes from. */
function lifeOf({ lifetimes }: Core, record: SessionRecord, own: OwnLifetimes = {}): SessionLife {
  const { accessLife, idleLife } = record;
  const limits = {
    ...lifetimes,
    access: Math.min(lifetimes.access, accessLife ?? Infinity),
    idle: Math.min(lifetimes.idle, idleLife ?? Infinity),
    absolute: Math.min(lifetimes.absolute, record.expiresAt - record.createdAt),
  };
  const life = readOwnLifetimes(limits, own);
  return {
    accessLife: life.accessLife ?? accessLife,
    idleLife: life.idleLife ?? idleLife,
    absolute: life.absolute,
  };
}
