import { unavailable } from "../base/errors.ts";
import type { SessionEventListener } from "../base/events.ts";
import type { JsonObject } from "../base/json.ts";
import type { AccessTokens } from "./access-tokens.ts";
import { type AuditLog, changedClaims } from "./audit/log.ts";
import type { ShownLength } from "./claims.ts";
import { liveOf } from "./liveness.ts";
import { storeFailed } from "./reach.ts";
import type { RevocationLog } from "./revocation/log.ts";
import type { SessionRecord, SessionStore, SessionUpdate, Stored } from "./store.ts";

/**
 * Computes a new value from the current one. Called again with the newer value if another write got
 * in first.
 */
type RecordChange<T> = (current: T) => T | Promise<T>;

interface RecordUpdatesOptions {
  readonly store: SessionStore;
  readonly revocations: RevocationLog;
  readonly accessTokens: AccessTokens;
  readonly shownLength?: ShownLength;
  readonly emit: SessionEventListener;
  readonly audit: AuditLog | undefined;
}

/**
 * How often an update is retried after losing to another write. Another write has succeeded each
 * time, so this many requests may update one session concurrently.
 */
const retries = 256;

/**
 * Changes claims and private data with optimistic concurrency.
 *
 * Both methods throw a SessionError: `unauthorized` if the session is not live, `unavailable` if
 * the store cannot be reached or too many requests change the session at once.
 */
export class RecordUpdates {
  readonly #options: RecordUpdatesOptions;

  constructor(options: RecordUpdatesOptions) {
    this.#options = options;
  }

  /** @throws TypeError if the access token would no longer fit its transport */
  async claims(id: string, change: RecordChange<JsonObject>): Promise<Stored<SessionRecord>> {
    const { accessTokens, revocations, shownLength, emit, audit } = this.#options;
    let before: JsonObject = {};
    const stored = await this.#update(id, async (record) => {
      before = record.claims;
      const claims = await change(record.claims);
      accessTokens.assertFits({
        ...{ ...record, claims },
        shownLength: (await shownLength?.(claims)) ?? 0,
      });
      return { claims };
    });
    const { claimsVersion } = stored.record;
    revocations.apply({ kind: "claims", session: id, claimsVersion, at: stored.now });
    emit({ type: "claimsChanged", sessionId: id, claimsVersion });
    if (audit !== undefined) {
      const claims = changedClaims(before, stored.record.claims);
      const { userId, tenantId } = stored.record;
      const owner = { userId, tenantId };
      audit.add({ event: "claimsChanged", session: id, owner, detail: { claims } });
      await audit.written();
    }
    return stored;
  }

  async data(id: string, change: RecordChange<JsonObject>): Promise<Stored<SessionRecord>> {
    const stored = await this.#update(id, async (record) => ({ data: await change(record.data) }));
    this.#options.emit({ type: "dataChanged", sessionId: id, version: stored.record.version });
    return stored;
  }

  async #update(
    id: string,
    change: (record: SessionRecord) => Promise<Omit<SessionUpdate, "id" | "version">>,
  ): Promise<Stored<SessionRecord>> {
    const { store } = this.#options;
    for (let attempt = 0; attempt <= retries; attempt++) {
      const record = liveOf(id, await store.load(id).catch(storeFailed));
      const next = await change(record);
      const written = await store
        .update({ ...next, id, version: record.version })
        .catch(storeFailed);
      if (written.record !== undefined) {
        return { record: written.record, now: written.now };
      }
    }
    throw unavailable("too many requests are changing this session at once; try again");
  }
}
