// The script of a page with React: a session, a provider, and queries of Connect-Query. The tests read
// what it has shown, frame by frame.
import { createClient } from "@connectrpc/connect";
import { TransportProvider, useQuery } from "@connectrpc/connect-query";
import { createConnectTransport } from "@connectrpc/connect-web";
import { QueryClient, QueryClientProvider } from "@tanstack/react-query";
import { StrictMode, useLayoutEffect } from "react";
import { createRoot } from "react-dom/client";
import { createSessionClient, type SessionState } from "rpc-session/client";
import { bindQueries, retryQuery } from "rpc-session/query";
import {
  SessionProvider,
  SessionUnknown,
  SignedIn,
  SignedOut,
  useSession,
} from "rpc-session/react";
import * as z from "zod";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";

declare global {
  /** What the page has shown, in order, without repetitions. */
  var shownFrames: string[];
}

const session = createSessionClient({
  transport: (parts) => createConnectTransport({ baseUrl: globalThis.appApi, ...parts }),
  claims: z.object({ role: z.string() }),
});

declare module "rpc-session/react" {
  interface Register {
    session: typeof session;
  }
}

const queryClient = new QueryClient({ defaultOptions: { queries: { retry: retryQuery } } });
bindQueries(session, queryClient);

function Page() {
  const { status, userId, claims, error } = useSession();
  const role: string | undefined = claims?.role;
  const who = (userId ?? status) + (role ? ` (${role})` : "") + (error ? " with an error" : "");
  const { data, error: refused } = useQuery(NotesService.method.listNotes, {});
  const notes = data?.notes.map(({ text }) => text).join() ?? (refused ? "refused" : "…");
  const frame = `${who}: ${notes}`;
  useLayoutEffect(() => {
    if (globalThis.shownFrames.at(-1) !== frame) {
      globalThis.shownFrames.push(frame);
    }
  }, [frame]);
  return (
    <>
      <SignedIn>{(known) => <p id="who">Signed in as {known.userId}</p>}</SignedIn>
      <SignedOut>
        <p id="who">Please sign in</p>
      </SignedOut>
      <SessionUnknown>
        <p id="who">One moment</p>
      </SessionUnknown>
      <p id="notes">{notes}</p>
    </>
  );
}

/** What a server found out when it rendered the page; a test puts it here. */
const rendered = sessionStorage.getItem("initialState");
const initialState = rendered === null ? undefined : (JSON.parse(rendered) as SessionState);

globalThis.shownFrames = [];
// The part of the other page's `app` that the actions of a visitor need.
Object.assign(globalThis, {
  app: { session, notes: createClient(NotesService, session.transport) },
});
createRoot(document.body.appendChild(document.createElement("div"))).render(
  <StrictMode>
    <TransportProvider transport={session.transport}>
      <QueryClientProvider client={queryClient}>
        <SessionProvider session={session} {...(initialState && { initialState })}>
          <Page />
        </SessionProvider>
      </QueryClientProvider>
    </TransportProvider>
  </StrictMode>,
);
