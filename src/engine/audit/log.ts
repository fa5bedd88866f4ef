import { assertMembers, type Duration, durationMs } from "../../base/checks.ts";
import type { Clock } from "../../base/clock.ts";
import { randomId } from "../../base/crypto.ts";
import { unavailable } from "../../base/errors.ts";
import type { EndedBy, SessionEventListener } from "../../base/events.ts";
import type { JsonObject } from "../../base/json.ts";
import type {
  AuditDetail,
  AuditEvent,
  AuditedUser,
  NewAuditEntry,
  SessionStore,
} from "../store.ts";

/** The option `auditLog`. */
export interface AuditLogOptions {
  /** For how long each entry is kept, from "1h" to "3660d". Default "90d". */
  readonly keep?: Duration;
  /**
   * Whether refreshes are recorded: an entry for each session and access token lifetime. Default true.
   */
  readonly refreshes?: boolean;
}

/** Who ends a session, and why: for the audit log and the event `revoked`. Clients do not receive it. */
export interface RevokeCause {
  /** Who does it, such as "admin:7". 1 to 255 characters. */
  readonly by?: string;
  /** Why, such as "laptop reported as stolen". 1 to 1000 characters. Must not contain secrets. */
  readonly reason?: string;
}

/** The same, and the session that does it. */
export interface EndCause extends RevokeCause {
  /** The session that did it. */
  readonly from?: string | undefined;
}

/** What happened to a session. */
export interface Audited {
  readonly event: AuditEvent;
  readonly session: string;
  /** Undefined if it is not known without a read. */
  readonly owner?: { readonly userId: string; readonly tenantId: string | null } | undefined;
  readonly detail?: AuditDetail;
}

interface AuditLogParts {
  readonly store: SessionStore;
  readonly clock: Clock;
  readonly emit: SessionEventListener;
  /** Milliseconds. */
  readonly keep: number;
  readonly refreshes: boolean;
}

/** Entries in one write. */
const batchMax = 500;
/** Entries that wait while the store cannot be written; the oldest are dropped beyond that. */
const waitingMax = 50_000;
/** Milliseconds for which entries that nobody waits for are gathered. */
const gatherFor = 1_000;
/** Milliseconds until a write that failed is repeated. */
const againAfter = 1_000;

/**
 * Records in the store what happens to sessions. Entries that come at the same time are written together,
 * and a write that failed is repeated: the store knows an entry by its id, so none is doubled.
 */
export class AuditLog {
  readonly #parts: AuditLogParts;
  #waiting: Waiting[] = [];
  /** How many entries were added, and how many of them were written or dropped. */
  #added = 0;
  #done = 0;
  #writing: Promise<void> | undefined;
  #cancelTimer: (() => void) | undefined;
  /** Since the last write failed. Calls do not wait then; the timer tries again. */
  #isFailing = false;
  #isClosed = false;

  constructor(parts: AuditLogParts) {
    this.#parts = parts;
  }

  /** Records an event. It is written within about a second, or by `written`. */
  add({ event, session, owner, detail = {} }: Audited): void {
    if (event === "refreshed" && !this.#parts.refreshes) {
      return;
    }
    const { userId = null, tenantId = null } = owner ?? {};
    const at = this.#parts.clock.monotonic();
    this.#waiting.push({ id: randomId(16), event, session, userId, tenantId, detail, at });
    this.#added += 1;
    this.#dropSurplus();
    this.#writeAfter(gatherFor);
  }

  /** Records the ends of sessions, of which there may be many. Resolves as `written` does. */
  async ended(
    sessions: readonly string[],
    { owner, endedBy, cause = {} }: Pick<Audited, "owner"> & { endedBy: EndedBy; cause?: EndCause },
  ): Promise<void> {
    const { by, reason, from } = cause;
    const detail: AuditDetail = {
      endedBy,
      ...(by === undefined ? {} : { by }),
      ...(reason === undefined ? {} : { reason }),
      ...(from === undefined ? {} : { from }),
    };
    for (let start = 0; start < sessions.length; start += batchMax) {
      for (const session of sessions.slice(start, start + batchMax)) {
        this.add({ event: "ended", session, owner, detail });
      }
      await this.written();
    }
  }

  /**
   * Writes what was added before. Never rejects: what it records has happened, whether the log can be
   * written or not. Entries that could not be written are written later.
   */
  async written(): Promise<void> {
    // Calls that go on adding entries must not make this one wait for ever.
    const mine = this.#added;
    while (this.#done < mine && !this.#isFailing) {
      this.#writing ??= this.#write();
      await this.#writing;
    }
  }

