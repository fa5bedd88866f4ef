import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect } from "vitest";
import type { SessionStore } from "../../src/engine/store.ts";
import { advance, confirmOne, newSession } from "../../src/testing/store-contract/fixture.ts";

type Database = "postgres" | "sqlite";

/** Versions of which the statements are recorded. The first one is that of rpc-session 0.1. */
export const recordedVersions = [3, 8] as const;

/** A statement that an older version ran, and how many rows it returned. */
export interface OlderStatement {
  /** What the version did. */
  readonly op: string;
  readonly text: string;
  readonly values: (string | number | null)[];
  readonly rows: number;
}

/**
 * The statements with which a server of an older version signs in, refreshes, signs out and so on.
 * Times that were recorded are moved to the present.
 */
export function olderStatements(
  database: Database,
  version: (typeof recordedVersions)[number],
): readonly OlderStatement[] {
  const recorded = JSON.parse(
    olderFile(`${database}-${version}-statements.json`),
  ) as OlderStatement[];
  const isTime = (value: unknown): value is number =>
    typeof value === "number" && value > 1_700_000_000_000 && value < 2_000_000_000_000;
  const began = Math.min(...recorded.flatMap(({ values }) => values.filter(isTime)));
  const moved = Date.now() - began;
  return recorded.map((statement) => ({
    ...statement,
    values: statement.values.map((value) => (isTime(value) ? value + moved : value)),
  }));
}

function olderFile(name: string): string {
  return readFileSync(join(import.meta.dirname, "../fixtures/older-versions", name), "utf8");
}

/** The SQL that creates the tables of an older version, with two sessions and an entry of the log. */
export function olderTables(database: Database, version: number): string {
  const [tables] = olderFile(`${database}-tables.sql`).split(`\n-- version ${version + 1}\n`);
  return `${tables}${rows};`;
}

/** Checks that the sessions of {@link olderTables} work as before. */
export async function expectInUse(store: SessionStore): Promise<void> {
  const { record } = await store.load("s1");
  expect(record).toMatchObject({
    userId: "alice",
    tenantId: "one",
    generation: 3,
    rotatedAt: 1000,
    sentAt: 1000,
    prolonged: 0,
    authTime: 1000,
    expiresAt: 9_000_000_000_000,
    accessLife: null,
    idleLife: null,
    externalId: null,
    authentication: null,
    claims: { role: "admin" },
    revokedAt: null,
  });
  expect((await store.load("s2")).record?.endedBy).toBe("theft");
  const all = { cursor: undefined, limit: 10 };
  const alice = { userId: "alice", tenantId: null };
  expect((await store.list(alice, all)).records).toEqual([record]);
  expect((await store.list({ userId: null, tenantId: "one" }, all)).records).toEqual([record]);
  const read = await store.changes(undefined, 9_000_000_000_000);
  const theft = { kind: "revoked", session: "s2", endedBy: "theft", at: 2000 };
  expect(read.entries).toEqual([theft]);
  expect(await confirmOne(store, "s1", 3, 100)).toBe(true);
  expect((await store.refresh(advance(3))).record?.generation).toBe(4);
  await store.update({ id: "s1", version: 0, claims: {} });
  await store.insert(newSession({ id: "s3", accessLife: 5 }));
  const { revoked } = await store.revokeAll({ ...alice, except: null }, "revoked");
  expect([...revoked].sort()).toEqual(["s1", "s3"]);
  const { entries } = await store.changes(read.cursor, 0);
  expect(entries.map(({ kind }) => kind)).toEqual(["claims", "revoked", "revoked"]);
}

/**
 * Checks external ids and authentications while an older server, which knows of none, writes to the same tables.
 * @param run runs SQL as that server does
 */
export async function expectBesideOlder(
  store: SessionStore,
  run: (sql: string) => unknown,
): Promise<void> {
  const issuer = "https://login.example.com";
  const externalId = { issuer, sid: "sid-1", sub: "sub-1" };
  const authentication = { acr: "phr", amr: ["hwk"] };
  await store.insert(newSession({ id: "new", externalId, authentication }));
  // An older server inserts sessions, and refreshes one of a newer server.
  await run(rows);
  await run("update rpcsession_sessions set generation = 1, confirmed_at = null where id = 'new'");
  const nothing = { externalId: null, authentication: null };
  expect((await store.load("s1")).record).toMatchObject(nothing);
  const kept = { generation: 1, externalId, authentication };
  expect((await store.load("new")).record).toMatchObject(kept);
  const bySub = { external: { by: "sub", issuer, id: "sub-1" } } as const;
  const { records } = await store.list(bySub, { cursor: undefined, limit: 10 });
  expect(records.map(({ id }) => id)).toEqual(["new"]);
  // It ends one: the newer server does not end it again.
  await store.insert(newSession({ id: "ended", externalId }));
  await run(
    "update rpcsession_sessions set revoked_at = 3000, ended_by = 'signOut' where id = 'ended'",
  );
  const { revoked } = await store.revokeAll(bySub, "externalLogout");
  expect(revoked).toEqual(["new"]);
}

const common =
  "'cookie', 'c2FsdA', 'secret-a', 3, 1000, 1000, 1000, 8000000000000, 9000000000000, '{\"role\":\"admin\"}', 0, '{}', 0, '{}', 1000";
const rows = `insert into rpcsession_sessions (id, user_id, tenant_id, revoked_at, ended_by, transport, salt, secret_id, generation, rotated_at, created_at, auth_time, idle_expires_at, expires_at, claims, claims_version, data, version, device, last_seen_at)
values ('s1', 'alice', 'one', null, null, ${common}), ('s2', 'alice', 'one', 2000, 'theft', ${common});
insert into rpcsession_changes (kind, session, ended_by, at) values ('revoked', 's2', 'theft', 2000)`;
