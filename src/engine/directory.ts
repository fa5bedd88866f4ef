import type { SessionEventListener } from "../base/events.ts";
import { isLive } from "./ended.ts";
import type { Feed } from "./revocation/feed.ts";
import { reach } from "./reach.ts";
import type {
  EndedBy,
  RevokeScope,
  SessionOwner,
  SessionPage,
  SessionRecord,
  SessionStore,
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
  readonly feed: Feed;
  readonly emit: SessionEventListener;
}

export function createDirectory({ store, feed, emit }: DirectoryOptions): Directory {
  return {
    async find(id) {
      const stored = await reach(store.load(id));
      return isLive(stored) ? stored : undefined;
    },
    list: (owner, page) => reach(store.list(owner, page)),
    async revokeAll(scope, endedBy) {
      const { revoked, now } = await reach(store.revokeAll(scope, endedBy));
      for (const session of revoked) {
        feed.apply({ kind: "revoked", session, endedBy, at: now });
        emit({ type: "revoked", session, endedBy });
      }
      return revoked;
    },
  };
}
