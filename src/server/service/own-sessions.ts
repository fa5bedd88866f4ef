import { create } from "@bufbuild/protobuf";
import { DurationSchema, timestampFromMs } from "@bufbuild/protobuf/wkt";
import {
  type ListSessionsRequest,
  type SessionInfo,
  SessionInfoSchema,
} from "../../../gen/rpcsession/v1/service_pb.ts";
import { liveOf } from "../../engine/ended.ts";
import type { Session } from "../../engine/session.ts";
import type { SessionOwner, SessionRecord, Stored } from "../../engine/store.ts";
import type { Core } from "../core.ts";
import { isPageToken, mayBeSession } from "../session/directory.ts";
import { claimsForClient } from "../response/respond.ts";

// What SessionService answers a caller about the sessions of the same user. Whatever check the methods
// have, a caller whose session has ended learns and ends nothing.

/** The caller's session, as the store knows it. */
export async function describeOwn(core: Core, session: Session): Promise<SessionInfo> {
  const engine = await core.engine();
  const stored = await engine.load(session.id);
  const record = liveOf(session.id, stored);
  return describeCurrent(core, { record, now: stored.now }, session.accessExpiresAt.getTime());
}

/** @param accessExpiresAt milliseconds since 1970 */
export async function describeCurrent(
  core: Core,
  { record, now }: Stored<SessionRecord>,
  accessExpiresAt: number,
): Promise<SessionInfo> {
  const left = Math.max(0, accessExpiresAt - now);
  const info = await describe(core, record);
  info.current = true;
  info.accessExpiresIn = create(DurationSchema, {
    seconds: BigInt(Math.floor(left / 1000)),
    nanos: (left % 1000) * 1_000_000,
  });
  return info;
}

/** A page of the sessions of the caller's user. A page token that is none gives the first page. */
export async function listSessions(
  core: Core,
  session: Session,
  { pageSize, pageToken }: ListSessionsRequest,
): Promise<{ sessions: SessionInfo[]; nextPageToken: string }> {
  const engine = await core.engine();
  liveOf(session.id, await engine.load(session.id));
  const page = await engine.list(ownerOf(session), {
    cursor: isPageToken(pageToken) ? pageToken : undefined,
    limit: pageSize > 0 ? Math.min(pageSize, maxPage) : defaultPage,
  });
  const sessions = await Promise.all(
    page.records.map(async (record) => {
      const info = await describe(core, record);
      info.current = record.id === session.id;
      return info;
    }),
  );
  return { sessions, nextPageToken: page.cursor ?? "" };
}

/** Ends a session of the caller's user; false when there is no such live session of theirs. */
export async function revokeSession(core: Core, session: Session, id: string): Promise<boolean> {
  if (id === session.id) {
    await session.revoke();
    return true;
  }
  if (id === "" || !mayBeSession(id)) {
    return false;
  }
  const engine = await core.engine();
  liveOf(session.id, await engine.load(session.id));
  const found = await engine.find(id);
  const { userId, tenantId } = ownerOf(session);
  const theirs =
    found !== undefined &&
    found.record.userId === userId &&
    (tenantId === null || found.record.tenantId === tenantId);
  return theirs && engine.revoke(id, "revoked");
}

const defaultPage = 50;
const maxPage = 200;

/** Ids of users may repeat between tenants, so a session of a tenant sees that tenant alone. */
function ownerOf({ userId, tenantId }: Session): SessionOwner & { readonly userId: string } {
  return { userId, tenantId: tenantId ?? null };
}

async function describe(core: Core, record: SessionRecord): Promise<SessionInfo> {
  const claims = await claimsForClient(core, record);
  const { userAgent = "", ip = "", label = "" } = record.device;
  return create(SessionInfoSchema, {
    id: record.id,
    userId: record.userId,
    createdAt: timestampFromMs(record.createdAt),
    authenticatedAt: timestampFromMs(record.authTime),
    idleExpiresAt: timestampFromMs(record.idleExpiresAt),
    expiresAt: timestampFromMs(record.expiresAt),
    lastSeenAt: timestampFromMs(record.lastSeenAt),
    tenantId: record.tenantId ?? "",
    device: { userAgent, ip, label },
    ...(claims === undefined ? {} : { claims: { ...claims } as StructInput }),
  });
}

/** Mutable, as the generated type has it. */
type StructInput = NonNullable<SessionInfo["claims"]>;
