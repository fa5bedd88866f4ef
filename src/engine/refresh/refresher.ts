import { reach } from "../reach.ts";
import { exchangeRefreshToken, type Refreshed, type RefresherOptions } from "./refresh-exchange.ts";
import type { PresentedRefreshToken } from "./refresh-tokens.ts";

export type { Refreshed, RefresherOptions } from "./refresh-exchange.ts";

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
