import { confirmRules } from "./confirm-rules.ts";
import { durableRules } from "./durable-rules.ts";
import type {
  ContractRunner,
  DurableStoreFixture,
  Rules,
  StoreFixture,
} from "./fixture.ts";
import { insertRules } from "./insert-rules.ts";
import { keyRules } from "./key-rules.ts";
import { leaseRules } from "./lease-rules.ts";
import { limitRules } from "./limit-rules.ts";
import { listRules } from "./list-rules.ts";
import { pruneRules } from "./prune-rules.ts";
import { refreshRules } from "./refresh-rules.ts";
import { requiresRules } from "./requires-rules.ts";
import { revokeAllRules } from "./revoke-all-rules.ts";
import { revokeRules } from "./revoke-rules.ts";
import { updateRules } from "./update-rules.ts";

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
