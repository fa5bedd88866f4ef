import { durableRules } from "./durable.ts";
import type { ContractRunner, DurableStoreFixture, Rules, StoreFixture } from "./fixture.ts";
import { insertRules, requiresRules } from "./insert.ts";
import { limitRules } from "./limit.ts";
import { listRules } from "./list.ts";
import { confirmRules, refreshRules } from "./refresh.ts";
import { revokeAllRules, revokeRules } from "./revoke.ts";
import { updateRules } from "./update.ts";
import { keyRules, leaseRules, pruneRules } from "./upkeep.ts";

export type {
  ContractClock,
  ContractRunner,
  DurableStoreFixture,
  StoreFixture,
} from "./fixture.ts";

/**
 * Tests that a store keeps the contract of `SessionStore`, in any test runner:
 *
 * ```ts
 * import { describe, it } from "node:test";
 * describeSessionStore({ describe, it }, "myStore", async () => ({ store: myStore(…), clock, close }));
 * ```
 *
 * @param create makes an empty store, not opened, on a clock that stands still; called for each test
 */
export function describeSessionStore(
  runner: ContractRunner,
  name: string,
  create: () => Promise<StoreFixture>,
): void {
  runner.describe(`${name}: the contract of a session store`, () => {
    const inserts = [insertRules, requiresRules, limitRules];
    const one = [refreshRules, confirmRules, revokeRules, updateRules];
    const many = [listRules, revokeAllRules, pruneRules];
    for (const rules of [...inserts, ...one, ...many, keyRules, leaseRules]) {
      addRules(runner, rules, create);
    }
  });
}

/**
 * Tests what {@link describeSessionStore} tests, and that the sessions outlive the store and are
 * shared with every other store over the same data.
 */
export function describeDurableSessionStore(
  runner: ContractRunner,
  name: string,
  create: () => Promise<DurableStoreFixture>,
): void {
  describeSessionStore(runner, name, create);
  runner.describe(`${name}: the contract of a durable session store`, () => {
    addRules(runner, durableRules, create);
  });
}

function addRules<F extends StoreFixture>(
  runner: ContractRunner,
  rules: Rules<F>,
  create: () => Promise<F>,
): void {
  for (const [rule, check] of Object.entries(rules)) {
    runner.it(rule, async () => {
      const fixture = await create();
      try {
        await fixture.store.open({ clock: fixture.clock });
        await check(fixture);
      } finally {
        await fixture.close();
      }
    });
  }
}
