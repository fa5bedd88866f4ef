import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { redisStore } from "../../src/stores/redis.ts";
import { newSession } from "../../src/testing/store-contract/fixture.ts";
import { describeDurableSessionStore } from "../../src/testing/store-contract.ts";
import { redisMissing, startRedis, type TestRedis } from "../helpers/redis.ts";
import { describePruning } from "./pruning.ts";
import { createRedis } from "./redis-fixture.ts";

describe.skipIf(redisMissing)(`redisStore ${redisMissing ?? ""}`, () => {
  let redis: TestRedis;
  beforeAll(async () => {
    redis = await startRedis();
  });
  afterAll(() => redis.stop());

  describeDurableSessionStore({ describe, it }, "redisStore", () => createRedis(redis));
  describePruning("redisStore", () => createRedis(redis));
});
