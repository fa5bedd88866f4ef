import { Agent } from "node:http";
import {
  type Client,
  ConnectError,
  type ConnectRouterOptions,
  createClient,
  type HandlerContext,
  type Transport,
} from "@connectrpc/connect";
import {
  createConnectTransport,
  createGrpcTransport,
  createGrpcWebTransport,
  Http2SessionManager,
} from "@connectrpc/connect-node";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { type RefreshHint, RefreshHintSchema } from "../../gen/rpcsession/v1/hint_pb.ts";
import { issue } from "./presented.ts";
import {
  type NotesServer,
  type NotesServerOptions,
  startNotes,
  type TestSessionsOptions,
} from "./server.ts";

/** A protocol over a version of HTTP, as a client of Connect speaks it. */
export interface StreamWire {
  readonly name: string;
  readonly protocol: "connect" | "grpc" | "grpc-web";
  readonly http: "h1" | "h2c";
}

/** Connect itself refuses bidi over HTTP/1.1; gRPC needs HTTP/2. */
export const streamWires: readonly StreamWire[] = [
  { name: "Connect over h1", protocol: "connect", http: "h1" },
  { name: "Connect over h2c", protocol: "connect", http: "h2c" },
  { name: "gRPC over h2c", protocol: "grpc", http: "h2c" },
  { name: "gRPC-Web over h1", protocol: "grpc-web", http: "h1" },
  { name: "gRPC-Web over h2c", protocol: "grpc-web", http: "h2c" },
];

export type Kind = "server stream" | "client stream" | "bidi";

/** Every kind of stream over every wire that carries it. */
export const streamCells = (["server stream", "client stream", "bidi"] as const).flatMap((kind) =>
  streamWires
    .filter(({ http }) => kind !== "bidi" || http === "h2c")
    .map((wire) => ({ kind, wire, name: `${kind}, ${wire.name}` })),
);

const transports = {
  connect: createConnectTransport,
  grpc: createGrpcTransport,
  "grpc-web": createGrpcWebTransport,
} as const;

/** Connections of one client, which end by `close`. */
export interface Connections {
  readonly transport: Transport;
  close(): void;
}

export function connectTo(server: NotesServer, { protocol, http }: StreamWire): Connections {
  const baseUrl = `http://127.0.0.1:${server.port[http]}`;
  if (http === "h1") {
    const agent = new Agent({ keepAlive: true });
    const nodeOptions = { agent };
    const create = protocol === "grpc-web" ? createGrpcWebTransport : createConnectTransport;
    const transport = create({ baseUrl, httpVersion: "1.1", nodeOptions });
    return { transport, close: () => agent.destroy() };
  }
  const sessionManager = new Http2SessionManager(baseUrl);
  const transport = transports[protocol]({ baseUrl, httpVersion: "2", sessionManager });
  return { transport, close: () => sessionManager.abort() };
}

/** What a handler of {@link streamingService} went through. */
export interface Run {
  /** Of the signal, once it aborted. */
  readonly reason: Promise<ConnectError>;
  /** Resolves when its `finally` ran. */
  readonly over: Promise<void>;
  /** Messages that it gave, or got. */
  count: number;
  isOver: boolean;
}

/** How a handler spends its time after the first message. */
export type Manner =
  | "waits for its signal"
  | "is deaf"
  | "sends on and on"
  | "fills the pipe"
  | "thinks about a request";

/** Handlers that never end by themselves; `runs` tells what became of them. */
export function streamingService(sessions: { current(context: HandlerContext): unknown }) {
  const runs: Run[] = [];
  const begin = (context: HandlerContext) => {
    sessions.current(context);
    const { signal } = context;
    const { promise: over, resolve } = Promise.withResolvers<void>();
    const reason = new Promise<ConnectError>((tell) => {
      signal.addEventListener("abort", () => tell(signal.reason as ConnectError), { once: true });
    });
    const run: Run = { reason, over, count: 0, isOver: false };
    runs.push(run);
    const end = (): void => {
      run.isOver = true;
      resolve();
    };
    return { run, end };
  };
  /** In the middle of a loop over requests: the loop is left, and leaves its source. */
  const think = async ({ requestHeader }: HandlerContext, run: Run): Promise<void> => {
    if (requestHeader.get("x-manner") === "thinks about a request") {
      throw await run.reason;
    }
  };
  return {
    runs,
    /** What a deaf handler waits for. */
    deafUntil: Promise.withResolvers<void>(),
    async *watchNotes(_request: unknown, context: HandlerContext) {
      const { run, end } = begin(context);
      const manner = context.requestHeader.get("x-manner") as Manner | null;
      try {
        for (;;) {
          run.count += 1;
          const text = manner === "fills the pipe" ? "x".repeat(100_000) : String(run.count);
          yield { note: { text } };
          if (manner === "sends on and on" || manner === "fills the pipe") {
            await new Promise((resolve) => setImmediate(resolve));
          } else if (manner === "is deaf") {
            await this.deafUntil.promise;
          } else {
            throw await run.reason;
          }
        }
      } finally {
        end();
      }
    },
    async importNotes(requests: AsyncIterable<unknown>, context: HandlerContext) {
      const { run, end } = begin(context);
      try {
        for await (const _ of requests) {
          run.count += 1;
          await think(context, run);
        }
        return { imported: run.count };
      } finally {
        end();
      }
    },
    async *syncNotes(requests: AsyncIterable<unknown>, context: HandlerContext) {
      const { run, end } = begin(context);
      try {
        for await (const _ of requests) {
          run.count += 1;
          yield { number: run.count };
          await think(context, run);
        }
      } finally {
        end();
      }
    },
  };
}

