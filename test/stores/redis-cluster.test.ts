import { createCluster } from "redis";
import { expect, it, onTestFinished, vi } from "vitest";
import { redisStore } from "../../src/stores/redis/index.ts";
import { insertNew, newSession } from "../../src/testing/store-contract/fixture.ts";
import { freePort } from "../servers/port.ts";
import { redisMissing, startRedis } from "../servers/redis.ts";
import { stillClock } from "./still-clock.ts";

const clock = { ...stillClock(), after: () => () => {} };

it.skipIf(redisMissing)("redisStore works on Redis Cluster with any user ids", async () => {
  // Nodes talk to each other on a port that is 10,000 higher.
  const port = String(await freePort());
  const node = await startRedis(
    ...["--port", port, "--bind", "127.0.0.1", "--cluster-enabled", "yes"],
  );
  onTestFinished(() => node.stop());
  const client = await node.connect();
  await client.sendCommand(["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
  await vi.waitFor(async () => expect(await client.clusterInfo()).toContain("cluster_state:ok"));
  const cluster = createCluster({ rootNodes: [{ url: `redis://127.0.0.1:${port}` }] });
  cluster.on("error", () => {});
  await cluster.connect();
  onTestFinished(() => cluster.destroy());

  await client.hSet("{rpc-session}:meta", "schema", "1");
  const store = redisStore(cluster);
  await store.open({ clock });
  const owner = { userId: "{a}:b}", tenantId: "{x}" };
  const page = { cursor: undefined, limit: 2 };
  await Promise.all(
    Array.from({ length: 600 }, (_, id) => insertNew(store, { id: `${id}`, ...owner })),
  );
  const { record } = await insertNew(store, { ...owner, replaces: "0", requires: "1" });
  expect(await store.insert(newSession({ id: "s2", requires: "0" }))).toMatchObject({
    refused: "notLive",
  });
  await store.update({ id: "s1", version: 0, claims: { role: "user" } });
  expect((await store.list({ ...owner, tenantId: null }, page)).records).toHaveLength(2);
  expect((await store.list({ ...owner, userId: null }, page)).records).toHaveLength(2);
  expect((await store.list(owner, page)).records).toHaveLength(2);
  expect((await store.revokeAll({ ids: ["1", "2"] }, "revoked")).revoked).toEqual(["1", "2"]);
  const { revoked } = await store.revokeAll({ ...owner, except: record.id }, "revoked");
  expect(revoked).toHaveLength(597);
  await store.prune(100);
  expect((await store.changes(undefined, 3_600_000)).entries).toHaveLength(601);
  expect((await store.list(owner, page)).records.map(({ id }) => id)).toEqual(["s1"]);
});
