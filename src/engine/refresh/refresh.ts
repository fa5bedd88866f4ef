import type { Clock } from "../../base/clock.ts";
import type { SecretRing } from "../../base/crypto.ts";
import { unavailable } from "../../base/errors.ts";
import type { SessionEventListener } from "../../base/events.ts";
import type { AccessToken } from "../access-tokens.ts";
import type { Lifetimes } from "../lifetimes.ts";
import { endedError, expiredError } from "../liveness.ts";
import { reach } from "../reach.ts";
import type { EndedEntry, RefreshWrite, SessionRecord, SessionStore, Stored } from "../store.ts";
import { decideRefresh, type RefreshRule } from "./rule.ts";
import type {
  ParsedRefreshToken,
  PresentedRefreshToken,
  ProvenRefreshToken,
  RefreshTokens,
} from "./token.ts";

/** The answer of a refresh. */
export interface Refreshed {
  readonly record: SessionRecord;
  readonly now: number;
  readonly access: AccessToken;
  /** The refresh token to write; undefined when the presented one stays. */
  readonly refreshToken: string | undefined;
}

/** What refreshes are made of. */
export interface RefresherOptions {
  readonly store: SessionStore;
  readonly secrets: SecretRing;
  readonly tokens: RefreshTokens;
  readonly lifetimes: Lifetimes;
  readonly clock: Clock;
  readonly emit: SessionEventListener;
  readonly mintAccess: (stored: Stored<SessionRecord>) => Promise<AccessToken>;
  /** Makes a revocation known in this process at once. */
  readonly announce: (change: EndedEntry) => void;
  /** Whether this process knows the session to be revoked. */
  readonly isRevoked: (session: string) => boolean;
  /** For the model check alone, which shows that each part of the rule is needed. */
  readonly decide?: RefreshRule;
}

/** A write that lost against another is decided again at most this often. */
const retries = 2;

/** Proves, decides and writes a refresh; see the table of `decideRefresh`. Rejects with a SessionError. */
export async function exchangeRefreshToken(
  options: RefresherOptions,
  parsed: ParsedRefreshToken,
  { transport }: PresentedRefreshToken,
): Promise<Refreshed> {
  const arrived = options.clock.monotonic();
  for (let attempt = 0; attempt <= retries; attempt++) {
    const proven = await options.tokens.prove(parsed, transport);
    const refreshed = await carryOut(options, proven, arrived);
    if (refreshed !== undefined) {
      return refreshed;
    }
  }
  throw unavailable("too many requests are refreshing this session at once; try again");
}

/**
 * Decides and writes; undefined when the record changed in between.
 * @param arrived when the token came, in monotonic milliseconds
 */
async function carryOut(
  options: RefresherOptions,
  proven: ProvenRefreshToken,
  arrived: number,
): Promise<Refreshed | undefined> {
  const { record, now, generation } = proven;
  // A row under a secret this server lacks is a roll-out in progress: nothing can be minted here.
  options.tokens.assertKnown(record);
  const { overlap, settle } = options.lifetimes;
  const decide = options.decide ?? decideRefresh;
  const decision = decide(record, generation, { now, overlap });
  switch (decision.kind) {
    case "revoked":
      throw endedError({ session: record.id, endedBy: decision.endedBy, at: decision.at }, now);
    case "expired":
      options.emit({ type: "expired", sessionId: record.id, userId: record.userId });
      throw expiredError(record.id);
    case "theft":
      assertInTime(options, arrived);
      return punish(options, proven);
    case "advance": {
      const secretId = options.secrets.current.id;
      return answer(options, proven, { kind: "advance", secretId });
    }
    case "keep":
      return answer(options, proven, {
        kind: "keep",
        settle: record.confirmedAt === null ? settle : null,
      });
    case "resend":
      return answer(options, proven, { kind: "keep", settle: null });
    case "forward":
      return answer(options, proven, {
        kind: "forward",
        to: generation,
        secretId: proven.secretId,
      });
  }
}

type KindOf<T> = T extends unknown ? Omit<T, "id" | "generation" | "idle"> : never;

async function answer(
  options: RefresherOptions,
  proven: ProvenRefreshToken,
  write: KindOf<RefreshWrite>,
): Promise<Refreshed | undefined> {
  const { id, generation } = proven.record;
  const idle = Math.min(options.lifetimes.idle, proven.record.idleLife ?? Infinity);
  const { record, now } = await reach(
    options.store.refresh({ ...write, id, generation, idle } as RefreshWrite),
  );
  if (record === undefined) {
    return undefined;
  }
  const access = await options.mintAccess({ record, now });
  const newer = record.generation > proven.generation;
  const refreshToken = newer ? await options.tokens.mint(record) : undefined;
  report(options, proven, { record, advanced: write.kind === "advance" });
  return { record, now, access, refreshToken };
}

