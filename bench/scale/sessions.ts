import type { Clock } from "../../src/base/clock.ts";
import { randomId } from "../../src/base/crypto.ts";
import type { NewSession } from "../../src/engine/store.ts";

/** The user agent of a browser that many people use. */
const userAgent =
  "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36";

const day = 86_400_000;

/** A typical session of a browser, with three claims and no private data, of a user of its own. */
export function typicalSession(given: Partial<NewSession> = {}): NewSession {
  return {
    id: randomId(16),
    userId: crypto.randomUUID(),
    tenantId: null,
    transport: "cookie",
    salt: "",
    rootHash: randomId(32),
    boundKey: null,
    secretId: "c2VjcmV0",
    claims: { role: "admin", plan: "pro", org: "acme" },
    data: {},
    device: { userAgent, ip: "203.0.113.195" },
    idle: 14 * day,
    absolute: 90 * day,
    endsBy: null,
    accessLife: null,
    idleLife: null,
    lineage: null,
    externalId: null,
    authentication: null,
    createdAt: null,
    authTime: null,
    replaces: null,
    requires: null,
    limit: null,
    ...given,
  };
}

/** A clock that stands still until it is moved, so that a day passes in a minute. */
export class SimulatedClock implements Clock {
  #time: number = Date.now();

  readonly now = (): number => this.#time;

  readonly monotonic = (): number => this.#time;

  after(_ms: number, action: () => void): () => void {
    const turn = setImmediate(action);
    return () => clearImmediate(turn);
  }

  move(ms: number): void {
    this.#time += ms;
  }
}

/** Does work for each item, with a limit on how many are under way. */
export async function forEach<T>(
  items: Iterable<T>,
  atOnce: number,
  work: (item: T) => Promise<unknown>,
): Promise<void> {
  const queue = items[Symbol.iterator]();
  const worker = async (): Promise<void> => {
    for (let next = queue.next(); next.done !== true; next = queue.next()) {
      await work(next.value);
    }
  };
  await Promise.all(Array.from({ length: atOnce }, worker));
}
