import assert from "node:assert/strict";
import type { RefreshWrite, SessionRecord, SessionStore } from "../../engine/store.ts";
import {
  absolute,
  advance,
  atOnce,
  confirmOne,
  idle,
  newSession,
  type Rules,
  refreshOfEachKind,
} from "./fixture.ts";

/** The rules of `refresh`. */
export const refreshRules: Rules = {
  async "advance moves to the next generation, unconfirmed"({ store, clock }) {
    await store.insert(newSession());
    await clock.advance(5);
    const { record } = await store.refresh(resend(5));
    await confirmOne(store, "s1", 0, 0);
    await clock.advance(10);
    const now = clock.now();
    const expected = {
      ...record,
      generation: 1,
      confirmedAt: null,
      rotatedAt: now,
      sentAt: now,
      prolonged: 0,
      secretId: "secret-b",
      formerSecretId: "secret-a",
      lastSeenAt: now,
      idleExpiresAt: now + idle,
    };
    assert.deepEqual(await store.refresh(advance(0)), { record: expected, now });
    assert.deepEqual(await store.load("s1"), { record: expected, now });
  },

  async "every kind keeps the key that a session is bound to, or binds it to the given one"({
    store,
  }) {
    const bound = { boundKey: "key-a" };
    const { record } = await store.insert(newSession(bound));
    assert.equal(record?.boundKey, "key-a");
    for (const [index, write] of refreshOfEachKind(0).entries()) {
      const [own, late] = [`own-${index}`, `late-${index}`];
      await store.insert(newSession({ ...bound, id: own }));
      assert.equal((await store.refresh({ ...write, id: own })).record?.boundKey, "key-a");
      await store.insert(newSession({ id: late }));
      await store.refresh({ ...write, ...bound, id: late });
      assert.equal((await store.load(late)).record?.boundKey, "key-a");
    }
  },

  async "keep only extends the idle end"({ store, clock }) {
    const { record } = await store.insert(newSession());
    await clock.advance(10);
    const now = clock.now();
    const expected = { ...record, lastSeenAt: now, idleExpiresAt: now + 500 };
    assert.deepEqual(await store.refresh(keep(null, 500)), { record: expected, now });
    assert.deepEqual(await store.load("s1"), { record: expected, now });
  },

  async "forward moves to a lost generation, unconfirmed"({ store, clock }) {
    await store.insert(newSession());
    await clock.advance(5);
    const { record } = await store.refresh(resend(5));
    await confirmOne(store, "s1", 0, 0);
    await clock.advance(10);
    const now = clock.now();
    const expected = {
      ...record,
      generation: 41,
      confirmedAt: null,
      rotatedAt: now,
      sentAt: now,
      prolonged: 0,
      secretId: "secret-c",
      lastSeenAt: now,
      idleExpiresAt: now + idle,
    };
    const write = { id: "s1", generation: 0, idle, to: 41, secretId: "secret-c" } as const;
    assert.deepEqual((await store.refresh({ kind: "forward", ...write })).record, expected);
    assert.deepEqual((await store.load("s1")).record, expected);
  },

  async "resend moves the time from which the generation settles"({ store, clock }) {
    const { record } = await store.insert(newSession());
    await clock.advance(10);
    const now = clock.now();
    const expected = {
      ...{ ...record, sentAt: now, prolonged: 10 },
      ...{ lastSeenAt: now, idleExpiresAt: now + idle },
    };
    assert.deepEqual(await store.refresh(resend(10)), { record: expected, now });
    assert.deepEqual(await store.load("s1"), { record: expected, now });
  },

  async "resend without a new value only extends the idle end"({ store, clock }) {
    await store.insert(newSession());
    await clock.advance(10);
    const { record } = await store.refresh(resend(10));
    await clock.advance(10);
    const now = clock.now();
    const expected = { ...record, lastSeenAt: now, idleExpiresAt: now + idle };
    assert.deepEqual(await store.refresh(resend(null)), { record: expected, now });
    assert.deepEqual(await store.load("s1"), { record: expected, now });
  },

  async "resend leaves a confirmed generation confirmed"({ store, clock }) {
    await store.insert(newSession());
    const confirmedAt = (await store.refresh(keep(0))).record?.confirmedAt;
    await clock.advance(10);
    assert.equal((await store.refresh(resend(10))).record?.confirmedAt, confirmedAt);
  },

  async "every kind extends the idle end, but never past the absolute end"({ store, clock }) {
    for (const [index, write] of refreshOfEachKind(0).entries()) {
      const id = `s-${index}`;
      await store.insert(newSession({ id, absolute: idle + 100 }));
      await clock.advance(99);
      const early = (await store.refresh({ ...write, id })).record;
      assert.equal(early?.idleExpiresAt, clock.now() + idle, write.kind);
      await clock.advance(2);
      const late = (await store.refresh({ ...write, id, generation: early?.generation ?? 0 }))
        .record;
      assert.equal(late?.idleExpiresAt, late?.expiresAt, write.kind);
      assert.equal(late?.expiresAt, early?.expiresAt, write.kind);
    }
  },

  async "keep with settle confirms a generation that is old enough"({ store, clock }) {
    await store.insert(newSession());
    await clock.advance(99);
    assert.equal((await store.refresh(keep(100))).record?.confirmedAt, null);
    await clock.advance(1);
    assert.equal((await store.refresh(keep(null))).record?.confirmedAt, null);
    assert.equal((await store.refresh(keep(100))).record?.confirmedAt, clock.now());
  },

  async "keep measures the age from the last advance"({ store, clock }) {
    await store.insert(newSession());
    await clock.advance(100);
    await store.refresh(advance(0));
    const write = { ...keep(100), generation: 1 };
    assert.equal((await store.refresh(write)).record?.confirmedAt, null);
  },

  async "keep measures the age from the last re-send that moved it"({ store, clock }) {
    await store.insert(newSession());
    await clock.advance(100);
    await store.refresh(resend(100));
    await clock.advance(99);
    await store.refresh(resend(null));
    assert.equal((await store.refresh(keep(100))).record?.confirmedAt, null);
    await clock.advance(1);
    assert.equal((await store.refresh(keep(100))).record?.confirmedAt, clock.now());
  },

  async "keep does not change the time of a confirmed generation"({ store, clock }) {
    await store.insert(newSession());
    const confirmed = (await store.refresh(keep(0))).record?.confirmedAt;
    await clock.advance(100);
    assert.equal((await store.refresh(keep(0))).record?.confirmedAt, confirmed);
    assert.equal((await store.refresh(keep(null))).record?.confirmedAt, confirmed);
  },

  async "keep treats a negative age as 0"({ store, clock }) {
    await store.insert(newSession());
    await clock.advance(-1000);
    assert.equal((await store.refresh(keep(1))).record?.confirmedAt, null);
    assert.equal((await store.refresh(keep(0))).record?.confirmedAt, clock.now());
  },

  async "no kind changes a missing session"({ store }) {
    await refused(store, refreshOfEachKind(0));
  },

  async "no kind changes a session at another generation"({ store }) {
    await store.insert(newSession());
    await store.refresh(advance(0));
    await refused(store, [...refreshOfEachKind(0), ...refreshOfEachKind(2)]);
  },

  async "no kind changes an ended session"({ store }) {
    await store.insert(newSession());
    await store.revoke("s1", "signOut");
    await refused(store, refreshOfEachKind(0));
  },

  async "no kind changes a session at its idle end; every kind does 1 ms earlier"({
    store,
    clock,
  }) {
    for (const [index, write] of refreshOfEachKind(0).entries()) {
      const id = `s-${index}`;
      await store.insert(newSession({ id }));
      await clock.advance(idle - 1);
      const { record } = await store.refresh({ ...write, id });
      assert.equal(record?.lastSeenAt, clock.now(), write.kind);
      await clock.advance(idle);
      await refused(store, [{ ...write, id, generation: record?.generation ?? 0 }]);
    }
  },

  async "no kind changes a session at its absolute end; every kind does 1 ms earlier"({
    store,
    clock,
  }) {
    for (const [index, write] of refreshOfEachKind(0).entries()) {
      const id = `s-${index}`;
      await store.insert(newSession({ id, idle: absolute }));
      await clock.advance(absolute - 1);
      const { record } = await store.refresh({ ...write, id });
      assert.equal(record?.idleExpiresAt, record?.expiresAt, write.kind);
      await clock.advance(1);
      await refused(store, [{ ...write, id, generation: record?.generation ?? 0 }]);
    }
  },

  async "exactly one of the concurrent advances of a generation succeeds"({ store }) {
    await store.insert(newSession());
    const done = await atOnce((index) =>
      store.refresh({ ...advance(0), kind: "advance", secretId: `secret-${index}` }),
    );
    const winners = done.map(({ record }) => record).filter((record) => record !== undefined);
    assert.equal(winners.length, 1);
    assert.deepEqual((await store.load("s1")).record, winners[0]);
  },

  async "no advance succeeds after a revoke was acknowledged"({ store }) {
    await store.insert(newSession());
    let ended = false;
    const done = await atOnce(async (index) => {
      if (index === 20) {
        await store.revoke("s1", "revoked");
        ended = true;
        return undefined;
      }
      const late = ended;
      const { record } = await store.refresh(advance(index < 20 ? index : 20));
      return late ? record : undefined;
    });
    assert.deepEqual(
      done.filter((record) => record !== undefined),
      [],
    );
    assert.equal((await store.refresh(advance(20))).record, undefined);
  },
};

