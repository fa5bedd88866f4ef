import { expect, it, onTestFinished } from "vitest";
import { openSecretRing, randomId } from "../../src/base/crypto.ts";
import { RefreshTokens } from "../../src/engine/refresh/token.ts";
import { redisStore } from "../../src/stores/redis/index.ts";
import { startEngine } from "../helpers/engine.ts";
import { redisMissing, startRedis, type TestRedisClient } from "../servers/redis.ts";
import { redisWithFakeClock } from "./redis-fixture.ts";

const secret = "a secret of at least 32 bytes, for tests";

it.skipIf(redisMissing)(
  "feat:H7 a dump of all keys of redisStore is not enough to make tokens",
  async () => {
    const redis = await startRedis();
    onTestFinished(() => redis.stop());
    const client = await redis.connect();
    const { newStore, clock } = await redisWithFakeClock(client, { prefix: "dumped" });
    const engine = await startEngine({ store: newStore(), clock, secret });
    const { id, token } = await engine.signIn();
    const { access, record } = await engine.exchange(token);
    const dump = await dumpOf(client);

    expect(dump).toContain(record.rootHash);
    const [, , , , root = "", mac = ""] = token.split(".");
    for (const hidden of [secret, token, root, mac, access.token, '"d":']) {
      expect(dump).not.toContain(hidden);
    }

    // An attacker with every row and the id of the secret, but without the secret.
    const { current } = await openSecretRing(
      [crypto.getRandomValues(new Uint8Array(32))],
      "https://api.example.com",
    );
    const guessed = { ...current, id: record.secretId };
    const thief = new RefreshTokens({
      store: redisStore(client, { prefix: "dumped" }),
      secrets: {
        current: guessed,
        byId: new Map([[guessed.id, guessed]]),
        statusOf: async () => "never",
        reload: async () => {},
      },
      emit: () => {},
    });
    const forged = await thief.mint(record, randomId(16));
    expect(forged.split(".").slice(0, 4)).toEqual([record.secretId, id, "0", "2"]);
    await expect(engine.exchange(forged)).rejects.toMatchObject({ reason: "TOKEN_INVALID" });
    // The signing key is encrypted under the secret, so the attacker's server cannot sign with it.
    const theirs = startEngine({ store: newStore(), clock, secret: randomId(32) });
    const their = await theirs.then((other) => other.signIn());
    await expect(engine.exchange(their.token)).rejects.toMatchObject({
      kind: "unauthorized",
      reason: "TOKEN_INVALID",
    });
  },
);

async function dumpOf(client: TestRedisClient): Promise<string> {
  const keys = await client.keys("*");
  const read = {
    hash: (key: string) => client.hGetAll(key),
    stream: (key: string) => client.xRange(key, "-", "+"),
    string: (key: string) => client.get(key),
    zset: (key: string) => client.zRangeWithScores(key, 0, -1),
  };
  const values = await Promise.all(
    keys.map(async (key) => [key, await read[(await client.type(key)) as keyof typeof read](key)]),
  );
  // Escapes of nested JSON would hide the searched text.
  return JSON.stringify(values).replaceAll("\\", "");
}
