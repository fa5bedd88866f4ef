import type { Clock } from "../../base/clock.ts";
import type { SecretRing } from "../../base/crypto.ts";
import { SessionError, unavailable } from "../../base/errors.ts";
import type { SessionEventListener } from "../../base/events.ts";
import { noTelemetry, type SessionTelemetry } from "../../base/telemetry.ts";
import type { AccessToken, AccessTokens } from "../access-tokens.ts";
import type { AuditLog } from "../audit/log.ts";
import type { Lifetimes } from "../lifetimes.ts";
import { endedError, expiredError, isLive } from "../liveness.ts";
import { storeFailed } from "../reach.ts";
import type { RevocationLog } from "../revocation/log.ts";
import type {
  Advanced,
  EndedEntry,
  RefreshWrite,
  SessionRecord,
  SessionStore,
  Stored,
  TokenProof,
} from "../store.ts";
import type { Nonces } from "./nonces.ts";
import {
  decideRefresh,
  isInTime,
  neededAge,
  type RefreshDecision,
  type RefreshRule,
} from "./rule.ts";
import { SharedAnswers } from "./shared-answers.ts";
import {
  type CheckedRefreshToken,
  hasToBeBound,
  type NextToken,
  type PresentedRefreshToken,
  type ProvenRefreshToken,
  type RefreshTokens,
} from "./token.ts";

/** The answer to a refresh. */
export interface Refreshed {
  readonly record: SessionRecord;
  readonly now: number;
  readonly access: AccessToken;
  /** The refresh token to hand out; undefined if the presented one stays in use. */
  readonly refreshToken: string | undefined;
}

interface RefresherOptions {
  readonly store: SessionStore;
  readonly secrets: SecretRing;
  readonly lifetimes: Lifetimes;
  readonly clock: Clock;
  readonly emit: SessionEventListener;
  readonly audit: AuditLog | undefined;
  readonly revocations: RevocationLog;
  readonly accessTokens: AccessTokens;
  readonly refreshTokens: RefreshTokens;
  readonly nonces: Nonces;
  /** What a refresh without a proof by the key of its session does besides being refused. Default "refuse". */
  readonly onMismatch?: OnMismatch;
  /** Default: nothing is observed. */
  readonly telemetry?: SessionTelemetry;
}

/**
 * What a valid refresh token without a proof by the key of its session causes: it is refused, or it also
 * ends the session.
 */
export type OnMismatch = "refuse" | "revoke";

/** The result of trying the common refresh, and the token that follows if it advanced the session. */
type Tried = Advanced & { readonly next?: NextToken | undefined };

/** How often a refresh is decided again after its write lost to another one. */
const retries = 2;
/** Sessions that are read at once to find forks, and ended at once; a store accepts 1000 ids. */
const forksPage = 1_000;

/** Exchanges refresh tokens. */
export class Refresher {
  readonly #options: RefresherOptions;
  readonly #shared: SharedAnswers<Refreshed>;
  /** The rule; a field so that the model checker can show that each part of it is needed. */
  decide: RefreshRule = decideRefresh;

  constructor(options: RefresherOptions) {
    this.#options = options;
    this.#shared = new SharedAnswers(options);
  }

  /**
   * Answers a presented refresh token. Identical concurrent requests share one answer.
   * @throws SessionError `unauthorized`, or `unavailable`
   */
  refresh(presented: PresentedRefreshToken): Promise<Refreshed> {
    const { telemetry = noTelemetry } = this.#options;
    return telemetry.run(
      {
        name: "refresh",
        facts: (done) => ({ sessionId: done?.record.id, userId: done?.record.userId }),
      },
      () => this.#refresh(presented),
    );
  }

  async #refresh(presented: PresentedRefreshToken): Promise<Refreshed> {
    const { clock, refreshTokens } = this.#options;
    const checked = await refreshTokens.precheck(presented);
    const arrived = clock.monotonic();
    const earlier = this.#shared.find(checked, arrived);
    if (earlier !== undefined && (await this.#shared.isStillGood(checked, earlier, this.decide))) {
      return earlier.answer;
    }
    const answer = this.#exchange(checked, arrived);
    this.#shared.add(checked, answer, arrived);
    return answer;
  }

