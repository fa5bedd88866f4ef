/** A copy in the order of the texts: for lists whose order says nothing. */
export function sorted<T>(list: Iterable<T>): T[] {
  return [...list].sort((a, b) => String(a).localeCompare(String(b)));
}
