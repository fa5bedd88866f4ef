import { confirmRules } from "./store-contract/confirm-rules.ts";
import { durableRules } from "./store-contract/durable-rules.ts";
import type {
  ContractRunner,
  DurableStoreFixture,
  Rules,
  StoreFixture,
} from "./store-contract/fixture.ts";
import { insertRules } from "./store-contract/insert-rules.ts";
import { keyRules } from "./store-contract/key-rules.ts";
import { leaseRules } from "./store-contract/lease-rules.ts";
import { limitRules } from "./store-contract/limit-rules.ts";
import { listRules } from "./store-contract/list-rules.ts";
import { pruneRules } from "./store-contract/prune-rules.ts";
import { refreshRules } from "./store-contract/refresh-rules.ts";
import { requiresRules } from "./store-contract/requires-rules.ts";
import { revokeAllRules } from "./store-contract/revoke-all-rules.ts";
import { revokeRules } from "./store-contract/revoke-rules.ts";
import { updateRules } from "./store-contract/update-rules.ts";

export type {
  ContractClock,
  ContractRunner,
  DurableStoreFixture,
  StoreFixture,
} from "./store-contract/fixture.ts";

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
