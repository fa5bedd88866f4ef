import { unavailable } from "../base/errors.ts";
import type { SessionEventListener } from "../base/events.ts";
import type { JsonObject } from "../base/json.ts";
import { type AccessTokenOptions, assertTokenFits } from "./access-tokens.ts";
import { isLive, liveOf } from "./liveness.ts";
import { reach } from "./reach.ts";
import type { RevocationLog } from "./revocation/log.ts";
import type {
  Device,
  EndedBy,
  RevokeScope,
  SessionOwner,
  SessionPage,
  SessionRecord,
  SessionStore,
  SessionUpdate,
  Stored,
} from "./store.ts";

/** Sessions by id, by user and by tenant. Rejects with SessionError `unavailable` alone. */
export interface Directory {
  /** A live session; undefined when there is none. */
  find(id: string): Promise<Stored<SessionRecord> | undefined>;
  list(owner: SessionOwner, page: PageRequest): Promise<SessionPage>;
  /** Ends sessions; resolves to the ids of those that this call ended. */
  revokeAll(scope: RevokeScope, endedBy: EndedBy): Promise<readonly string[]>;
}

/** Which part of a list. */
export interface PageRequest {
  readonly cursor: string | undefined;
  readonly limit: number;
}

/** What a directory is made of. */
export interface DirectoryOptions {
  readonly store: SessionStore;
  readonly revocations: RevocationLog;
  readonly emit: SessionEventListener;
}

export function createDirectory({ store, revocations, emit }: DirectoryOptions): Directory {
  return {
    async find(id) {
      const stored = await reach(store.load(id));
      return isLive(stored) ? stored : undefined;
    },
    list: (owner, page) => reach(store.list(owner, page)),
    async revokeAll(scope, endedBy) {
      const { revoked, now } = await reach(store.revokeAll(scope, endedBy));
      for (const session of revoked) {
        revocations.apply({ kind: "revoked", session, endedBy, at: now });
        emit({ type: "revoked", sessionId: session, endedBy });
      }
      return revoked;
    },
  };
}

/** Makes the new value of the present one; called again when somebody else was faster. */
export type RecordChange<T> = (present: T) => T | Promise<T>;

/**
 * Changes of one session: read, changed, and written on condition that nobody wrote in between.
 * @throws SessionError `unauthorized` when there is no such live session, `unavailable`
 */
export interface Updates {
  /** @throws TypeError when the claims are not as the schema says, or too large for their transport */
  claims(id: string, change: RecordChange<JsonObject>): Promise<Stored<SessionRecord>>;
  data(id: string, change: RecordChange<JsonObject>): Promise<Stored<SessionRecord>>;
  device(id: string, change: RecordChange<Device>): Promise<Stored<SessionRecord>>;
}

/** What updates are made of. */
export interface UpdatesOptions extends AccessTokenOptions {
  readonly store: SessionStore;
  readonly revocations: RevocationLog;
  readonly emit: SessionEventListener;
}

/**
 * How often a write that lost against another is tried again. Each time another one has won, so
 * this many may change one session at once.
 */
const retries = 256;

export function createUpdates(options: UpdatesOptions): Updates {
  const { revocations, emit } = options;
  return {
    async claims(id, change) {
      const stored = await update(options, id, async (record) => {
        const claims = await change(record.claims);
        assertTokenFits(options, { ...record, claims });
        return { claims };
      });
      const { claimsVersion } = stored.record;
      revocations.apply({ kind: "claims", session: id, claimsVersion, at: stored.now });
      emit({ type: "claimsChanged", sessionId: id, claimsVersion });
      return stored;
    },
    data: (id, change) =>
      update(options, id, async (record) => ({ data: await change(record.data) })),
    device: (id, change) =>
      update(options, id, async (record) => ({ device: await change(record.device) })),
  };
}

async function update(
  { store }: UpdatesOptions,
  id: string,
  change: (record: SessionRecord) => Promise<Omit<SessionUpdate, "id" | "version">>,
): Promise<Stored<SessionRecord>> {
  for (let attempt = 0; attempt <= retries; attempt++) {
    const { version, ...record } = liveOf(id, await reach(store.load(id)));
    const next = await change({ version, ...record });
    const written = await reach(store.update({ ...next, id, version }));
    if (written.record !== undefined) {
      return { record: written.record, now: written.now };
    }
  }
  throw unavailable("too many requests are changing this session at once; try again");
}