/** The rules of `confirm`. */
export const confirmRules: Rules = {
  async "confirm waits until a generation is old enough"({ store, clock }) {
    const { record } = await store.insert(newSession());
    await clock.advance(99);
    assert.equal(await confirmOne(store, "s1", 0, 100), false);
    assert.deepEqual((await store.load("s1")).record, record);
    await clock.advance(1);
    assert.equal(await confirmOne(store, "s1", 0, 100), true);
    assert.deepEqual((await store.load("s1")).record, { ...record, confirmedAt: clock.now() });
  },

  async "confirm measures the age from the last advance"({ store, clock }) {
    await store.insert(newSession());
    await clock.advance(100);
    await store.refresh(advance(0));
    assert.equal(await confirmOne(store, "s1", 1, 100), false);
  },

  async "confirm measures the age from the last re-send that moved it"({ store, clock }) {
    await store.insert(newSession());
    await clock.advance(100);
    await store.refresh(resend(100));
    await clock.advance(99);
    await store.refresh(resend(null));
    assert.equal(await confirmOne(store, "s1", 0, 100), false);
    await clock.advance(1);
    assert.equal(await confirmOne(store, "s1", 0, 100), true);
    assert.equal((await store.load("s1")).record?.confirmedAt, clock.now());
  },

  async "confirm treats a negative age as 0"({ store, clock }) {
    await store.insert(newSession());
    await clock.advance(-1000);
    assert.equal(await confirmOne(store, "s1", 0, 1), false);
    assert.equal(await confirmOne(store, "s1", 0, 0), true);
    assert.equal((await store.load("s1")).record?.confirmedAt, clock.now());
  },

  async "confirm keeps the time of a generation that is confirmed already"({ store, clock }) {
    await store.insert(newSession());
    await confirmOne(store, "s1", 0, 0);
    const { record } = await store.load("s1");
    await clock.advance(100);
    assert.equal(await confirmOne(store, "s1", 0, 0), true);
    assert.equal(await confirmOne(store, "s1", 0, idle), true);
    assert.deepEqual((await store.load("s1")).record, record);
  },

  async "confirm returns true for superseded, ended and missing sessions, without a change"({
    store,
  }) {
    await store.insert(newSession());
    const next = (await store.refresh(advance(0))).record;
    assert.equal(await confirmOne(store, "s1", 0, 0), true);
    assert.equal(await confirmOne(store, "s1", 0, idle), true);
    assert.deepEqual((await store.load("s1")).record, next);
    const ended = (await store.revoke("s1", "revoked")).record;
    assert.equal(await confirmOne(store, "s1", 1, 0), true);
    assert.deepEqual((await store.load("s1")).record, ended);
    assert.equal(await confirmOne(store, "absent", 0, 0), true);
  },

  async "confirm returns false for a generation that the store has lost"({ store }) {
    await store.insert(newSession());
    assert.equal(await confirmOne(store, "s1", 3, 0), false);
    assert.equal((await store.load("s1")).record?.confirmedAt, null);
    await confirmOne(store, "s1", 0, 0);
    assert.equal(await confirmOne(store, "s1", 3, 0), false);
  },

  async "confirm answers for each of many uses, and changes only those that are due"({
    store,
    clock,
  }) {
    for (let i = 0; i < 300; i++) {
      await store.insert(newSession({ id: `s${i}` }));
    }
    await clock.advance(100);
    await store.refresh({ ...advance(0), id: "s7" });
    await store.revoke("s8", "revoked");
    await confirmOne(store, "s9", 0, 0);
    const before = new Map<string, SessionRecord | undefined>();
    for (const id of ["s7", "s8", "s9", "s10", "s11"]) {
      before.set(id, (await store.load(id)).record);
    }
    const uses = Array.from({ length: 300 }, (_, i) => ({
      ...{ session: `s${i}`, generation: i === 10 ? 3 : 0, settle: i === 11 ? 101 : 100 },
    }));
    const done = await store.confirm([...uses, { session: "absent", generation: 0, settle: 0 }]);
    assert.deepEqual(
      done.flatMap((each, i) => (each ? [] : [i])),
      [10, 11],
    );
    assert.equal(done.length, 301);
    for (const [id, record] of before) {
      assert.deepEqual((await store.load(id)).record, record);
    }
    assert.equal((await store.load("s299")).record?.confirmedAt, clock.now());
    assert.deepEqual(await store.confirm([]), []);
  },

  async "concurrent confirms agree"({ store, clock }) {
    await store.insert(newSession());
    const done = await atOnce(() => confirmOne(store, "s1", 0, 0));
    assert.deepEqual(new Set(done), new Set([true]));
    assert.equal((await store.load("s1")).record?.confirmedAt, clock.now());
  },
};

function keep(settle: number | null, slide: number = idle): RefreshWrite {
  return { kind: "keep", id: "s1", generation: 0, idle: slide, settle };
}

function resend(prolonged: number | null): RefreshWrite {
  return { kind: "resend", id: "s1", generation: 0, idle, prolonged };
}

/** Checks that no write succeeds, and that nothing changes. */
async function refused(store: SessionStore, writes: readonly RefreshWrite[]): Promise<void> {
  for (const write of writes) {
    const before = await store.load(write.id);
    const { record, now } = await store.refresh(write);
    assert.equal(record satisfies SessionRecord | undefined, undefined, JSON.stringify(write));
    assert.equal(now, before.now);
    assert.deepEqual(await store.load(write.id), before);
  }
}
