import assert from "node:assert/strict";
import { advance, atOnce, idle, newSession, type Rules } from "./fixture.ts";

/** What `confirm` promises. */
export const confirmRules: Rules = {
  async "confirm waits until a generation is old enough"({ store, clock }) {
    const { record } = await store.insert(newSession());
    await clock.advance(99);
    assert.equal(await store.confirm("s1", 0, 100), false);
    assert.deepEqual((await store.load("s1")).record, record);
    await clock.advance(1);
    assert.equal(await store.confirm("s1", 0, 100), true);
    assert.deepEqual((await store.load("s1")).record, { ...record, confirmedAt: clock.now() });
  },

  async "confirm counts the age from the last advance"({ store, clock }) {
    await store.insert(newSession());
    await clock.advance(100);
    await store.refresh(advance(0));
    assert.equal(await store.confirm("s1", 1, 100), false);
  },

  async "confirm counts a negative age as 0"({ store, clock }) {
    await store.insert(newSession());
    await clock.advance(-1000);
    assert.equal(await store.confirm("s1", 0, 1), false);
    assert.equal(await store.confirm("s1", 0, 0), true);
    assert.equal((await store.load("s1")).record?.confirmedAt, clock.now());
  },

  async "confirm leaves the time of a confirmed generation"({ store, clock }) {
    await store.insert(newSession());
    await store.confirm("s1", 0, 0);
    const { record } = await store.load("s1");
    await clock.advance(100);
    assert.equal(await store.confirm("s1", 0, 0), true);
    assert.equal(await store.confirm("s1", 0, idle), true);
    assert.deepEqual((await store.load("s1")).record, record);
  },

  async "confirm is done with what can never be: superseded, ended, missing"({ store }) {
    await store.insert(newSession());
    const next = (await store.refresh(advance(0))).record;
    assert.equal(await store.confirm("s1", 0, 0), true);
    assert.equal(await store.confirm("s1", 0, idle), true);
    assert.deepEqual((await store.load("s1")).record, next);
    const ended = (await store.revoke("s1", "revoked")).record;
    assert.equal(await store.confirm("s1", 1, 0), true);
    assert.deepEqual((await store.load("s1")).record, ended);
    assert.equal(await store.confirm("absent", 0, 0), true);
  },

  async "confirm is not done with a generation that the store has lost"({ store }) {
    await store.insert(newSession());
    assert.equal(await store.confirm("s1", 3, 0), false);
    assert.equal((await store.load("s1")).record?.confirmedAt, null);
    await store.confirm("s1", 0, 0);
    assert.equal(await store.confirm("s1", 3, 0), false);
  },

  async "confirms at once agree"({ store, clock }) {
    await store.insert(newSession());
    const done = await atOnce(() => store.confirm("s1", 0, 0));
    assert.deepEqual(new Set(done), new Set([true]));
    assert.equal((await store.load("s1")).record?.confirmedAt, clock.now());
  },
};
