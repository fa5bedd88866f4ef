// The script of a page of another origin: the client, bundled as an application would, and exposed to
// the test.
import { type Client, createClient } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-web";
import { createSessionClient, memoryTokens, type SessionClient } from "rpc-session/client";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";

interface App {
  readonly notes: Client<typeof NotesService>;
  readonly session: SessionClient;
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
const channel = new BroadcastChannel("rpc-session");
channel.onmessage = ({ data }) => seen.push(JSON.stringify(data));

const session = createSessionClient({
  transport: (parts) =>
    createConnectTransport({ baseUrl: globalThis.appApi, useHttpGet: true, ...parts }),
  ...(globalThis.appKeepsTokens && { tokens: memoryTokens() }),
  onEvent: (event) => events.push(event.type),
});
globalThis.app = {
  notes: createClient(NotesService, session.transport),
  session,
  events,
  seen,
};
