/**
 * The newest generation of each session, for millions of sessions: 12 bytes a slot, and at most two
 * slots in use of four. A session is known by 64 bits of a hash of its id. Ids are random, so that two
 * sessions with equal bits are not to be expected; the second would be taken for the first.
 *
 * When half of the limit is reached, or `turn` is called, the entries become the old ones, and the
 * former old ones are forgotten.
 */
export class Generations {
  readonly #half: number;
  #young = new Table();
  #old = new Table();

  /** @param limit the most sessions that are remembered */
  constructor(limit: number) {
    this.#half = Math.max(1, Math.ceil(limit / 2));
  }

  /** The newest generation of a session; −1 for one that is unknown. */
  get(session: string): number {
    const [high, low] = hash(session);
    return Math.max(this.#young.get(high, low), this.#old.get(high, low));
  }

  set(session: string, generation: number): void {
    if (this.#young.size >= this.#half) {
      this.turn();
    }
    this.#young.set(...hash(session), generation);
  }

  /** Forgets what was not set again since the last turn. */
  turn(): void {
    this.#old = this.#young;
    this.#young = new Table();
  }
}

/** An open-addressing hash table. Slots are three numbers: two of the key, and the generation plus 1. */
class Table {
  size = 0;
  #slots = new Uint32Array(3 * 64);

  get(high: number, low: number): number {
    return (this.#slots[this.#find(high, low) + 2] ?? 0) - 1;
  }

  set(high: number, low: number, generation: number): void {
    if (6 * this.size >= this.#slots.length) {
      this.#grow();
    }
    const at = this.#find(high, low);
    this.size += this.#slots[at + 2] === 0 ? 1 : 0;
    this.#slots.set([high, low, generation + 1], at);
  }

  /** The slot of a key, or the free one where it belongs. */
  #find(high: number, low: number): number {
    const slots = this.#slots;
    const { length } = slots;
    let at = 3 * (low % (length / 3));
    while (slots[at + 2] !== 0 && (slots[at] !== high || slots[at + 1] !== low)) {
      at = at + 3 === length ? 0 : at + 3;
    }
    return at;
  }

  #grow(): void {
    const former = this.#slots;
    this.#slots = new Uint32Array(2 * former.length);
    for (let at = 0; at < former.length; at += 3) {
      if (former[at + 2] !== 0) {
        const [high = 0, low = 0] = former.subarray(at, at + 2);
        this.#slots.set(former.subarray(at, at + 3), this.#find(high, low));
      }
    }
  }
}

/** Two independent hashes of 32 bits (FNV-1a with two multipliers). */
function hash(text: string): [high: number, low: number] {
  let high = 0x811c9dc5;
  let low = 0x9e3779b9;
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    high = Math.imul(high ^ code, 0x01000193);
    low = Math.imul(low ^ code, 0x85ebca6b);
    low ^= low >>> 15;
  }
  return [high >>> 0, low >>> 0];
}
