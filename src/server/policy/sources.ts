import { inTime } from "../../base/clock.ts";
import { SessionError, unavailable } from "../../base/errors.ts";
import type { JsonObject } from "../../base/json.ts";
import { noTelemetry } from "../../base/telemetry.ts";
import { claimSetAt } from "../../engine/claims.ts";
import type { SessionRecord, Stored } from "../../engine/store.ts";
import type { TokenClaims } from "../../jwt/claims.ts";
import { within } from "../authenticate/authenticate.ts";
import type { Call } from "../call/call.ts";
import type { ClaimRenewal, Core, VerifyingCore } from "../core.ts";
import { writeReissued } from "../response/tokens.ts";
import { updateClaims } from "../session/edits.ts";
import type { ClaimDemand } from "./rules.ts";
import type { ClaimSubject, ReadSource, ReadSources } from "./source-options.ts";

/** Milliseconds for which a source that has failed is not asked again for the same session. */
const pause = 1_000;
/** Failures that are remembered. */
const maxPauses = 10_000;

type Fetched = Stored<SessionRecord>;

/** What is known of a session whose claims are too old. */
type Aged = Pick<ClaimSubject, "id" | "userId" | "tenantId"> & {
  /** Its claims with their ages. */
  readonly claims: JsonObject;
};

/** Fetches the claims of sessions that have become too old. */
export class ClaimSources implements ClaimRenewal {
  readonly #core: Core;
  readonly #sources: ReadSources;
  /** The fetches under way, by claim and session. */
  readonly #running = new Map<string, Promise<Fetched>>();
  /** The failures of the last second, with the monotonic time at which each ends. */
  readonly #failed = new Map<string, { readonly error: SessionError; readonly until: number }>();

  constructor(core: Core) {
    this.#core = core;
    this.#sources = core.claimSources;
  }

  has(claim: string): boolean {
    return this.#sources.has(claim);
  }

  renew(
    call: Call,
    token: TokenClaims,
    demands: readonly ClaimDemand[],
    signal: AbortSignal | undefined,
  ): Promise<TokenClaims> | undefined {
    const old = this.#oldIn(token.claims, demands);
    return old && this.#renew(call, token, { old, signal });
  }

