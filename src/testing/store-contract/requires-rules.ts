import assert from "node:assert/strict";
import { absolute, atOnce, insertNew, newSession, type Rules } from "./fixture.ts";

/** What the `requires` of an `insert` promises. */
export const requiresRules: Rules = {
  async "insert requires a session that is live"({ store, clock }) {
    await store.insert(newSession({ id: "live" }));
    await store.insert(newSession({ id: "ended" }));
    await store.insert(newSession({ id: "expired", idle: 1 }));
    await store.insert(newSession({ id: "bystander" }));
    await store.revoke("ended", "signOut");
    await clock.advance(1);
    const { cursor } = await store.changes(undefined, 0);
    for (const requires of ["absent", "ended", "expired"]) {
      const answer = await store.insert(newSession({ requires, replaces: "bystander" }));
      assert.deepEqual(answer, { record: undefined, now: clock.now(), refused: "notLive" });
      assert.equal((await store.load("s1")).record, undefined);
    }
    assert.equal((await store.load("bystander")).record?.revokedAt, null);
    assert.deepEqual((await store.changes(cursor, 0)).entries, []);
    const { record } = await insertNew(store, { requires: "live" });
    assert.deepEqual((await store.load("s1")).record, record);
    assert.equal((await store.load("live")).record?.revokedAt, null);
  },

  async "insert may replace the very session it requires, and only one of many does"({ store }) {
    await store.insert(newSession({ id: "old" }));
    const done = await atOnce((index) =>
      store.insert(newSession({ id: `s-${index}`, requires: "old", replaces: "old" })),
    );
    const winners = done.filter(({ record }) => record !== undefined);
    assert.deepEqual(
      winners.map((winner) => "replaced" in winner && winner.replaced),
      [true],
    );
    assert.equal((await store.load("old")).record?.endedBy, "replaced");
    const loaded = await atOnce((index) => store.load(`s-${index}`));
    assert.equal(loaded.filter(({ record }) => record !== undefined).length, 1);
    assert.equal((await store.changes(undefined, absolute)).entries.length, 1);
  },
};
