/** Returns a sorted copy, for comparing lists whose order does not matter. */
export function sorted<T>(list: Iterable<T>): T[] {
  return [...list].sort((a, b) => String(a).localeCompare(String(b)));
}
