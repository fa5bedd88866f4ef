/** Uses that are remembered. Beyond that the oldest is forgotten, and could happen once more. */
const max = 100_000;

/** Remembers for a while what was used on this server, so that nothing is used twice. */
export class UsedOnce {
  /** Until when uses are remembered; the oldest first. */
  readonly #seen = new Map<string, number>();

  /**
   * Whether this is the first use on this server. Remembers it.
   * @param use a text that names it
   * @param now milliseconds
   * @param life milliseconds for which it may come again; the same for all uses
   */
  isFirst(use: string, now: number, life: number): boolean {
    // A replay must not make room for itself.
    const known = this.#seen.get(use);
    if (known !== undefined && now < known) {
      return false;
    }
    for (const [oldest, until] of this.#seen) {
      if (now < until && this.#seen.size < max) {
        break;
      }
      this.#seen.delete(oldest);
    }
    this.#seen.delete(use);
    this.#seen.set(use, now + life);
    return true;
  }
}