export type StreamingService = ReturnType<typeof streamingService>;

/** A server of handlers that never end by themselves. */
export interface StreamServer extends NotesServer {
  readonly service: StreamingService;
}

export interface StreamServerOptions extends Pick<NotesServerOptions, "create"> {
  readonly router?: ConnectRouterOptions;
}

export async function startStreams(
  options: TestSessionsOptions = {},
  { router: more, ...rest }: StreamServerOptions = {},
): Promise<StreamServer> {
  let service: StreamingService | undefined;
  const server = await startNotes({
    ...rest,
    sessions: { public: [], ...options },
    adapt(sessions) {
      const made = streamingService(sessions);
      service = made;
      return sessions.protect({
        ...more,
        routes: (router) =>
          router.service(NotesService, {
            watchNotes: (request, context) => made.watchNotes(request, context),
            importNotes: (requests, context) => made.importNotes(requests, context),
            syncNotes: (requests, context) => made.syncNotes(requests, context),
          }),
      });
    },
  });
  if (service === undefined) {
    throw new Error("the routes were not built");
  }
  return { ...server, service };
}

/** A stream that was opened, as its client sees it. */
export interface OpenedStream {
  readonly session: string;
  /** Ends the session at the server. */
  readonly revoke: () => Promise<void>;
  readonly run: Run;
  /** The messages that came. */
  readonly messages: unknown[];
  /** Resolves with the error that ended it; undefined when it ended well. */
  readonly ended: Promise<ConnectError | undefined>;
  /** Takes the client away. */
  readonly cancel: () => void;
}

export interface ToOpen {
  readonly kind: Kind;
  readonly manner?: Manner;
  /** Default: a new session's, by header. */
  readonly headers?: Readonly<Record<string, string>>;
}

/** Opens a stream, and waits until its handler is well into it. */
export async function openStream(
  server: StreamServer,
  { transport }: Pick<Connections, "transport">,
  { kind, manner, headers }: ToOpen,
): Promise<OpenedStream> {
  const { session, tokens } = await issue(server, "header");
  const authorization = `Bearer ${tokens.access}`;
  const abort = new AbortController();
  const options = {
    signal: abort.signal,
    headers: { ...(headers ?? { authorization }), ...(manner && { "x-manner": manner }) },
  };
  const index = server.service.runs.length;
  const messages: unknown[] = [];
  const call = CALLS[kind](createClient(NotesService, transport), options, messages);
  const ended = call.then(
    () => undefined,
    (error: unknown) => ConnectError.from(error),
  );
  const hasBegun = (): boolean => (server.service.runs[index]?.count ?? 0) > 0;
  while (!hasBegun() || (kind !== "client stream" && messages.length === 0)) {
    const error = await Promise.race([ended, tick()]);
    if (error instanceof ConnectError) {
      throw error;
    }
  }
  const run = server.service.runs[index] as Run;
  const cancel = (): void => abort.abort();
  return { session: session.id, revoke: () => session.revoke(), run, messages, ended, cancel };
}

type Notes = Client<typeof NotesService>;
type Options = { readonly signal: AbortSignal; readonly headers: Record<string, string> };

const CALLS: Readonly<
  Record<Kind, (notes: Notes, options: Options, messages: unknown[]) => Promise<void>>
> = {
  async "server stream"(notes, options, messages) {
    for await (const message of notes.watchNotes({}, options)) {
      messages.push(message);
    }
  },
  async "client stream"(notes, options, messages) {
    messages.push(await notes.importNotes(oneForever(options.signal), options));
  },
  async bidi(notes, options, messages) {
    for await (const message of notes.syncNotes(oneForever(options.signal), options)) {
      messages.push(message);
    }
  },
};

/** Requests that go on until the client is taken away. */
async function* oneForever(signal: AbortSignal): AsyncGenerator<object> {
  yield {};
  await new Promise((resolve) => signal.addEventListener("abort", resolve, { once: true }));
}

/** A turn of the event loop. */
export function tick(): Promise<undefined> {
  return new Promise((resolve) => setImmediate(() => resolve(undefined)));
}

export function hintOf(error: ConnectError | undefined): RefreshHint | undefined {
  return error?.findDetails(RefreshHintSchema)[0];
}