function report(
  { emit }: RefresherOptions,
  proven: ProvenRefreshToken,
  { record, advanced }: { readonly record: SessionRecord; readonly advanced: boolean },
): void {
  const { id: session, generation } = record;
  if (proven.generation > proven.record.generation) {
    emit({
      type: "storeWentBack",
      sessionId: session,
      presented: proven.generation,
      generation: proven.record.generation,
    });
  }
  const recovered = proven.generation < generation && !advanced;
  emit({ type: recovered ? "recovered" : "refreshed", sessionId: session, generation });
}

/**
 * A token that waited here for a stalled store may have been good when it came: its client has given
 * up since, and gone on. An outage never signs anybody out; a thief who comes again is found then.
 */
function assertInTime({ clock, lifetimes }: RefresherOptions, arrived: number): void {
  if (clock.monotonic() - arrived > lifetimes.overlap - lifetimes.clientTimeout) {
    throw unavailable("the session store did not answer in time; try again");
  }
}

async function punish(options: RefresherOptions, proven: ProvenRefreshToken): Promise<never> {
  const { id: session, userId, generation } = proven.record;
  const { record, revoked, now } = await reach(options.store.revoke(session, "theft"));
  const change: EndedEntry = {
    kind: "revoked",
    session,
    // A sign-out may have been faster.
    endedBy: record?.endedBy ?? "theft",
    at: record?.revokedAt ?? now,
  };
  options.announce(change);
  if (revoked) {
    options.emit({
      type: "theft",
      sessionId: session,
      userId,
      presented: proven.generation,
      generation,
      at: now,
    });
  }
  throw endedError(change, now);
}

/** Exchanges a presented refresh token. Rejects with a SessionError. */
export type Refresher = (presented: PresentedRefreshToken) => Promise<Refreshed>;

/** Milliseconds for which equal refreshes in one process share one answer. */
const sharedFor = 1_000;
/** Shared answers kept at most. */
const sharedMax = 10_000;

export function createRefresher(options: RefresherOptions): Refresher {
  const { clock, tokens } = options;
  const shared = new Map<string, SharedAnswer>();

  const forgetOld = (): void => {
    for (const [key, { until }] of shared) {
      if (clock.monotonic() < until && shared.size <= sharedMax) {
        break;
      }
      shared.delete(key);
    }
  };

  return async (presented) => {
    const parsed = await tokens.precheck(presented);
    const key = `${presented.transport}:${presented.token}`;
    forgetOld();
    const earlier = shared.get(key);
    if (earlier !== undefined && (await isStillGood(options, parsed.session, earlier))) {
      return earlier.answer;
    }
    const answer = exchangeRefreshToken(options, parsed, presented);
    const entry: SharedAnswer = { answer, until: clock.monotonic() + sharedFor, value: undefined };
    // Anew, so that the oldest stay first.
    shared.delete(key);
    shared.set(key, entry);
    answer.then(
      (value) => {
        entry.value = value;
      },
      () => {
        // Only good answers are shared once they are there; the callers see the rejection themselves.
        if (shared.get(key) === entry) {
          shared.delete(key);
        }
      },
    );
    return answer;
  };
}

interface SharedAnswer {
  readonly answer: Promise<Refreshed>;
  /** Monotonic milliseconds. */
  readonly until: number;
  /** Undefined while it is under way. */
  value: Refreshed | undefined;
}

/** Whether an answer may be given once more: under way, or young and still the store's word. */
async function isStillGood(
  { store, clock, isRevoked, lifetimes }: RefresherOptions,
  session: string,
  { value, until }: SharedAnswer,
): Promise<boolean> {
  if (clock.monotonic() >= until || isRevoked(session)) {
    return false;
  }
  if (value === undefined) {
    return true;
  }
  const { record, now } = await reach(store.load(session));
  if (record === undefined || record.revokedAt !== null) {
    return false;
  }
  // This use would confirm the generation, which an answer given once more does not.
  const confirms = record.confirmedAt === null && now - record.rotatedAt >= lifetimes.settle;
  return (
    !confirms &&
    record.generation === value.record.generation &&
    record.claimsVersion === value.record.claimsVersion &&
    now < Math.min(record.idleExpiresAt, record.expiresAt)
  );
}
