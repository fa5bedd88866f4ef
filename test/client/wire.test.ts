import type { Server } from "node:http";
import { createServer } from "node:http";
import { createServer as createServer2, type Http2Server } from "node:http2";
import type { AddressInfo } from "node:net";
import { Code, createClient, type Transport } from "@connectrpc/connect";
import * as node from "@connectrpc/connect-node";
import * as web from "@connectrpc/connect-web";
import { describe, expect, it, onTestFinished } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { createSessionClient, type TransportParts, withRefresh } from "../../src/client/index.ts";
import { FakeClock } from "./helpers/clock.ts";
import { FakeServer } from "./helpers/fake-server.ts";
import { latch, settle } from "./helpers/setup.ts";

const rows = [
  { name: "Connect h1", h2: false, make: over(node.createConnectTransport, "1.1") },
  { name: "gRPC h2c", h2: true, make: node.createGrpcTransport },
  { name: "Connect h2c", h2: true, make: over(node.createConnectTransport, "2") },
  { name: "gRPC-Web h1", h2: false, make: over(node.createGrpcWebTransport, "1.1") },
  { name: "connect-web", h2: false, make: web.createConnectTransport },
  { name: "connect-web gRPC-Web", h2: false, make: web.createGrpcWebTransport },
];

describe.each(rows)("a real server over $name", ({ h2, make }) => {
  it("feat:P1 refreshes once for many calls and resends a refused stream", async () => {
    const { server, notes } = await start(h2, make);
    await notes.signIn({});
    server.expireAll();
    await Promise.all(Array.from({ length: 30 }, () => notes.addNote({})));
    expect(server.count("Refresh")).toBe(1);
    expect(server.handled.filter((method) => method === "AddNote")).toHaveLength(30);
    for (const hasHintHeader of [true, false]) {
      server.expireAll();
      server.noHintHeader = !hasHintHeader;
      const seen: unknown[] = [];
      for await (const message of notes.watchNotes({})) {
        seen.push(message.note?.text);
      }
      expect(seen).toEqual(["a", "b"]);
    }
    expect(server.count("Refresh")).toBe(3);
    expect(server.count("WatchNotes")).toBe(4);
  });

  it("sends the remaining time as the deadline of the second attempt", async () => {
    const { server, clock, notes } = await start(h2, make);
    await notes.signIn({});
    server.expireAll();
    const slow = latch();
    server.hold.Refresh = slow.promise;
    const call = notes.addNote({}, { timeoutMs: 9_000 });
    while (server.count("Refresh") === 0) {
      await settle();
    }
    clock.advance(2_000);
    slow.open();
    await call;
    const sent = server.last("AddNote");
    expect(sent.get("connect-timeout-ms") ?? sent.get("grpc-timeout")).toMatch(/^7000m?$/);
  });

  it("works with withRefresh and signs out", async () => {
    const { server, session, plain } = await start(h2, make);
    const notes = withRefresh(plain, session);
    await notes.signIn({});
    server.expireAll();
    await notes.addNote({});
    const seen: unknown[] = [];
    server.expireAll();
    for await (const message of notes.watchNotes({})) {
      seen.push(message);
    }
    expect(seen).toHaveLength(2);
    await session.signOut();
    await expect(notes.addNote({})).rejects.toMatchObject({ code: Code.Unauthenticated });
  });

  it("keeps the session when the server is down", async () => {
    const { server, session, notes, stop } = await start(h2, make);
    await notes.signIn({});
    await stop();
    await expect(session.refresh()).rejects.toMatchObject({ code: Code.Unavailable });
    expect(session.state.status).toBe("signedIn");
    expect(server.count("Refresh")).toBe(0);
  });
});

type Make = (options: { baseUrl: string } & Partial<TransportParts>) => Transport;

async function start(h2: boolean, make: (options: never) => unknown) {
  const clock = new FakeClock();
  const server = new FakeServer(clock);
  const handler = node.connectNodeAdapter({ routes: server.routes, requestGate: server.gate });
  const http: Server | Http2Server = h2 ? createServer2(handler) : createServer(handler);
  const sessions = new Set<{ destroy(): void }>();
  http.on(h2 ? "session" : "connection", (peer: { destroy(): void }) => sessions.add(peer));
  await new Promise<void>((resolve) => http.listen(0, "127.0.0.1", resolve));
  const baseUrl = `http://127.0.0.1:${(http.address() as AddressInfo).port}`;
  const stop = async (): Promise<void> => {
    for (const peer of sessions) {
      peer.destroy();
    }
    await new Promise((resolve) => http.close(resolve));
  };
  onTestFinished(stop);
  const create = make as unknown as Make;
  const transport = (parts: TransportParts) => create({ baseUrl, ...parts });
  const session = createSessionClient({ transport, clock });
  const notes = createClient(NotesService, session.transport);
  const plain = createClient(NotesService, create({ baseUrl }));
  return { clock, server, session, notes, plain, stop };
}

function over<O>(make: (options: O) => Transport, httpVersion: "1.1" | "2") {
  return (options: object) => make({ ...options, httpVersion } as O);
}
