import {
  createClient,
  createClientPool,
  createCluster,
  createSentinel,
  type RedisClientType,
} from "redis";
import { type RedisClient, redisStore } from "rpc-session/stores/redis";
import { describe, expectTypeOf, it } from "vitest";

describe("types of redisStore", () => {
  it("accepts all clients of node-redis without a cast, whatever their type parameters", () => {
    expectTypeOf(redisStore).toBeCallableWith(createClient());
    expectTypeOf(redisStore).toBeCallableWith(createClient({ RESP: 2 }));
    expectTypeOf(redisStore).toBeCallableWith(createClientPool());
    expectTypeOf(redisStore).toBeCallableWith(createCluster({ rootNodes: [] }));
    expectTypeOf(redisStore).toBeCallableWith(
      createSentinel({ name: "primary", sentinelRootNodes: [] }),
    );
    expectTypeOf<RedisClientType>().toExtend<RedisClient>();
  });
});
