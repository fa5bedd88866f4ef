import fc from "fast-check";
import { expect, it } from "vitest";
import type { SessionRecord, SessionStore } from "../../src/engine/store.ts";
import { insertNew, type StoreFixture } from "../../src/testing/store-contract/fixture.ts";

const hour = 3_600_000;

/** Tests with random histories that pruning removes everything outdated and nothing else. */
export function describePruning(
  name: string,
  create: () => Promise<StoreFixture>,
  { expiresLeases = false } = {},
): void {
  it(`${name}: leases that have ended leave nothing behind`, async () => {
    const fixture = await create();
    const { store, clock } = fixture;
    await store.open(fixture);
    for (let index = 0; index < 7; index++) {
      await store.lease(`ended-${index}`, "a", 1_000);
    }
    await store.lease("held", "a", 2_000);
    await clock.advance(1_000);
    const removed = [await store.prune(5), await store.prune(5), await store.prune(5)];
    expect(removed).toEqual(expiresLeases ? [0, 0, 0] : [5, 2, 0]);
    await fixture.close();
  });

  it(`${name}: prune removes everything outdated and nothing else`, async () => {
    expect.hasAssertions();
    const fixture = await create();
    await fixture.store.open(fixture);
    let runs = 0;
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 5, maxLength: 40 }), async (steps) => {
        runs += 1;
        await check(fixture, steps, `run-${runs}`);
      }),
      { numRuns: 25 },
    );
    await fixture.close();
  });
}

type Step =
  | { readonly kind: "insert"; readonly id: number; readonly idle: number }
  | { readonly kind: "refresh" | "revoke"; readonly id: number }
  | { readonly kind: "advance"; readonly ms: number }
  | { readonly kind: "prune"; readonly limit: number };

const id = fc.nat({ max: 6 });
const step: fc.Arbitrary<Step> = fc.oneof(
  fc.record({ kind: fc.constant("insert"), id, idle: fc.integer({ min: 1, max: 40 * hour }) }),
  fc.record({ kind: fc.constantFrom("refresh", "revoke"), id }),
  fc.record({ kind: fc.constant("advance"), ms: fc.integer({ min: 0, max: 20 * hour }) }),
  fc.record({ kind: fc.constant("prune"), limit: fc.integer({ min: 1, max: 3 }) }),
);

/** Takes the steps, then compares the rows that are left with the records returned meanwhile. */
async function check(fixture: StoreFixture, steps: readonly Step[], prefix: string) {
  const { store, clock } = fixture;
  const known = new Map<string, SessionRecord>();
  for (const one of steps) {
    await take(fixture, one, { known, prefix });
    for (const record of known.values()) {
      if (endOf(record) >= clock.now() - 24 * hour) {
        expect((await store.load(record.id)).record).toEqual(record);
      }
    }
  }
  await pruneAll(store);
  const { entries } = await store.changes(undefined, 90 * hour);
  const recent = [...known.values()].filter(
    ({ revokedAt }) => revokedAt !== null && revokedAt >= clock.now() - 2 * hour,
  );
  const logged = entries.map(({ session }) => session).filter((name) => name.startsWith(prefix));
  expect(logged.sort()).toEqual(recent.map((record) => record.id).sort());
  for (const record of known.values()) {
    // A session that was revoked after it expired may be kept for 24 h after the revocation.
    const keptFor = record.revokedAt === null ? 28 * hour : 24 * hour;
    if (Math.max(endOf(record), record.revokedAt ?? 0) < clock.now() - keptFor) {
      expect((await store.load(record.id)).record).toBeUndefined();
    }
  }
}

async function take(
  { store, clock }: StoreFixture,
  one: Step,
  { known, prefix }: { readonly known: Map<string, SessionRecord>; readonly prefix: string },
): Promise<void> {
  if (one.kind === "advance") {
    await clock.advance(one.ms);
  } else if (one.kind === "prune") {
    await store.prune(one.limit);
  } else {
    const name = `${prefix}-${one.id}-`;
    const write = { kind: "keep", id: name, generation: 0, idle: 30 * hour, settle: null } as const;
    if (one.kind === "insert") {
      if (!known.has(name)) {
        const life = { idle: one.idle, absolute: 60 * hour };
        known.set(name, (await insertNew(store, { id: name, ...life })).record);
      }
      return;
    }
    const { record } =
      one.kind === "refresh" ? await store.refresh(write) : await store.revoke(name, "revoked");
    if (record !== undefined) {
      known.set(name, record);
    }
  }
}

function endOf({ revokedAt, idleExpiresAt }: SessionRecord): number {
  return Math.min(revokedAt ?? idleExpiresAt, idleExpiresAt);
}

async function pruneAll(store: SessionStore): Promise<void> {
  while ((await store.prune(3)) > 0) {
    // Prunes the next batch.
  }
}
