import type { HandlerContext } from "@connectrpc/connect";
import type { TokenTransport } from "../../base/wire.ts";
import type { Created, Creation } from "../../engine/create.ts";
import { type OwnLifetimes, readOwnLifetimes, type SessionLife } from "../../engine/lifetimes.ts";
import { liveOf } from "../../engine/liveness.ts";
import type { Session, VerifiedSession } from "../../engine/session.ts";
import type { SessionRecord } from "../../engine/store.ts";
import { type Call, endOwn } from "../call/call.ts";
import type { Core } from "../core.ts";
import { sessionMissing } from "../response/errors.ts";
import { assertId, assertNotCommitted, deviceOf, enterCreated, readTransport } from "./sign-in.ts";

/** How `fork` makes a second session. */
export interface ForkOptions {
  /** What the user calls the second holder, at most 255 characters. Default none. */
  readonly label?: string;
  /** A shorter life than that of the session it comes from. */
  readonly lifetimes?: OwnLifetimes;
  /** How its tokens will travel. Default "header". */
  readonly transport?: TokenTransport;
}

/**
 * Begins the session anew after its user has proven again who they are: another id, new tokens in
 * the response of the call, `authTime` now; the former one ends in the same transaction (ASVS 7.2.4).
 * @throws SessionError TypeError
 */
export async function reauthenticate(
  core: Core,
  call: Call,
  context: HandlerContext,
): Promise<Session> {
  assertNotCommitted(call, "sessions.reauthenticate");
  const { id } = presentOf(call);
  const engine = await core.engine();
  const record = liveOf(id, await engine.load(id));
  const creation: Creation = {
    ...inheritedBy(record),
    device: { ...record.device, ...deviceOf(core, context) },
    transport: record.transport,
    life: lifeOf(core, record),
    replaces: id,
    from: { session: id, version: record.version, authTime: null, endsBy: null },
  };
  const created = await endOwn(call, () => engine.create(creation));
  return enterCreated(core, call, created);
}

/**
 * Begins a second session of the same user, for a second holder of tokens: two that share one end in
 * theft. It says what the first one says, and ends no later; ending one leaves the other alone.
 * @throws SessionError TypeError
 */
export async function fork(core: Core, call: Call, options: ForkOptions): Promise<Created> {
  const { id } = presentOf(call);
  const engine = await core.engine();
  const record = liveOf(id, await engine.load(id));
  const { label, lifetimes: own = {} } = options;
  if (label !== undefined) {
    assertId("label", label);
  }
  return engine.create({
    ...inheritedBy(record),
    device: label === undefined ? {} : { label },
    transport: readTransport(options.transport),
    life: lifeOf(core, record, own),
    replaces: null,
    from: {
      session: id,
      version: record.version,
      authTime: record.authTime,
      endsBy: record.expiresAt,
    },
  });
}

function presentOf({ session }: Call): VerifiedSession {
  if (session === undefined) {
    throw sessionMissing();
  }
  return session;
}

function inheritedBy({ userId, tenantId, claims, data }: SessionRecord) {
  return { userId, tenantId, claims, data };
}

/** The life of a session that comes from another one: no longer than that one's. */
function lifeOf({ lifetimes }: Core, record: SessionRecord, own: OwnLifetimes = {}): SessionLife {
  const { accessLife, idleLife } = record;
  const most = {
    ...lifetimes,
    access: Math.min(lifetimes.access, accessLife ?? Infinity),
    idle: Math.min(lifetimes.idle, idleLife ?? Infinity),
    absolute: Math.min(lifetimes.absolute, record.expiresAt - record.createdAt),
  };
  const life = readOwnLifetimes(most, own);
  return {
    accessLife: life.accessLife ?? accessLife,
    idleLife: life.idleLife ?? idleLife,
    absolute: life.absolute,
  };
}
