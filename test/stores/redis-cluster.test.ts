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

it.skipIf(redisMissing)(
  "sec:V03 a slot that moved to another node of Redis Cluster is no loss, a promoted replica is one",
  async () => {
    const ports = [await freePort(), await freePort(), await freePort()].map(String);
    const nodes = await Promise.all(
      ports.map(async (port) => {
        const node = await startRedis(
          ...["--port", port, "--bind", "127.0.0.1", "--cluster-enabled", "yes"],
          ...["--cluster-node-timeout", "1000", "--repl-diskless-sync-delay", "0"],
        );
        onTestFinished(() => node.stop());
        return node.connect();
      }),
    );
    const [from, to, replica] = nodes as [Node, Node, Node];
    await from.sendCommand(["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
    for (const [index, node] of [to, replica].entries()) {
      await node.sendCommand(["CLUSTER", "MEET", "127.0.0.1", ports[0] ?? ""]);
      await vi.waitFor(
        async () => {
          const [here, there] = [await from.clusterInfo(), await node.clusterInfo()];
          expect(here).toContain(`cluster_known_nodes:${index + 2}`);
          expect(there).toContain("cluster_state:ok");
        },
        { timeout: 30_000 },
      );
    }
    const [fromId, toId] = [await idOf(from), await idOf(to)];
    await until(() => replica.sendCommand(["CLUSTER", "REPLICATE", toId]));
    const cluster = createCluster({ rootNodes: [{ url: `redis://127.0.0.1:${ports[0]}` }] });
    cluster.on("error", () => {});
    await cluster.connect();
    onTestFinished(() => cluster.destroy());

    const store = redisStore(cluster);
    await store.open({ clock });
    const begun = await store.changes(undefined, hour);
    const { record, history } = await insertNew(store, { id: "s1" });
    expect(history).toBe(begun.history);
    // As if the other node had run for an hour before that, without waiting for it.
    await from.hSet(meta, "seenAt", String(begun.now + hour));

    // Move the slot, as redis-cli --cluster reshard does.
    const slot = JSON.stringify(await from.sendCommand(["CLUSTER", "KEYSLOT", meta]));
    const setSlot = (node: Node, ...args: string[]) =>
      node.sendCommand(["CLUSTER", "SETSLOT", slot, ...args]);
    await setSlot(to, "IMPORTING", fromId);
    await setSlot(from, "MIGRATING", toId);
    const keys = (await from.sendCommand(["CLUSTER", "GETKEYSINSLOT", slot, "1000"])) as unknown;
    await from.sendCommand([
      ...["MIGRATE", "127.0.0.1", ports[1] ?? "", "", "0", "5000", "KEYS"],
      ...(keys as string[]),
    ]);
    await setSlot(to, "NODE", toId);
    await setSlot(from, "NODE", toId);

    const moved = await store.changes(begun.cursor, hour);
    expect(moved).toMatchObject({ history: begun.history, entries: [] });
    expect(moved.lostAt).toBeUndefined();
    expect((await store.load(record.id)).history).toBe(begun.history);

    // A failover within the cluster: once the replica has the data and knows of the slot, which it takes.
    await until(async () => expect(await to.wait(1, 100)).toBe(1));
    await until(async () => {
      const known = (await replica.sendCommand(["CLUSTER", "NODES"])) as unknown as string;
      const owner = known.split("\n").find((line) => line.startsWith(toId));
      expect(owner?.split(" ")).toContain(slot);
    });
    await until(() => replica.sendCommand(["CLUSTER", "FAILOVER", "TAKEOVER"]));
    await vi.waitFor(
      async () => {
        const failedOver = await store.changes(moved.cursor, hour);
        expect(failedOver.lostAt).toBeDefined();
        expect(failedOver.history).not.toBe(begun.history);
        const { history: present } = await store.load(record.id);
        expect(present).toBe(failedOver.history);
      },
      { timeout: 30_000 },
    );
  },
  120_000,
);

type Node = Awaited<ReturnType<Awaited<ReturnType<typeof startRedis>>["connect"]>>;

const hour = 3_600_000;
const meta = "{rpc-session}:meta";

async function idOf(node: Node): Promise<string> {
  return (await node.sendCommand(["CLUSTER", "MYID"])) as unknown as string;
}

/** Repeats a command until the nodes know enough of each other. */
async function until(command: () => Promise<unknown>): Promise<void> {
  await vi.waitFor(command, { timeout: 30_000 });
}
