import http, { Agent, type IncomingMessage, type ServerResponse } from "node:http";
import http2 from "node:http2";
import type { AddressInfo, Socket } from "node:net";
import {
  type Client,
  ConnectError,
  createClient,
  type HandlerContext,
  type Interceptor,
  type ServiceImpl,
} from "@connectrpc/connect";
import {
  connectNodeAdapter,
  createConnectTransport,
  createGrpcTransport,
  createGrpcWebTransport,
  Http2SessionManager,
} from "@connectrpc/connect-node";
import * as web from "@connectrpc/connect-web";
import { keepAlive, type Session } from "rpc-session";
import { memoryStore } from "rpc-session/stores/memory";
import {
  createFakeClock,
  type FakeClock,
  type TestSessions,
  testSessions,
} from "rpc-session/testing";
import { onTestFinished } from "vitest";
import { InboxService } from "../../../examples/gen/inbox/v1/inbox_pb.ts";
import { Inbox } from "../../../examples/watch/inbox.ts";
import { type RefreshResponse, SessionService } from "../../../gen/rpcsession/v1/service_pb.ts";
import {
  createSessionClient,
  memoryTokens,
  type SessionClient,
  type TransportParts,
} from "../../../src/client/index.ts";

/** The protocols and transports that {@link startInbox} can use. */
export const inboxWires = [
  "Connect over h1",
  "Connect over h2c",
  "gRPC over h2c",
  "gRPC-Web over h1",
  "connect-web",
  "connect-web gRPC-Web",
] as const;
export type InboxWire = (typeof inboxWires)[number];

/** A clock that counts its pending timers. */
export interface CountedClock extends FakeClock {
  readonly pending: number;
}

/** A real inbox server and a signed-in client, on one clock. */
export interface InboxWorld {
  readonly clock: CountedClock;
  readonly sessions: TestSessions;
  readonly session: SessionClient;
  readonly client: Client<typeof InboxService>;
  /** A client on a transport that does not handle sessions. */
  readonly plain: Client<typeof InboxService>;
  readonly inbox: Inbox;
  /** The cursor of each stream, and the reason of its signal once the stream has ended. */
  readonly opened: { readonly after: number; reason: unknown }[];
  readonly refreshes: () => number;
  /** The number of unary calls in flight. */
  readonly underway: () => number;
  /** Ends the session on the server. */
  revoke(): Promise<void>;
  /** Runs before a stream sends anything. */
  onWatch: ((context: HandlerContext) => unknown) | undefined;
  /** Runs before Refresh. */
  onRefresh: (() => unknown) | undefined;
  /** Answers a request in place of the service, as a gateway does, if it returns true. */
  answer: ((request: IncomingMessage, response: ServerResponse) => boolean) | undefined;
  /** Ends the body of every open response cleanly, as a proxy does when its upstream is gone. */
  endBodies(): void;
  /** The clock of the stream's heartbeats; none are sent without it. */
  beats: FakeClock | undefined;
  /** Drops the details of every error, as some gateways do. */
  dropDetails: boolean;
  /** Lets another server take all new calls, and drains this one. */
  drainStreams(): Promise<void>;
  /** Cuts every connection. */
  cut(): void;
  /** Closes the server, or opens it again on the same port. */
  stop(): Promise<void>;
  restart(): Promise<void>;
}

export interface InboxOptions {
  /** Puts a proxy in front of the server and returns its port. */
  readonly through?: (port: number) => Promise<number>;
  /** Options of the HTTP/2 connection, in real milliseconds. */
  readonly pings?: { readonly pingIntervalMs: number; readonly pingTimeoutMs: number };
}

