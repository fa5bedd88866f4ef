import { advanceRules } from "./advance.ts";
import { durableRules } from "./durable.ts";
import { externalRules } from "./external.ts";
import type { ContractRunner, DurableStoreFixture, Rules, StoreFixture } from "./fixture.ts";
import { auditRules, incidentRules } from "./incident.ts";
import { insertRules, requiresRules } from "./insert.ts";
import { limitRules } from "./limit.ts";
import { listRules, updateRules } from "./list.ts";
import { confirmRules, refreshRules } from "./refresh.ts";
import { revokeAllRules, revokeRules } from "./revoke.ts";
import { keyRules, leaseRules, pruneRules } from "./upkeep.ts";

export type { Clock } from "../../base/clock.ts";
export type { JsonObject, JsonValue } from "../../base/json.ts";
export type { TokenTransport } from "../../base/wire.ts";
export type {
  Advanced,
  AdvanceWrite,
  AuditDetail,
  AuditEvent,
  AuditedUser,
  AuditRecord,
  AuditRecords,
  Authentication,
  Changes,
  ClaimsEntry,
  Device,
  EndedBy,
  EndedEntry,
  ExternalId,
  ExternalKey,
  GenerationUse,
  Inserted,
  KeysEntry,
  LogEntry,
  NewAuditEntry,
  NewSession,
  RecordedSecret,
  RecordedSecrets,
  RefreshWrite,
  RevokeScope,
  SecretName,
  SessionLimit,
  SessionOwner,
  SessionPage,
  SessionRecord,
  SessionSelection,
  SessionStore,
  SessionUpdate,
  StoreContext,
  Stored,
  StoredSigningKey,
  TokenFormat,
  TokenProof,
} from "../../engine/store.ts";
export type {
  ContractClock,
  ContractRunner,
  DurableStoreFixture,
  StoreFixture,
} from "./fixture.ts";

/**
 * Defines tests that check a store against the contract of `SessionStore`, in any test runner:
 *
 * ```ts
 * import { describe, it } from "node:test";
 * import { describeSessionStore } from "rpc-session/store-contract";
 *
 * describeSessionStore({ describe, it }, "myStore", async () => ({ store: myStore(…), clock, close }));
 * ```
 *
 * @param create creates an empty store that is not open, with the clock it uses; called for each test
 */
export function describeSessionStore(
  runner: ContractRunner,
  name: string,
  create: () => Promise<StoreFixture>,
): void {
  runner.describe(`${name}: the contract of a session store`, () => {
    const inserts = [insertRules, requiresRules, limitRules];
    const one = [refreshRules, advanceRules, confirmRules, revokeRules, updateRules];
    const many = [listRules, revokeAllRules, externalRules, pruneRules];
    for (const rules of [
      ...inserts,
      ...one,
      ...many,
      keyRules,
      incidentRules,
      auditRules,
      leaseRules,
    ]) {
      addRules(runner, rules, create);
    }
  });
}

/**
 * Defines the tests of {@link describeSessionStore}, and tests that sessions survive a restart and
 * are shared by all stores over the same data.
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
