import { expect, it } from "vitest";
import { postgresStore } from "../../src/stores/postgres/index.ts";
import { newSession } from "../../src/testing/store-contract/fixture.ts";
import { describePostgres } from "./describe-postgres.ts";
import { holding, openedPostgres } from "./postgres-fixture.ts";

const many = 3000;

describePostgres("pruning sessions on PostgreSQL", (server) => {
  it("keeps to its limit, and skips sessions that other transactions have locked", async () => {
    await using fixture = await openedPostgres(server());
    const { store } = await withEnded(fixture);
    await using other = await holding(
      fixture,
      "select 1 from rpcsession_sessions where idle_expires_at <= 10",
    );
    const gone = await pruneAll(store);
    // Half of them expired, half were revoked; both kinds count towards the limit of one batch.
    expect(gone.slice(0, -1).every((count) => count <= 500)).toBe(true);
    expect(gone.reduce((sum, count) => sum + count, 0)).toBe(many - 10);
    expect(await other.left("rpcsession_sessions where idle_expires_at <= 10")).toBe(10);
    expect(await other.left("rpcsession_sessions")).toBe(11);
    await other[Symbol.asyncDispose]();
    expect(await store.prune(500)).toBe(10);
    expect((await store.load("alive")).record?.id).toBe("alive");
  });

  it("removes each session once when four stores prune at once", async () => {
    await using fixture = await openedPostgres(server());
    const { clock, store } = await withEnded(fixture);
    const stores = Array.from({ length: 4 }, () => postgresStore(fixture.url, { connections: 1 }));
    await Promise.all(stores.map((one) => one.open({ clock })));
    const gone = (await Promise.all(stores.map(pruneAll))).flat();
    const rest = await pruneAll(store);
    expect([...gone, ...rest].reduce((sum, count) => sum + count, 0)).toBe(many);
    expect((await store.load("alive")).record?.id).toBe("alive");
    await Promise.all(stores.map((one) => one.close()));
  });
});

/** Adds a live session, and many that ended long ago: half of them expired, half were revoked. */
async function withEnded(fixture: Awaited<ReturnType<typeof openedPostgres>>) {
  await fixture.store.insert(newSession({ id: "alive" }));
  for (const [name, end] of [
    ["expired", "'idle_expires_at', n, 'sweep_at', 0"],
    ["revoked", "'revoked_at', n"],
  ]) {
    await fixture.admin.query(
      `insert into rpcsession_sessions select (jsonb_populate_record(s, jsonb_build_object('id', n || '-${name}', ${end}))).* from rpcsession_sessions s, generate_series(1, ${many / 2}) n where s.id = 'alive'`,
    );
  }
  return fixture;
}

/** Prunes until nothing is left; returns how many rows each batch removed. */
async function pruneAll(store: { prune(limit: number): Promise<number> }): Promise<number[]> {
  const gone = [];
  do {
    gone.push(await store.prune(500));
  } while (gone.at(-1) !== 0);
  return gone;
}
