import { readdirSync } from "node:fs";
import { createFakeClock, type FakeClock } from "rpc-session/testing";
import { expect, it, vi } from "vitest";
import { Reason } from "../../gen/rpcsession/v1/hint_pb.ts";
import {
  connectTo,
  hintOf,
  type OpenedStream,
  openStream,
  type StreamServer,
  startStreams,
  streamCells,
} from "../helpers/streams.ts";
import { heldMegabytes } from "../helpers/upload.ts";

const batches = 8;
/** Streams per batch, of each kind over each wire. */
const perCell = 20;

it("feat:Q2 feat:G7 2,000 streams, half of them revoked, leak nothing", async () => {
  const world = await start();
  let opened = 0;
  let revoked = 0;
  // The first batch allocates what stays: listening sockets, caches, compiled code.
  const done = await runBatch(world);
  const before = await held(world);
  opened += done.opened;
  revoked += done.revoked;
  for (let batch = 1; batch < batches; batch++) {
    const { opened: more, revoked: ofThem } = await runBatch(world);
    opened += more;
    revoked += ofThem;
  }
  const { megabytes, timers, ...counted } = await held(world);
  const { megabytes: megabytesBefore, timers: timersBefore, ...countedBefore } = before;
  expect(opened).toBeGreaterThanOrEqual(2_000);
  expect(revoked * 2).toBe(opened);
  expect(counted).toEqual(countedBefore);
  expect(counted).toMatchObject({ listeners: 0 });
  // The engine's own timers: one more or less while it reads the log.
  expect(Math.abs(timers - timersBefore)).toBeLessThanOrEqual(1);
  // A revocation takes about 250 bytes for the maximum lifetime of an access token.
  expect(megabytes - megabytesBefore).toBeLessThan(10);
  await world.server.close();
  // No timer is left once the sessions are closed.
  expect(world.timers()).toBe(0);
}, 300_000);

interface World {
  readonly server: StreamServer;
  readonly timers: () => number;
}

/** Measures the resources that must not grow. */
async function held({ server, timers }: World) {
  const resources: Record<string, number> = {};
  for (const name of process.getActiveResourcesInfo()) {
    resources[name] = (resources[name] ?? 0) + 1;
  }
  return {
    listeners: server.sessions.health().streams,
    timers: timers(),
    descriptors: readdirSync("/proc/self/fd").length,
    resources,
    megabytes: await heldMegabytes(),
  };
}

/** Opens streams of every kind over every wire, ends each in one of three ways, and waits for the end. */
async function runBatch({ server }: World) {
  const clients = streamCells.map((cell) => ({ ...cell, client: connectTo(server, cell.wire) }));
  const streams: OpenedStream[] = [];
  for (let i = 0; i < perCell; i++) {
    for (const { kind, client } of clients) {
      streams.push(await openStream(server, client, { kind }));
    }
  }
  const ways = { revoked: 0, canceled: 0, expired: 0 };
  const expiring: OpenedStream[] = [];
  for (const [i, stream] of streams.entries()) {
    if (i % 2 === 0) {
      ways.revoked += 1;
      await stream.revoke();
      expect(hintOf(await stream.ended)?.reason).toBe(Reason.SESSION_REVOKED);
    } else if (i % 4 === 1) {
      ways.canceled += 1;
      stream.cancel();
      await stream.ended;
    } else {
      expiring.push(stream);
    }
  }
  server.sessions.clock.advance("15m");
  for (const stream of expiring) {
    ways.expired += 1;
    expect(hintOf(await stream.ended)?.reason).toBe(Reason.TOKEN_EXPIRED);
  }
  await Promise.all(streams.map(({ run }) => run.over));
  expect(server.service.runs).toHaveLength(streams.length);
  expect(server.service.runs.filter(({ isOver }) => !isOver)).toEqual([]);
  server.service.runs.length = 0;
  for (const { client } of clients) {
    client.close();
  }
  await connectionsGone();
  return { opened: streams.length, revoked: ways.revoked };
}

/** Waits until both sides have closed their sockets. */
async function connectionsGone(): Promise<void> {
  await vi.waitFor(() => expect(process.getActiveResourcesInfo()).not.toContain("TCPSocketWrap"));
}

async function start(): Promise<World> {
  const { clock, pending } = countedClock();
  return { server: await startStreams({ clock }), timers: pending };
}

/** A clock that counts its pending timers. */
function countedClock(): { readonly clock: FakeClock; readonly pending: () => number } {
  const clock = createFakeClock();
  const timers = new Set<object>();
  const after: FakeClock["after"] = (ms, action) => {
    const timer = {};
    timers.add(timer);
    const cancel = clock.after(ms, () => {
      timers.delete(timer);
      action();
    });
    return () => {
      timers.delete(timer);
      cancel();
    };
  };
  return { clock: { ...clock, after }, pending: () => timers.size };
}
