import { unavailable } from "../base/errors.ts";
import type { SessionEventListener } from "../base/events.ts";
import type { JsonObject } from "../base/json.ts";
import { type AccessTokenOptions, assertTokenFits } from "./access.ts";
import { liveOf } from "./ended.ts";
import type { Feed } from "./revocation/feed.ts";
import { reach } from "./reach.ts";
import type { Device, SessionRecord, SessionStore, SessionUpdate, Stored } from "./store.ts";

/** Makes the new value of the present one; called again when somebody else was faster. */
export type Change<T> = (present: T) => T | Promise<T>;

/**
 * Changes of one session: read, changed, and written on condition that nobody wrote in between.
 * @throws SessionError `unauthorized` when there is no such live session, `unavailable`
 */
export interface Updates {
  /** @throws TypeError when the claims are not as the schema says, or too large for their transport */
  claims(id: string, change: Change<JsonObject>): Promise<Stored<SessionRecord>>;
  data(id: string, change: Change<JsonObject>): Promise<Stored<SessionRecord>>;
  device(id: string, change: Change<Device>): Promise<Stored<SessionRecord>>;
}

/** What updates are made of. */
export interface UpdatesOptions extends AccessTokenOptions {
  readonly store: SessionStore;
  readonly feed: Feed;
  readonly emit: SessionEventListener;
}

/**
 * How often a write that lost against another is tried again. Each time another one has won, so
 * this many may change one session at once.
 */
const retries = 256;

export function createUpdates(options: UpdatesOptions): Updates {
  const { feed, emit } = options;
  return {
    async claims(id, change) {
      const stored = await update(options, id, async (record) => {
        const claims = await change(record.claims);
        assertTokenFits(options, { ...record, claims });
        return { claims };
      });
      const { claimsVersion } = stored.record;
      feed.apply({ kind: "claims", session: id, claimsVersion, at: stored.now });
      emit({ type: "claimsChanged", session: id, claimsVersion });
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
  throw unavailable("an agreement with concurrent changes of the session");
}
