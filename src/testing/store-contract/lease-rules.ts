import assert from "node:assert/strict";
import { atOnce, type Rules } from "./fixture.ts";

/** What leases promise. */
export const leaseRules: Rules = {
  async "a lease has one holder, until its time is over"({ store, clock }) {
    assert.equal(await store.lease("work", "a", 1000), true);
    assert.equal(await store.lease("work", "b", 1000), false);
    await clock.advance(999);
    assert.equal(await store.lease("work", "b", 1000), false);
    await clock.advance(1);
    assert.equal(await store.lease("work", "b", 1000), true);
    assert.equal(await store.lease("work", "a", 1000), false);
  },

  async "a lease is renewed by its holder, from that moment on"({ store, clock }) {
    for (let round = 0; round < 5; round++) {
      assert.equal(await store.lease("work", "a", 1000), true);
      await clock.advance(600);
      assert.equal(await store.lease("work", "b", 1000), false);
    }
    await clock.advance(400);
    assert.equal(await store.lease("work", "b", 1000), true);
  },

  async "leases of other names are others"({ store }) {
    assert.equal(await store.lease("work", "a", 1000), true);
    assert.equal(await store.lease("other", "b", 1000), true);
    assert.equal(await store.lease("work", "b", 1000), false);
    assert.equal(await store.lease("other", "a", 1000), false);
  },

  async "of many who ask for a lease at once exactly one gets it"({ store, clock }) {
    for (let round = 0; round < 3; round++) {
      const taken = await atOnce((index) => store.lease("work", `${round}-${index}`, 1000));
      assert.equal(taken.filter(Boolean).length, 1);
      await clock.advance(1000);
    }
  },
};