  /** One refresh: token, row, rule, write, answer. The common one is a single write. */
  async #exchange(checked: CheckedRefreshToken, arrived: number): Promise<Refreshed> {
    const { store, secrets, revocations, lifetimes, clock, emit, refreshTokens } = this.#options;

    // 1. Nearly every refresh advances. Its condition needs no row, so the store tries it first.
    const tried = await this.#tryAdvance(checked);
    if (tried?.record !== undefined && tried.advanced) {
      return this.#answer(checked, { kind: "advance" }, { ...tried, record: tried.record });
    }

    let found: Stored<SessionRecord | undefined> | undefined = tried;
    for (let attempt = 0; attempt <= retries; attempt++) {
      // 2. Read the row, and prove that the token belongs to it. Only the row of the history that this
      // server follows may end a session.
      const stored = found ?? (await refreshTokens.load(checked.session));
      found = undefined;
      await revocations.catchUpTo(stored.history);
      const proven = await refreshTokens.prove(checked, stored);
      const { record, now, generation } = proven;

      // 3. A bound session goes on only with a proof by its key. A browser makes none for one that is over.
      const isUnproven =
        proven.boundKey === null
          ? isOverdue(stored) && checked.provenKey === undefined
          : proven.boundKey !== checked.provenKey;
      if (isUnproven && (checked.transport === "header" || isLive(stored))) {
        throw await this.#refuseKey(proven, checked);
      }
      if (record.secretId !== proven.secretId) {
        // During a roll-out the row may be under a secret that this server lacks; then it cannot mint.
        await refreshTokens.assertKnown(record);
      }

      // 4. Decide; see the table of `decideRefresh`.
      const decision = this.decide(record, generation, { ...lifetimes, now });
      if (decision.kind === "revoked") {
        const { endedBy, at } = decision;
        throw endedError({ session: record.id, endedBy, at, userId: record.userId }, now);
      }
      if (decision.kind === "expired") {
        emit({ type: "expired", sessionId: record.id, userId: record.userId });
        throw expiredError(record);
      }
      if (decision.kind === "theft") {
        this.#assertInTime(arrived);
        const { id: sessionId, userId, generation: reached } = record;
        throw await this.#endStolen(record, (at) =>
          emit({
            ...{ type: "theft", sessionId, userId },
            kind: generation === reached - 1 ? "previous" : "older",
            ...{ presented: generation, generation: reached, at },
          }),
        );
      }
      if (decision.kind === "impossible" || !this.#mayMoveTo(decision, proven)) {
        const { id: sessionId, generation: current } = record;
        emit({
          ...{ type: "impossibleGeneration", sessionId },
          ...{ presented: generation, generation: current },
        });
        throw unavailable("the session store seems to have lost data; try again");
      }

      // 5. Write. The store refuses if the row has changed since it was read; then decide again.
      const proof =
        decision.kind === "advance" || decision.kind === "forward"
          ? await refreshTokens.proofAfter(proven, checked, decision.kind)
          : undefined;
      const settle = neededAge(lifetimes.settle, clock.monotonic() - arrived);
      const boundKey = boundBy(proven, checked, decision);
      const written = await store
        .refresh({
          ...writeOf(decision, proven, { settle, secretId: secrets.current.id, proof }),
          id: record.id,
          generation: record.generation,
          ...(boundKey === record.boundKey ? {} : { boundKey: boundKey ?? undefined }),
          idle: Math.min(lifetimes.idle, record.idleLife ?? Number.POSITIVE_INFINITY),
        })
        .catch(storeFailed);

