import assert from "node:assert/strict";
import { newSession, type Rules } from "./fixture.ts";

/** What the signing keys, the secret, and opening promise. */
export const keyRules: Rules = {
  async "signing keys come by slot, with the time of the store's clock"({ store, clock }) {
    assert.deepEqual(await store.signingKeys(), { keys: [], now: clock.now() });
    const createdAt = clock.now();
    for (const slot of [10, 9, 0]) {
      assert.equal(await store.addSigningKey(signingKey(slot)), true);
    }
    await clock.advance(5);
    const keys = [0, 9, 10].map((slot) => ({ ...signingKey(slot), createdAt }));
    assert.deepEqual(await store.signingKeys(), { keys, now: clock.now() });
  },

  async "a slot is taken once"({ store }) {
    await store.addSigningKey(signingKey(3));
    const before = await store.signingKeys();
    assert.equal(await store.addSigningKey(signingKey(3, "other")), false);
    assert.deepEqual(await store.signingKeys(), before);
  },

  async "of keys added to one slot at once exactly one is taken"({ store }) {
    const added = await Promise.all(
      Array.from({ length: 20 }, async (_, index) => {
        const key = signingKey(0, `key-${index}`);
        return (await store.addSigningKey(key)) ? [key.kid] : [];
      }),
    );
    const { keys } = await store.signingKeys();
    assert.deepEqual(
      keys.map(({ kid }) => kid),
      added.flat(),
    );
    assert.equal(keys.length, 1);
  },

  async "signing keys below a slot are removed"({ store }) {
    for (const slot of [0, 1, 2, 10]) {
      await store.addSigningKey(signingKey(slot));
    }
    await store.removeSigningKeysBelow(2);
    await store.removeSigningKeysBelow(2);
    const { keys } = await store.signingKeys();
    assert.deepEqual(
      keys.map(({ slot }) => slot),
      [2, 10],
    );
  },

  async "an embedded secret has at least 32 bytes, and stays"({ store }) {
    const first = await store.secret?.();
    const kept = first?.slice();
    first?.fill(0);
    assert.deepEqual(await store.secret?.(), kept);
    assert.ok(kept === undefined || kept.length >= 32);
  },

  async "a second engine may open the store, also at the same time"({ store, clock }) {
    await store.insert(newSession());
    await Promise.all([store.open({ clock }), store.open({ clock })]);
    assert.equal((await store.load("s1")).record?.id, "s1");
  },

  async "close does nothing the second time"({ store }) {
    await Promise.all([store.close(), store.close()]);
    await store.close();
  },
};

function signingKey(slot: number, kid = `kid-${slot}`) {
  return { slot, kid, alg: "ES256", publicJwk: `{"kid":"${kid}"}`, privateJwk: "sealed" };
}
