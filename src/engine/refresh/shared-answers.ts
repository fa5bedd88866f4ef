import type { Lifetimes } from "../lifetimes.ts";
import { storeFailed } from "../reach.ts";
import type { RevocationLog } from "../revocation/log.ts";
import type { SessionRecord, SessionStore } from "../store.ts";
import type { RefreshRule } from "./rule.ts";
import type { CheckedRefreshToken } from "./token.ts";

/** Milliseconds for which equal refreshes in this process share one answer. */
const sharedFor = 1_000;
/** Answers that are kept, at most, in each of two generations. */
const sharedMax = 10_000;

interface SharedAnswersOptions {
  readonly store: SessionStore;
  readonly lifetimes: Lifetimes;
  readonly revocations: RevocationLog;
}

/** The part of an answer that shows whether it is outdated. */
interface Answer {
  readonly record: Pick<SessionRecord, "generation" | "claimsVersion">;
}

/** An answer that may be given to an equal refresh as well. */
interface SharedAnswer<T extends Answer> {
  /** The refresh that was answered. */
  readonly checked: CheckedRefreshToken;
  readonly answer: Promise<T>;
  /** Monotonic milliseconds. */
  until: number;
  /** Undefined while the answer is pending. */
  value: T | undefined;
}

/** The answers of the last second. Equal refreshes share them: calls that run at once, and repeated ones. */
export class SharedAnswers<T extends Answer> {
  readonly #options: SharedAnswersOptions;
  /** The answers since `#newSince`, by token. */
  #new = new Map<string, SharedAnswer<T>>();
  /** The answers of the generation before. They are dropped all at once. */
  #before = new Map<string, SharedAnswer<T>>();
  #newSince = 0;

  constructor(options: SharedAnswersOptions) {
    this.#options = options;
  }

  /** Returns the answer to an equal refresh of the last second. Forgets older ones. */
  find(checked: CheckedRefreshToken, now: number): SharedAnswer<T> | undefined {
    if (now - this.#newSince >= sharedFor || this.#new.size >= sharedMax) {
      this.#before = this.#new;
      this.#new = new Map();
      this.#newSince = now;
    }
    const found = this.#new.get(checked.token) ?? this.#before.get(checked.token);
    return found !== undefined && now < found.until && hasProvenTheSame(checked, found.checked)
      ? found
      : undefined;
  }

  /** Whether an answer may be given again: it is still pending, or consistent with the store. */
  async isStillGood(
    { session, generation }: CheckedRefreshToken,
    { value }: SharedAnswer<T>,
    decide: RefreshRule,
  ): Promise<boolean> {
    const { store, revocations, lifetimes } = this.#options;
    if (revocations.get(session) !== undefined) {
      return false;
    }
    if (value === undefined) {
      return true;
    }
    const { record, now } = await store.load(session).catch(storeFailed);
    if (record === undefined) {
      return false;
    }
    // Meanwhile the token may count as stolen, or the session may have ended.
    const { kind } = decide(record, generation, { ...lifetimes, now });
    // This use would confirm the generation, which a repeated answer does not.
    const confirms = record.confirmedAt === null && now - record.sentAt >= lifetimes.settle;
    return (
      (kind === "keep" || kind === "resend") &&
      !confirms &&
      record.generation === value.record.generation &&
      record.claimsVersion === value.record.claimsVersion
    );
  }

  /** Keeps an answer for equal refreshes. */
  add(checked: CheckedRefreshToken, answer: Promise<T>, arrived: number): void {
    const until = arrived + sharedFor;
    const entry: SharedAnswer<T> = { checked, answer, until, value: undefined };
    this.#new.set(checked.token, entry);
    answer.then(
      (value) => {
        entry.value = value;
      },
      () => {
        // A failure is not kept: it goes only to the callers that were already waiting for it.
        entry.until = arrived;
      },
    );
  }
}

/**
 * Whether two requests with the same token have proven the same. Only then may they share an answer. The tag
 * of a token of format 1 is not verified yet, so the whole token is compared.
 */
function hasProvenTheSame(one: CheckedRefreshToken, other: CheckedRefreshToken): boolean {
  return (
    one.transport === other.transport &&
    one.provenKey === other.provenKey &&
    (one.provenKey !== undefined || one.unproven === other.unproven)
  );
}