  async #renew(
    call: Call,
    token: TokenClaims,
    { old, signal }: { readonly old: readonly string[]; readonly signal: AbortSignal | undefined },
  ): Promise<TokenClaims> {
    // 1. Fetch them, with all other calls of the session that wait for them.
    const { sid: id, sub: userId, tid: tenantId, claims } = token;
    const stored = await within(signal, this.#fetchAll({ id, userId, tenantId, claims }, old));
    if (stored === undefined) {
      return token;
    }

    // 2. Sign an access token with what was fetched, and send it, whatever becomes of the call.
    const core: VerifyingCore = this.#core;
    const engine = await core.engine();
    const reissued = await engine.reissueFrom(token, stored);
    if (reissued === undefined) {
      const { claims: newest, claimsVersion: cv } = stored.record;
      return { ...token, cv, claims: newest };
    }
    // The response to a GET may be cached, so it carries no token.
    if (call.requestMethod !== "GET" && !call.committed) {
      await writeReissued(core, call, reissued);
    }
    return reissued.access.claims;
  }

  async renewRecord(
    record: SessionRecord,
    demands: readonly ClaimDemand[],
  ): Promise<SessionRecord | undefined> {
    const old = this.#oldIn(record.claims, demands);
    const { id, userId, claims } = record;
    const tenantId = record.tenantId ?? undefined;
    return old && (await this.#fetchAll({ id, userId, tenantId, claims }, old))?.record;
  }

  #oldIn(claims: JsonObject, demands: readonly ClaimDemand[]): readonly string[] | undefined {
    if (this.#sources.size === 0) {
      return undefined;
    }
    let old: string[] | undefined;
    for (const { claim, maxAge = Number.POSITIVE_INFINITY } of demands) {
      const source = this.#sources.get(claim);
      if (source === undefined) {
        continue;
      }
      const setAt = claimSetAt(claims, claim) ?? Number.NEGATIVE_INFINITY;
      if (this.#core.revocations.storeNow() - setAt >= Math.min(source.maxAge, maxAge)) {
        old = [...(old ?? []), claim];
      }
    }
    return old;
  }

  /** Resolves to the newest record that a fetch has written; undefined if old values serve. */
  async #fetchAll(subject: Aged, old: readonly string[]): Promise<Fetched | undefined> {
    const fetched = await Promise.all(
      old.map(async (claim) => {
        try {
          return await this.#once(subject, claim);
        } catch (error) {
          const mayServe =
            this.#sources.get(claim)?.onError === "stale" && Object.hasOwn(subject.claims, claim);
          if (mayServe && error instanceof SessionError && error.kind === "unavailable") {
            return undefined;
          }
          throw error;
        }
      }),
    );
    return fetched.reduce(
      (a, b) => ((b?.record.version ?? -1) > (a?.record.version ?? -1) ? b : a),
      undefined,
    );
  }

  /** Fetches a claim, or waits for the fetch under way. A failure counts for a second. */
  #once(subject: Aged, claim: string): Promise<Fetched> {
    const key = `${subject.id} ${claim}`;
    const failed = this.#failed.get(key);
    if (failed !== undefined && this.#core.clock.monotonic() < failed.until) {
      return Promise.reject(failed.error);
    }
    let running = this.#running.get(key);
    if (running === undefined) {
      running = this.#core.operations
        .run(() => this.#fetch(subject, claim))
        .finally(() => this.#running.delete(key));
      this.#running.set(key, running);
    }
    return running;
  }

  async #fetch(subject: Aged, claim: string): Promise<Fetched> {
    const { clock, claims, revocations, telemetry = noTelemetry } = this.#core;
    const source = this.#sources.get(claim) as ReadSource;

    // 1. Ask the source, within its time. What it says is as old as the question.
    const askedAt = revocations.storeNow();
    const session = { ...subject, claims: await claims.read(subject.claims) };
    const controller = new AbortController();
    const late = () => {
      controller.abort();
      return new Error(`the source has not answered within ${source.within} ms`);
    };
    let value: unknown;
    try {
      const asked = async () => source.fetch(session, { signal: controller.signal });
      const facts = () => ({ source: claim, sessionId: subject.id, userId: subject.userId });
      value = await telemetry.run({ name: "sourceFetch", facts }, () =>
        inTime(asked(), { clock, ms: source.within, keepAlive: true, late }),
      );
    } catch (cause) {
      throw this.#fails(`${subject.id} ${claim}`, { claim, sessionId: subject.id, cause });
    }

    // 2. Write it as `updateClaims` does: the change log takes it to every server. What was set since the
    // question is newer than the answer, and stays.
    try {
      return await updateClaims(this.#core, subject.id, { [claim]: value as never }, askedAt);
    } catch (error) {
      if (error instanceof SessionError) {
        throw error;
      }
      // It does not fit the schema or the token. Neither the caller nor an outage is to blame.
      const message = `the source of the claim "${claim}" returned a value that cannot be a claim`;
      throw new SessionError("general", "INTERNAL", { message, cause: error });
    }
  }

  #fails(
    key: string,
    { claim, sessionId, cause }: { claim: string; sessionId: string; cause: unknown },
  ): SessionError {
    const error = unavailable(
      `the source of the claim "${claim}" is not available; try again`,
      cause,
      pause,
    );
    this.#failed.delete(key);
    this.#failed.set(key, { error, until: this.#core.clock.monotonic() + pause });
    for (const oldest of this.#failed.keys()) {
      if (this.#failed.size <= maxPauses) {
        break;
      }
      this.#failed.delete(oldest);
    }
    this.#core.emit({ type: "claimSourceFailed", claim, sessionId, error });
    return error;
  }
}
