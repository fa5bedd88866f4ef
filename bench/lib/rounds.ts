/** One of several things measured beside each other. */
export interface Contestant {
  readonly name: string;
  /** How often one batch does it. */
  readonly ops: number;
  /** Makes what a batch uses up; not measured. */
  prepare?(): void | Promise<void>;
  batch(): void | Promise<void>;
}

/**
 * CPU time of this process per operation, in nanoseconds, one value for each round. In a round every
 * contestant has its turn, in an order that rotates, so that none has the machine's better minutes.
 */
export async function cpuRounds(
  contestants: readonly Contestant[],
  rounds: number,
): Promise<Map<string, number[]>> {
  const found = new Map<string, number[]>(contestants.map(({ name }) => [name, []]));
  for (let round = -2; round < rounds; round++) {
    for (const contestant of rotated(contestants, round)) {
      await contestant.prepare?.();
      const before = process.cpuUsage();
      await contestant.batch();
      const { user, system } = process.cpuUsage(before);
      // The first two rounds are for the compiler.
      if (round >= 0) {
        found.get(contestant.name)?.push(((user + system) * 1000) / contestant.ops);
      }
    }
  }
  return found;
}

/** The same in another order, which each of them begins in turn. */
export function rotated<T>(all: readonly T[], by: number): T[] {
  const at = ((by % all.length) + all.length) % all.length;
  return [...all.slice(at), ...all.slice(0, at)];
}
