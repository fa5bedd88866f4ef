import assert from "node:assert/strict";
import type { Clock } from "../../base/clock.ts";
import type { JsonObject } from "../../base/json.ts";
import type {
  Inserted,
  NewSession,
  RefreshWrite,
  SessionLimit,
  SessionStore,
} from "../../engine/store.ts";

/** The two functions of a test runner that a contract needs. Those of vitest and `node:test` fit. */
export interface ContractRunner {
  describe(name: string, body: () => void): unknown;
  it(name: string, body: () => Promise<void>): unknown;
}

/** The clock of the store under test. Only `advance` moves it. */
export interface ContractClock extends Clock {
  /** Moves the time by milliseconds; a negative number moves it back. */
  advance(ms: number): void | Promise<void>;
}

/** An empty store, to be tested. */
export interface StoreFixture {
  /** Not open yet. */
  readonly store: SessionStore;
  readonly clock: ContractClock;
  /** Closes the stores that are still open, and removes their data. */
  close(): Promise<void>;
}

/** An empty store that keeps its sessions outside the process. */
export interface DurableStoreFixture extends StoreFixture {
  /** Creates another store over the same data, like a second server or a restart. Not open yet. */
  another(): SessionStore;
}

/** Rules by name. Each check receives a store that is open and empty. */
export type Rules<F extends StoreFixture = StoreFixture> = Readonly<
  Record<string, (fixture: F) => Promise<void>>
>;

export const idle = 1_000_000;
export const absolute = 5_000_000;

/** Returns a session to insert; its `id` is `"s1"` by default. */
export function newSession(given: Partial<NewSession> = {}): NewSession {
  return {
    id: "s1",
    userId: "alice",
    tenantId: null,
    transport: "cookie",
    salt: "c2FsdA",
    rootHash: null,
    boundKey: null,
    secretId: "secret-a",
    claims: { role: "admin" },
    data: { cart: [1, 2] },
    device: { userAgent: "Agent/1.0", ip: "192.0.2.1" },
    idle,
    absolute,
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

/** Inserts a session, and fails if it is refused. */
export async function insertNew(
  store: SessionStore,
  given: Partial<NewSession> = {},
): Promise<Extract<Inserted, { readonly evicted: readonly string[] }>> {
  const inserted = await store.insert(newSession(given));
  assert.ok(inserted.record !== undefined, "refused");
  return inserted;
}

/** A limit of `max` sessions that refuses further ones. */
export function rejectAbove(max: number): SessionLimit {
  return { max, overflow: "reject" };
}

/** A limit of `max` sessions that ends the oldest for further ones. */
export function evictAbove(max: number): SessionLimit {
  return { max, overflow: "evict" };
}

/** One refresh of each kind, for `"s1"` at `generation`. */
export function refreshOfEachKind(generation: number): readonly RefreshWrite[] {
  const write = { id: "s1", generation, idle };
  return [
    { ...write, kind: "advance", secretId: "secret-b" },
    { ...write, kind: "keep", settle: 0 },
    { ...write, kind: "keep", settle: null },
    { ...write, kind: "resend", prolonged: 5 },
    { ...write, kind: "resend", prolonged: null },
    { ...write, kind: "forward", to: generation + 5, secretId: "secret-b" },
  ];
}

/** A refresh that advances `"s1"` from `generation` to the next one. */
export function advance(generation: number): RefreshWrite {
  return { kind: "advance", id: "s1", generation, idle, secretId: "secret-b" };
}

/** Calls `action` 64 times concurrently, with 0 to 63. */
export function atOnce<T>(action: (index: number) => Promise<T>): Promise<T[]> {
  return Promise.all(Array.from({ length: 64 }, (_, index) => action(index)));
}

/** JSON that hand-written copies often get wrong. */
export const awkwardJson = JSON.parse(
  '{"__proto__":{"admin":true},"constructor":{"prototype":1},"toString":null,"":[],"Zoë 🦊\\u2028":"\\u0000\\ud83d\\"\'","deep":[[{"n":-1.5e-7}],1e21,9007199254740991]}',
) as JsonObject;

/** Confirms one generation; see `SessionStore.confirm`. */
export async function confirmOne(
  store: Pick<SessionStore, "confirm">,
  session: string,
  generation: number,
  settle: number,
): Promise<boolean | undefined> {
  const [done] = await store.confirm([{ session, generation, settle }]);
  return done;
}