      // 6. Answer.
      if (written.record !== undefined) {
        const current = { ...written, record: written.record };
        if (decision.kind === "forward") {
          emit({
            ...{ type: "storeWentBack", sessionId: record.id },
            ...{ presented: generation, generation: record.generation },
          });
        }
        return this.#answer(checked, decision, current);
      }
    }
    throw unavailable("too many requests are refreshing this session at once; try again");
  }

  /** The first line of the rule as one statement; undefined where it cannot be tried. */
  async #tryAdvance(checked: CheckedRefreshToken): Promise<Tried | undefined> {
    const { store, secrets, lifetimes, refreshTokens } = this.#options;
    if (checked.format === 1 || store.advance === undefined) {
      return undefined;
    }
    const { session: id, generation, secretId, rootHash, transport, boundKey } = checked;
    const { provenKey, mustBind } = checked;
    // The first proof of a browser, and sessions that have to be bound, need a look at the row.
    const needsRow =
      boundKey === null
        ? mustBind || (transport === "cookie" && provenKey !== undefined)
        : boundKey !== provenKey;
    if (needsRow) {
      return undefined;
    }
    const { overlap, idle } = lifetimes;
    const { current } = secrets;
    const advancing = store
      .advance({
        ...{ id, generation, secretId, rootHash, transport, boundKey },
        ...{ overlap, idle, nextSecretId: current.id },
      })
      .catch(storeFailed);
    const next = refreshTokens.mintNext(checked, current);
    return { ...(await advancing), next: await next };
  }

  /**
   * Whether the secret of a presented token may move its session forward: only the secret of the row and
   * the current one. Another one is older, and may have leaked.
   */
  #mayMoveTo({ kind }: RefreshDecision, { record, secretId }: ProvenRefreshToken): boolean {
    const { secrets } = this.#options;
    return kind !== "forward" || secretId === record.secretId || secretId === secrets.current.id;
  }

  /** @param presented a token that was proven to belong to the session of `record` */
  async #answer(
    presented: CheckedRefreshToken,
    decision: RefreshDecision,
    stored: Stored<SessionRecord> & Pick<Tried, "next">,
  ): Promise<Refreshed> {
    const { record, now, next } = stored;
    const { accessTokens, refreshTokens, emit, audit } = this.#options;
    const { id: sessionId, generation, userId, tenantId } = record;
    const access = await accessTokens.mint(stored);
    const isOlder = presented.generation < generation;
    const root = presented.format === 2 ? presented.root : undefined;
    const refreshToken = isOlder ? await refreshTokens.mint(record, root, next) : undefined;
    const recovered = isOlder && decision.kind !== "advance";
    emit({ type: recovered ? "recovered" : "refreshed", sessionId, generation });
    if (!recovered) {
      // Nobody waits for it: refreshes are many, and each one changes little.
      audit?.add({ event: "refreshed", session: sessionId, owner: { userId, tenantId } });
    }
    return { record, now, access, refreshToken };
  }

  /**
   * Answers a valid token whose request has not proven the key of its session. Nothing changes, unless
   * the option `bind.onMismatch` ends the session: somebody else may have the token.
   */
  async #refuseKey(
    { record, now }: ProvenRefreshToken,
    { provenKey, unproven }: CheckedRefreshToken,
  ): Promise<SessionError> {
    const { emit, onMismatch, nonces } = this.#options;
    const { id: sessionId, userId } = record;
    const why = provenKey === undefined ? unproven : "otherKey";
    // The browser has the key: it can make another proof, or says that it will later.
    const isTemporary = why === "stale" || why === "skipped";
    if (isLive({ record, now })) {
      emit({ type: "proofRefused", sessionId, userId, why });
      if (onMismatch === "revoke" && !isTemporary) {
        return this.#endStolen(record, () =>
          emit({ type: "revoked", sessionId, endedBy: "theft" }),
        );
      }
    }
    return isTemporary
      ? proofLaterError(sessionId)
      : unprovenError(sessionId, provenKey, await nonces.mint(now));
  }

  /**
   * Refuses to call reuse "theft" if this request has waited long for a stalled store: the token may
   * have been valid when it arrived, and its client has given up and moved on since. An outage never
   * signs a user out; a real thief is detected by the next attempt.
   */
  #assertInTime(arrived: number): void {
    const { clock, lifetimes } = this.#options;
    if (!isInTime(clock.monotonic() - arrived, lifetimes)) {
      throw unavailable("the session store did not answer in time; try again");
    }
  }

  /**
   * Revokes the session of a stolen token and all sessions that were forked from it, because the thief
   * may have made one. Returns the error for the caller.
   * @param report called if this call ended the session
   */
  async #endStolen(current: SessionRecord, report: (at: number) => void): Promise<SessionError> {
    const { store, revocations, audit } = this.#options;
    const { id: session, userId, tenantId } = current;

    // 1. The forks first: if this fails, the next use of the token is a theft again.
    await this.#endForks(current);

    // 2. The session itself.
    const { record, revoked, now } = await store.revoke(session, "theft").catch(storeFailed);
    const end: EndedEntry = {
      kind: "revoked",
      session,
      // A sign-out may have been faster.
      endedBy: record?.endedBy ?? "theft",
      at: record?.revokedAt ?? now,
    };
    revocations.apply(end);
    if (revoked) {
      report(now);
      void audit?.ended([session], { owner: { userId, tenantId }, endedBy: "theft" });
      // 3. Forks that were made between the two. An ended session has no further ones.
      await this.#endForks(current);
    }
    await audit?.written();
    return endedError({ ...end, userId }, now);
  }

  async #endForks({ id, userId, tenantId, lineage }: SessionRecord): Promise<void> {
    const { store, revocations, emit, audit } = this.#options;
    const below = `${lineage ?? id}.`;
    let cursor: string | undefined;
    do {
      const page = await store
        .list({ userId, tenantId }, { cursor, limit: forksPage })
        .catch(storeFailed);
      const ids = page.records.filter((r) => r.lineage?.startsWith(below)).map((r) => r.id);
      if (ids.length > 0) {
        const { revoked, now: at } = await store.revokeAll({ ids }, "theft").catch(storeFailed);
        for (const session of revoked) {
          revocations.apply({ kind: "revoked", session, endedBy: "theft", at });
          emit({ type: "revoked", sessionId: session, endedBy: "theft" });
        }
        const owner = { userId, tenantId };
        void audit?.ended(revoked, { owner, endedBy: "theft", cause: { from: id } });
      }
      cursor = page.cursor;
    } while (cursor !== undefined);
  }
}