export async function startInbox(
  wire: InboxWire = "Connect over h1",
  { through = async (port) => port, pings }: InboxOptions = {},
): Promise<InboxWorld> {
  const store = memoryStore();
  const create = (given?: FakeClock) =>
    testSessions({
      ...{ public: [InboxService.method.signIn], store },
      ...(given && { clock: given }),
    });
  const sessions = create();
  const clock = countTimers(sessions.clock);
  let refreshes = 0;
  let created: Session | undefined;
  const sockets = new Set<Socket>();
  const responses = new Set<ServerResponse>();
  const adapterOf = (serving: TestSessions) =>
    connectNodeAdapter(
      serving.protect({
        requestGate: async ({ method }) => {
          refreshes += method.name === "Refresh" ? 1 : 0;
        },
        routes: (router) => {
          router.service(SessionService, {
            ...serving.service,
            async refresh(request, context) {
              world.onRefresh?.();
              return (await serviceOf(serving).refresh(request, context)) as RefreshResponse;
            },
          });
          router.service(InboxService, {
            async signIn({ user }, context) {
              created = await serving.create(context, { userId: user });
              return {};
            },
            async *watch({ after }, context) {
              const stream = { after, reason: undefined as unknown };
              world.opened.push(stream);
              try {
                await world.onWatch?.(context);
                const messages = world.inbox.after(after, context.signal);
                yield* world.beats
                  ? keepAlive(context, messages, { message: {}, every: "10s", clock: world.beats })
                  : messages;
              } finally {
                stream.reason = context.signal.reason ?? "own end";
              }
            },
          });
        },
      }),
    );
  let adapter = adapterOf(sessions);
  const listener = (...[request, response]: Parameters<typeof adapter>): void => {
    // HTTP/2 has compatible objects.
    const open = response as ServerResponse;
    if (!world.answer?.(request as IncomingMessage, open)) {
      responses.add(open);
      open.on("close", () => responses.delete(open));
      open.on("error", () => {});
      adapter(request, response);
    }
  };
  const server = wire.endsWith("h2c") ? http2.createServer(listener) : http.createServer(listener);
  server.on("connection", (socket: Socket) => {
    sockets.add(socket);
    socket.on("close", () => sockets.delete(socket));
    socket.on("error", () => {});
  });
  const listen = (port: number): Promise<void> =>
    new Promise((resolve) => server.listen(port, "127.0.0.1", resolve));
  await listen(0);
  const { port } = server.address() as AddressInfo;
  const { make, close } = clientOf(wire, `http://127.0.0.1:${await through(port)}`, pings);
  let underway = 0;
  const count: Interceptor = (next) => async (request) => {
    underway += request.stream ? 0 : 1;
    try {
      const response = await next(request);
      return response.stream
        ? { ...response, message: bare(response.message, () => world.dropDetails) }
        : response;
    } finally {
      underway -= request.stream ? 0 : 1;
    }
  };
  const session = createSessionClient({
    transport: (parts) => make({ ...parts, interceptors: [...parts.interceptors, count] }),
    ...{ tokens: memoryTokens(), clock },
  });
  const cut = (): void => {
    for (const socket of sockets) {
      socket.destroy();
    }
  };
  const stop = (): Promise<void> =>
    new Promise((resolve) => {
      server.close(() => resolve());
      cut();
    });
  const world: InboxWorld = {
    ...{ clock, sessions, session, cut, stop, inbox: new Inbox(), opened: [] },
    client: createClient(InboxService, session.transport),
    plain: createClient(InboxService, make({ interceptors: [] })),
    refreshes: () => refreshes,
    underway: () => underway,
    // In the store, as another server would do it.
    revoke: async () => void (await store.revoke(created?.id ?? "", "revoked")),
    onWatch: undefined,
    onRefresh: undefined,
    answer: undefined,
    dropDetails: false,
    beats: undefined,
    endBodies() {
      for (const response of responses) {
        response.end();
      }
    },
    async drainStreams() {
      const other = create(sessions.clock);
      onTestFinished(() => other.close());
      adapter = adapterOf(other);
      await sessions.drain();
    },
    restart: () => listen(port),
  };
  onTestFinished(async () => {
    close();
    await stop();
    await sessions.close();
  });
  await world.client.signIn({ user: "ada" });
  return world;
}

function serviceOf({ service }: TestSessions): ServiceImpl<typeof SessionService> {
  return service as ServiceImpl<typeof SessionService>;
}

async function* bare<T>(messages: AsyncIterable<T>, drops: () => boolean): AsyncGenerator<T> {
  try {
    yield* messages;
  } catch (error) {
    if (error instanceof ConnectError && drops()) {
      error.details = [];
    }
    throw error;
  }
}

function clientOf(wire: InboxWire, baseUrl: string, pings: InboxOptions["pings"]) {
  if (wire.endsWith("h2c")) {
    const sessionManager = new Http2SessionManager(baseUrl, pings);
    const options = { baseUrl, httpVersion: "2", sessionManager } as const;
    const create = wire === "gRPC over h2c" ? createGrpcTransport : createConnectTransport;
    const make = (parts: TransportParts) => create({ ...options, ...parts });
    return { make, close: () => sessionManager.abort() };
  }
  if (wire.startsWith("connect-web")) {
    const create = wire === "connect-web" ? web.createConnectTransport : web.createGrpcWebTransport;
    return { make: (parts: TransportParts) => create({ baseUrl, ...parts }), close: () => {} };
  }
  const agent = new Agent({ keepAlive: true });
  const options = { baseUrl, httpVersion: "1.1", nodeOptions: { agent } } as const;
  const create = wire === "gRPC-Web over h1" ? createGrpcWebTransport : createConnectTransport;
  const make = (parts: TransportParts) => create({ ...options, ...parts });
  return { make, close: () => agent.destroy() };
}

export function countTimers(clock: FakeClock = createFakeClock()): CountedClock {
  const timers = new Set<object>();
  return {
    ...clock,
    after(ms, action) {
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
    },
    get pending() {
      return timers.size;
    },
  };
}
