import type { NewSession } from "../engine/store.ts";

/**
 * What a limit does to a user who has other live sessions: the ids of those that end, or undefined
 * where the new session is not to be inserted.
 *
 * @param others without the one that is replaced, the oldest first
 */
export function evictedBy(
  { limit, requires }: Pick<NewSession, "limit" | "requires">,
  others: readonly { readonly id: string }[],
): readonly string[] | undefined {
  const tooMany = limit === null ? 0 : others.length + 1 - limit.max;
  if (tooMany <= 0) {
    return [];
  }
  const mayEnd = others.filter(({ id }) => id !== requires);
  return limit?.overflow === "evict" && mayEnd.length >= tooMany
    ? mayEnd.slice(0, tooMany).map(({ id }) => id)
    : undefined;
}
