/** One of several candidates that are compared. */
export interface Contestant {
  readonly name: string;
  /** The number of operations in one batch. */
  readonly ops: number;
  /** Prepares the input of a batch; not measured. */
  prepare?(): void | Promise<void>;
  batch(): void | Promise<void>;
}

/**
 * Measures the CPU time of this process per operation, in nanoseconds, with one value per round. In
 * each round every contestant runs once, in a rotating order, so that noise affects all of them alike.
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
      // The first two rounds warm up the compiler.
      if (round >= 0) {
        found.get(contestant.name)?.push(((user + system) * 1000) / contestant.ops);
      }
    }
  }
  return found;
}

/** Returns the list rotated by `by`, so that each element comes first in turn. */
export function rotated<T>(all: readonly T[], by: number): T[] {
  const at = ((by % all.length) + all.length) % all.length;
  return [...all.slice(at), ...all.slice(0, at)];
}
