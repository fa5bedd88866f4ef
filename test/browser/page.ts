// The script of a page of another origin: the client, bundled as an application would, and exposed to
// the test.
import { type Client, createClient } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-web";
import {
  createSessionClient,
  memoryTokens,
  type SessionClient,
  type TransportParts,
} from "rpc-session/client";
import { type DpopKey, dpopKey } from "rpc-session/client/dpop";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";

interface App {
  readonly notes: Client<typeof NotesService>;
  readonly session: SessionClient;
  /** A second client of the page, which keeps its tokens in memory. */
  readonly withTokens: () => Pick<App, "session" | "notes">;
  /** A client with its tokens in memory, whose sessions are bound to the key of this browser. */
  readonly withKey: () => Pick<App, "session" | "notes"> & { readonly key: DpopKey };
  /** The events of the session. */
  readonly events: string[];
  /** Everything that a script of the page can see of responses and of other tabs. */
  readonly seen: string[];
}

declare global {
  /** Set by the page before this script runs. */
  var appApi: string;
  /** Whether the page keeps its tokens in memory instead of cookies. */
  var appKeepsTokens: boolean;
  var app: App;
}

const events: string[] = [];
const seen: string[] = [];

const realFetch = globalThis.fetch;
globalThis.fetch = async (input, init) => {
  const response = await realFetch(input, init);
  if (response.type === "opaqueredirect") {
    return response; // nothing of it can be read, and it cannot be copied
  }
  seen.push(JSON.stringify([response.url, [...response.headers]]));
  const decoder = new TextDecoder();
  const watched = new TransformStream<Uint8Array, Uint8Array>({
    transform(chunk, controller) {
      seen.push(decoder.decode(chunk));
      controller.enqueue(chunk);
    },
  });
  return new Response(response.body?.pipeThrough(watched), response);
};
try {
  const channel = new BroadcastChannel("rpc-session");
  channel.onmessage = ({ data }) => seen.push(JSON.stringify(data));
} catch {
  // Firefox allows no channel to pages whose cookies are blocked.
}

function connect(keepsTokens: boolean, key?: DpopKey): Pick<App, "session" | "notes"> {
  const create = (parts: TransportParts) =>
    createConnectTransport({ baseUrl: globalThis.appApi, useHttpGet: true, ...parts });
  const session = createSessionClient({
    transport: key?.transport(create) ?? create,
    ...(keepsTokens && { tokens: memoryTokens() }),
    onEvent: (event) => events.push(event.type),
  });
  return { session, notes: createClient(NotesService, session.transport) };
}

globalThis.app = {
  ...connect(globalThis.appKeepsTokens),
  withTokens: () => connect(true),
  withKey() {
    const key = dpopKey({ useHttpGet: true });
    return { key, ...connect(true, key) };
  },
  events,
  seen,
};

// As a worker: makes a call for each message.
const answer = async (to: { postMessage(message: unknown): void }): Promise<void> => {
  const texts = (result: { notes: { text: string }[] }) => result.notes.map(({ text }) => text);
  to.postMessage(await app.notes.listNotes({}).then(texts, String));
};
if (typeof document === "undefined") {
  addEventListener("message", ({ ports: [port] }) => void (port && answer(port)));
}
