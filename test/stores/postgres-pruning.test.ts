import { expect, it } from "vitest";
import { postgresStore } from "../../src/stores/postgres/index.ts";
import { newSession } from "../../src/testing/store-contract/fixture.ts";
import { describePostgres } from "./describe-postgres.ts";
import { holding, openedPostgres } from "./postgres-fixture.ts";

const many = 3000;

describePostgres("pruning sessions on PostgreSQL", (server) => {
  it("goes by its limit, and past the sessions that others hold", async () => {
    await using fixture = await openedPostgres(server());
    const { store } = await withEnded(fixture);
    await using other = await holding(
      fixture,
      "select 1 from rpcsession_sessions where idle_expires_at <= 10",
    );
    const gone = await pruneAll(store);
    // Half of them by their idle end, half by a revoke; all of one batch count together.
    expect(gone.slice(0, -1).every((count) => count <= 500)).toBe(true);
    expect(gone.reduce((sum, count) => sum + count, 0)).toBe(many - 10);
    expect(await other.left("rpcsession_sessions where idle_expires_at <= 10")).toBe(10);
    expect(await other.left("rpcsession_sessions")).toBe(11);
    await other[Symbol.asyncDispose]();
    expect(await store.prune(500)).toBe(10);
    expect((await store.load("alive")).record?.id).toBe("alive");
  });

  it("by four stores at once takes each of them once", async () => {
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

/** Adds a session that lives, and many that ended long ago: one half each way. */
async function withEnded(fixture: Awaited<ReturnType<typeof openedPostgres>>) {
  await fixture.store.insert(newSession({ id: "alive" }));
  for (const [name, end] of [
    ["expired", "'idle_expires_at', n"],
    ["revoked", "'revoked_at', n"],
  ]) {
    await fixture.admin.query(
      `insert into rpcsession_sessions select (jsonb_populate_record(s, jsonb_build_object('id', n || '-${name}', ${end}))).* from rpcsession_sessions s, generate_series(1, ${many / 2}) n where s.id = 'alive'`,
    );
  }
  return fixture;
}

/** What each batch took, until nothing was left. */
async function pruneAll(store: { prune(limit: number): Promise<number> }): Promise<number[]> {
  const gone = [];
  do {
    gone.push(await store.prune(500));
  } while (gone.at(-1) !== 0);
  return gone;
}