/**
 * The key that a session is bound to after a refresh. A session in cookies is bound by the first proof:
 * only with a write that advances it, so that of two keys the first one wins. A store that was restored to
 * a state from before that gets the key back from the token.
 */
function boundBy(
  { boundKey }: ProvenRefreshToken,
  { transport, provenKey }: CheckedRefreshToken,
  { kind }: RefreshDecision,
): string | null {
  const isFirst = kind === "advance" && transport === "cookie";
  return boundKey ?? (isFirst ? provenKey : undefined) ?? null;
}

/** Milliseconds after a sign-in within which a session that must be bound to a browser may be refreshed. */
const bindWithin = 300_000;

/** Whether a session that must be bound to a browser should have been by now. */
function isOverdue({ record, now }: Stored<SessionRecord | undefined>): boolean {
  return record !== undefined && hasToBeBound(record) && now - record.createdAt > bindWithin;
}

/** The error for a browser that has to make another proof of its key. Its session goes on. */
export function proofLaterError(sessionId: string): SessionError {
  return new SessionError("unavailable", "PROOF_REQUIRED", {
    message:
      "the session is bound to this browser, which has made no proof for this refresh; try again",
    sessionId,
    retryAfter: 1_000,
  });
}

/**
 * The error for a request that has not proven the key of its session.
 * @param proofNonce the nonce for a proof
 */
export function unprovenError(
  sessionId: string,
  provenKey: string | undefined,
  proofNonce: string,
): SessionError {
  return provenKey === undefined
    ? new SessionError("unauthorized", "PROOF_REQUIRED", {
        message:
          "the session is bound to a key, and the request has no proof by that key; send one",
        sessionId,
        proofNonce,
      })
    : new SessionError("unauthorized", "PROOF_INVALID", {
        message: "the session is bound to another key than the request has proven; sign in again",
        sessionId,
      });
}

/** The decisions that are written. */
export type Writing = Extract<
  RefreshDecision,
  { readonly kind: "advance" | "keep" | "resend" | "forward" }
>;

type DistributiveOmit<T, K extends PropertyKey> = T extends unknown ? Omit<T, K> : never;

/** The write that carries out a decision. */
export function writeOf(
  decision: Writing,
  { record, generation, secretId: presentedUnder }: ProvenRefreshToken,
  current: {
    readonly settle: number;
    readonly secretId: string;
    readonly proof?: TokenProof | undefined;
  },
): DistributiveOmit<RefreshWrite, "id" | "generation" | "idle"> {
  switch (decision.kind) {
    case "advance":
      return { kind: "advance", secretId: current.secretId, proof: current.proof };
    case "keep":
      return { kind: "keep", settle: record.confirmedAt === null ? current.settle : null };
    case "resend":
      return { kind: "resend", prolonged: decision.prolonged };
    case "forward":
      return { kind: "forward", to: generation, secretId: presentedUnder, proof: current.proof };
  }
}
