import { directly, type Method, type Server } from "./servers.ts";

/** A task that races with tasks on other servers; at most one per server. */
export interface Racer {
  readonly server: Server;
  readonly work: () => Promise<unknown>;
}

/** A point at which the order was chosen: the index that went first, and the number of candidates. */
interface Choice {
  readonly chosen: number;
  readonly of: number;
}

const ordered: ReadonlySet<Method> = new Set([
  "advance",
  "load",
  "refresh",
  "confirm",
  "revoke",
  "insert",
]);

/**
 * Runs a race once for every order in which its calls of the store can happen, and returns the number
 * of orders. Calls are atomic, so no other outcomes are possible.
 *
 * @param race prepares one race; `after` is called at its end with the order of the calls, each as
 * "server:method"
 */
export async function inEveryOrder(
  race: () => Promise<{
    readonly racers: readonly Racer[];
    readonly after: (order: readonly string[]) => Promise<void>;
  }>,
): Promise<number> {
  let races = 0;
  let choices: readonly number[] | undefined = [];
  while (choices !== undefined) {
    const { racers, after } = await race();
    const { taken, order } = await runRace(racers, choices);
    await after(order);
    races += 1;
    choices = next(taken);
  }
  return races;
}

async function runRace(racers: readonly Racer[], choices: readonly number[]) {
  const waiting = new Map<number, () => void>();
  const done = new Set<number>();
  const taken: Choice[] = [];
  const order: string[] = [];
  let ring = (): void => {};
  racers.forEach(({ server }, index) => {
    server.hook = async (method, run) => {
      if (ordered.has(method)) {
        await new Promise<void>((go) => {
          waiting.set(index, go);
          ring();
        });
        order.push(`${index}:${method}`);
      }
      return run();
    };
  });
  const works = racers.map(({ work }, index) =>
    work().finally(() => {
      done.add(index);
      ring();
    }),
  );
  for (;;) {
    while (waiting.size + done.size < racers.length) {
      await new Promise<void>((resolve) => {
        ring = resolve;
      });
    }
    const ready = [...waiting.keys()].sort((a, b) => a - b);
    if (ready.length === 0) {
      break;
    }
    const chosen = choices[taken.length] ?? 0;
    taken.push({ chosen, of: ready.length });
    const index = ready[chosen] as number;
    const go = waiting.get(index);
    waiting.delete(index);
    go?.();
  }
  for (const { server } of racers) {
    server.hook = directly;
  }
  await Promise.all(works);
  return { taken, order };
}

/** The choices for the next order: changes the last one that has an alternative. */
function next(taken: readonly Choice[]): readonly number[] | undefined {
  const last = taken.findLastIndex(({ chosen, of }) => chosen + 1 < of);
  return last < 0
    ? undefined
    : taken.slice(0, last + 1).map(({ chosen }, i) => (i === last ? chosen + 1 : chosen));
}
