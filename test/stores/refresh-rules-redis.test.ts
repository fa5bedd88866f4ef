import { afterAll, beforeAll, describe } from "vitest";
import { redisMissing, startRedis, type TestRedis } from "../servers/redis.ts";
import { describeRefreshRules } from "./refresh-rules.ts";
import { sharedRedis } from "./shared-stores.ts";

describe.skipIf(redisMissing)(`feat:O4 four servers on one Redis ${redisMissing ?? ""}`, () => {
  let redis: TestRedis;
  beforeAll(async () => {
    redis = await startRedis();
  });
  afterAll(() => redis.stop());
  describeRefreshRules(() => sharedRedis(redis));
});