  /** Writes what waits for the last time. */
  async close(): Promise<void> {
    this.#isClosed = true;
    await this.flush();
    this.#cancelTimer?.();
    if (this.#waiting.length > 0) {
      this.#lost();
    }
  }

  /** As `written`, but also tries if the last write failed. */
  async flush(): Promise<void> {
    this.#isFailing = false;
    await this.written();
  }

  /** Drops what could not be written yet about a user. */
  async forget({ userId, tenantId }: AuditedUser): Promise<void> {
    await this.flush();
    const others = this.#waiting.filter(
      (entry) => entry.userId !== userId || (tenantId !== null && entry.tenantId !== tenantId),
    );
    this.#done += this.#waiting.length - others.length;
    this.#waiting = others;
  }

  async #write(): Promise<void> {
    const { store, clock, keep, emit } = this.#parts;
    this.#cancelTimer?.();
    this.#cancelTimer = undefined;
    const batch = this.#waiting.splice(0, batchMax);
    const now = clock.monotonic();
    const entries = batch.map(({ at, ...entry }): NewAuditEntry => {
      return { ...entry, age: now - at, keep };
    });
    try {
      await store.appendAudit?.(entries);
      this.#done += batch.length;
    } catch (cause) {
      this.#isFailing = true;
      const error = unavailable("the audit log could not be written; it is tried again", cause);
      emit({ type: "failed", procedure: undefined, error });
      this.#waiting.unshift(...batch);
      this.#dropSurplus();
      this.#writeAfter(againAfter);
    } finally {
      this.#writing = undefined;
    }
  }

  #writeAfter(ms: number): void {
    if (this.#isClosed) {
      return;
    }
    this.#cancelTimer ??= this.#parts.clock.after(ms, () => {
      this.#cancelTimer = undefined;
      void this.flush();
    });
  }

  #dropSurplus(): void {
    const surplus = this.#waiting.length - waitingMax;
    if (surplus > 0) {
      this.#waiting.splice(0, surplus);
      this.#done += surplus;
      this.#lost();
    }
  }

  #lost(): void {
    const error = unavailable(
      "entries of the audit log are lost, because the store could not be written for too long",
    );
    this.#parts.emit({ type: "failed", procedure: undefined, error });
  }
}

type Waiting = Omit<NewAuditEntry, "age" | "keep"> & { readonly at: number };

/**
 * Creates the audit log of an instance; undefined without the option.
 * @throws TypeError for an invalid option, or if the store has no audit log
 */
export function createAuditLog(
  options: AuditLogOptions | undefined,
  parts: Pick<AuditLogParts, "store" | "clock" | "emit">,
): AuditLog | undefined {
  if (options === undefined) {
    return undefined;
  }
  assertMembers("auditLog", options, { keep: 0, refreshes: 0 });
  const { keep = "90d", refreshes = true } = options;
  if (typeof refreshes !== "boolean") {
    throw new TypeError(`auditLog.refreshes must be true or false, got ${typeof refreshes}`);
  }
  const bounds = { min: 3_600_000, max: 3_660 * 86_400_000 };
  const ms = durationMs("auditLog.keep", keep, bounds);
  if (parts.store.appendAudit === undefined) {
    throw new TypeError(
      `auditLog is set, but ${parts.store.name} has no audit log; remove the option or use another store`,
    );
  }
  return new AuditLog({ ...parts, keep: ms, refreshes });
}

/** Names in one entry. */
const namesMax = 50;

/** The names of the claims that have another value, as the audit log keeps them: never the values. */
export function changedClaims(before: JsonObject, after: JsonObject): readonly string[] {
  const names = new Set([...Object.keys(before), ...Object.keys(after)]);
  return [...names]
    .filter((name) => JSON.stringify(before[name]) !== JSON.stringify(after[name]))
    .map((name) => name.slice(0, 255).toWellFormed())
    .slice(0, namesMax);
}

/**
 * Reads who ends a session, and why.
 * @throws TypeError if a member is unknown, empty or too long
 */
export function readCause(method: string, given: RevokeCause | undefined): RevokeCause {
  if (given === undefined) {
    return {};
  }
  assertMembers(method, given, { by: 0, reason: 0 });
  for (const [name, max] of [
    ["by", 255],
    ["reason", 1_000],
  ] as const) {
    const value: unknown = given[name];
    const isText = typeof value === "string" && value !== "" && value.length <= max;
    if (value !== undefined && !(isText && value.isWellFormed())) {
      throw new TypeError(`${method}: ${name} must be a text of 1 to ${max} characters`);
    }
  }
  return given;
}
