// The whole life of a session with the client of rpc-session, over every adapter.
import { Code, createClient } from "@connectrpc/connect";
import {
  createConnectTransport,
  createGrpcTransport,
  createGrpcWebTransport,
} from "@connectrpc/connect-node";
import { createSessionClient, type TransportParts } from "rpc-session/client";
import { testSessions } from "rpc-session/testing";
import { describe, expect, it, onTestFinished } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { notesApp } from "../helpers/notes.ts";
import { type Adapter, adapters, certificate, type Running } from "./adapters.ts";

const protocols = {
  Connect: createConnectTransport,
  "gRPC-Web": createGrpcWebTransport,
  gRPC: createGrpcTransport,
} as const;

const rows = adapters.flatMap((adapter) =>
  (Object.keys(protocols) as (keyof typeof protocols)[])
    .filter((protocol) => protocol !== "gRPC" || adapter.protocols.includes("grpc"))
    .map((protocol) => ({ name: `${adapter.name}, ${protocol}`, adapter, protocol })),
);

function transportTo({ url }: Running, adapter: Adapter, protocol: keyof typeof protocols) {
  const httpVersion = adapter.http === "h1" ? "1.1" : "2";
  const nodeOptions = { ca: certificate };
  return (parts: TransportParts) =>
    protocols[protocol]({
      baseUrl: url,
      httpVersion: httpVersion as "2",
      nodeOptions,
      ...parts,
    });
}

describe.each(rows)("$name", ({ adapter, protocol }) => {
  it("feat:K5 signs in, refreshes transparently, streams and signs out", async () => {
    const events: string[] = [];
    const sessions = testSessions({
      public: [NotesService.method.signIn],
      // Refusals are events too; how many there are depends on how many calls are in flight.
      onEvent: ({ type }) => {
        if (type !== "warning" && type !== "refused") {
          events.push(type);
        }
      },
    });
    const { routes, calls } = notesApp(sessions);
    const server = await adapter.start(sessions, routes);
    onTestFinished(async () => {
      await server.close();
      await sessions.close();
    });
    const session = createSessionClient({ transport: transportTo(server, adapter, protocol) });
    const notes = createClient(NotesService, session.transport);

    await notes.signIn({ user: "alice" });
    await notes.addNote({ note: { text: "milk" } });
    sessions.clock.advance("16m");
    const lists = await Promise.all([1, 2, 3].map(() => notes.listNotes({})));
    expect(lists.map((list) => list.notes.map(({ text }) => text))).toEqual([
      ["milk"],
      ["milk"],
      ["milk"],
    ]);
    expect(events).toEqual(["created", "refreshed"]);

    sessions.clock.advance("16m");
    const watched: string[] = [];
    for await (const { note } of notes.watchNotes({})) {
      watched.push(note?.text ?? "");
    }
    expect(watched).toEqual(["milk"]);
    expect(events).toEqual(["created", "refreshed", "refreshed"]);

    await session.signOut();
    await expect(notes.listNotes({})).rejects.toMatchObject({ code: Code.Unauthenticated });
    expect(calls.handled).toBe(6);
  });
});
