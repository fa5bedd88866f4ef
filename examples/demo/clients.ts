// One user per protocol, each with their own session.
import { type Client, createClient } from "@connectrpc/connect";
import {
  createConnectTransport,
  createGrpcTransport,
  createGrpcWebTransport,
} from "@connectrpc/connect-node";
import {
  type ClientTokens,
  type Clock,
  createSessionClient,
  memoryTokens,
  type SessionClient,
  type SessionClientOptions,
  type TokenStore,
} from "rpc-session/client";
import { dpopKey } from "rpc-session/client/dpop";
import { NotesService } from "../gen/notes/v1/notes_pb.ts";
import type { DemoServer } from "./server.ts";

export interface DemoClient {
  readonly protocol: "Connect" | "gRPC" | "gRPC-Web";
  readonly user: string;
  readonly session: SessionClient;
  readonly notes: Client<typeof NotesService>;
}

export function createClients(server: DemoServer): readonly [DemoClient, DemoClient, DemoClient] {
  const [http1, http2] = [server.http1, server.http2];
  const make = (
    protocol: DemoClient["protocol"],
    user: string,
    options: Pick<SessionClientOptions, "transport" | "clock">,
  ): DemoClient => {
    // The client and the server run in one process here, so the client says that it serves nobody else.
    const session = createSessionClient({
      tokens: memoryTokens(),
      refreshTimeout: "900ms",
      ...options,
    });
    return { protocol, user, session, notes: createClient(NotesService, session.transport) };
  };
  return [
    make("Connect", "ada", {
      transport: (parts) =>
        createConnectTransport({ baseUrl: http1, httpVersion: "1.1", ...parts }),
      clock: sleepingLaptop,
    }),
    make("gRPC", "grace", {
      transport: (parts) => createGrpcTransport({ baseUrl: http2, ...parts }),
    }),
    make("gRPC-Web", "hedy", {
      transport: (parts) =>
        createGrpcWebTransport({ baseUrl: http1, httpVersion: "1.1", ...parts }),
    }),
  ];
}

/** A thief who has copied the tokens of a client, and uses them in a program of their own. */
export interface Thief {
  /** A client with session support, and a key of its own. */
  readonly session: SessionClient;
  /** Opens a stream with the copied access token, as long as that is valid. */
  openStream(): AsyncIterable<{ readonly number: number }>;
}

export function createThief(server: DemoServer, copied: ClientTokens): Thief {
  const { accessToken } = copied;
  const transport = createGrpcTransport({ baseUrl: server.http2 });
  return {
    session: createBoundClient(server, copied).session,
    openStream: () =>
      createClient(NotesService, transport).syncNotes(oneNote(), {
        headers: { authorization: `Session ${accessToken}` },
      }),
  };
}

/** Sends one note, and then keeps the stream open. */
async function* oneNote() {
  yield { note: { text: "written by the thief" } };
  await new Promise(() => {});
}

export interface BoundClient extends Pick<DemoClient, "session" | "notes"> {
  readonly tokens: TokenStore;
}

/** A client with a key of its own, to which the sessions that it creates are bound. */
export function createBoundClient(server: DemoServer, copied?: ClientTokens): BoundClient {
  const tokens = memoryTokens(copied);
  const session = createSessionClient({
    tokens,
    transport: dpopKey().transport((parts) =>
      createConnectTransport({ baseUrl: server.http1, httpVersion: "1.1", ...parts }),
    ),
  });
  return { session, tokens, notes: createClient(NotesService, session.transport) };
}

/** A clock that stands still: this client only learns from the server that its token has expired. */
const sleepingLaptop: Clock = {
  now: () => 0,
  monotonic: () => 0,
  after(ms, action) {
    const timer = setTimeout(action, ms);
    timer.unref();
    return () => clearTimeout(timer);
  },
};

/** A client without session support. */
export function plainClient(server: DemoServer): Client<typeof NotesService> {
  return createClient(
    NotesService,
    createConnectTransport({ baseUrl: server.http1, httpVersion: "1.1" }),
  );
}
