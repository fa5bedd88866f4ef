import { type Client, createClient, type HandlerContext, type Transport } from "@connectrpc/connect";
import {
  createConnectTransport,
  createGrpcTransport,
  createGrpcWebTransport,
} from "@connectrpc/connect-node";
import { ConnectError } from "@connectrpc/connect";
import type { TestSessions } from "rpc-session/testing";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { type RefreshHint, RefreshHintSchema } from "../../gen/rpcsession/v1/hint_pb.ts";
import { type NotesServer, startNotes, type TestSessionsOptions } from "./server.ts";

/** A protocol over a version of HTTP, as a client of Connect speaks it. */
export interface StreamWire {
  readonly name: string;
  /** Connect itself refuses bidi over HTTP/1.1. */
  readonly bidi: boolean;
  transport(server: NotesServer): Transport;
}

const h1 = ({ port }: NotesServer) =>
  ({ baseUrl: `http://127.0.0.1:${port.h1}`, httpVersion: "1.1" }) as const;
const h2 = ({ port }: NotesServer) =>
  ({ baseUrl: `http://127.0.0.1:${port.h2c}`, httpVersion: "2" }) as const;

export const streamWires: readonly StreamWire[] = [
  { name: "connect h1", bidi: false, transport: (s) => createConnectTransport(h1(s)) },
  { name: "connect h2", bidi: true, transport: (s) => createConnectTransport(h2(s)) },
  { name: "grpc h2", bidi: true, transport: (s) => createGrpcTransport(h2(s)) },
  { name: "grpc-web h1", bidi: false, transport: (s) => createGrpcWebTransport(h1(s)) },
  { name: "grpc-web h2", bidi: true, transport: (s) => createGrpcWebTransport(h2(s)) },
];

/** What a handler went through. */
export interface Ran {
  /** The reason of its signal, as of when the handler was over. */
  reason: unknown;
  /** What a `for await` over its requests threw. */
  thrown: unknown;
}
