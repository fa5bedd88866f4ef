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

/** A protocol and HTTP version of a Connect client. */
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

/** The connections of one client; `close` ends them. */
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

/** One run of a handler of {@link streamingService}. */
export interface Run {
  /** Resolves to the reason of the signal when it aborts. */
  readonly reason: Promise<ConnectError>;
  /** Resolves when its `finally` block has run. */
  readonly over: Promise<void>;
  /** Messages sent or received. */
  count: number;
  isOver: boolean;
}

/** What a handler does after the first message. */
export type Manner =
  | "waits for its signal"
  | "ignores its signal"
  | "keeps sending"
  | "fills the pipe"
  | "waits while handling a request";

/** Handlers that never end by themselves; `runs` records what happened to them. */
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
  /** Blocks inside a loop over requests until the signal aborts, then leaves the loop. */
  const block = async ({ requestHeader }: HandlerContext, run: Run): Promise<void> => {
    if (requestHeader.get("x-manner") === "waits while handling a request") {
      throw await run.reason;
    }
  };
  return {
    runs,
    /** Releases handlers that ignore their signal. */
    ignoresUntil: Promise.withResolvers<void>(),
    async *watchNotes(_request: unknown, context: HandlerContext) {
      const { run, end } = begin(context);
      const manner = context.requestHeader.get("x-manner") as Manner | null;
      try {
        for (;;) {
          run.count += 1;
          const text = manner === "fills the pipe" ? "x".repeat(100_000) : String(run.count);
          yield { note: { text } };
          if (manner === "keeps sending" || manner === "fills the pipe") {
            await new Promise((resolve) => setImmediate(resolve));
          } else if (manner === "ignores its signal") {
            await this.ignoresUntil.promise;
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
          await block(context, run);
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
          await block(context, run);
        }
      } finally {
        end();
      }
    },
  };
}

export type StreamingService = ReturnType<typeof streamingService>;

/** A server whose handlers never end by themselves. */
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

/** An open stream as its client sees it. */
export interface OpenedStream {
  readonly session: string;
  /** Revokes the session on the server. */
  readonly revoke: () => Promise<void>;
  readonly run: Run;
  /** The messages received so far. */
  readonly messages: unknown[];
  /** Resolves to the error that ended it, or undefined if it ended successfully. */
  readonly ended: Promise<ConnectError | undefined>;
  /** Disconnects the client. */
  readonly cancel: () => void;
}

export interface ToOpen {
  readonly kind: Kind;
  readonly manner?: Manner;
  /** Default: the token of a new header session. */
  readonly headers?: Readonly<Record<string, string>>;
}

/** Opens a stream and waits until its handler has sent or received a message. */
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

/** Sends one request and keeps the request stream open until the client disconnects. */
async function* oneForever(signal: AbortSignal): AsyncGenerator<object> {
  yield {};
  await new Promise((resolve) => signal.addEventListener("abort", resolve, { once: true }));
}

/** Waits for one turn of the event loop. */
export function tick(): Promise<undefined> {
  return new Promise((resolve) => setImmediate(() => resolve(undefined)));
}

export function hintOf(error: ConnectError | undefined): RefreshHint | undefined {
  return error?.findDetails(RefreshHintSchema)[0];
}
