// What every application must do once it has sessions, seen by a client from outside.
import { Code, ConnectError, createClient, type Transport } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { createConnectTransport } from "@connectrpc/connect-web";
import { expect } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { Action, RefreshHintSchema } from "../../gen/rpcsession/v1/hint_pb.ts";
import {
  cookieTokens,
  createSessionClient,
  memoryTokens,
  type SessionClientEvent,
  type TokenStore,
  type TransportParts,
} from "../../src/client/index.ts";
import type { AppServer } from "./app.ts";

export const password = "correct horse";

/** Creates a transport to an application; `fetch` is that of a page, for visits with cookies. */
type Connect = (options: { readonly baseUrl: string } & Partial<TransportParts>) => Transport;

/**
 * Visits an application that serves `notes.v1` over Connect: public methods answer, protected ones need
 * a session, and an expired access token is renewed without notice. Once with headers and once with
 * cookies.
 */
export async function visit(server: AppServer): Promise<void> {
  await refusesStrangers(server.url);
  await visitAs(server, { tokens: memoryTokens(), connect: createConnectTransport });
  const cookies = new Map<string, string>();
  const fetch = fetchOfPage(cookies);
  await visitAs(server, {
    tokens: cookieTokens(),
    connect: (options) => createConnectTransport({ ...options, fetch }),
  });
  expect(cookies.size).toBe(0);
}

/** The same over gRPC, with headers. */
export async function visitByGrpc(server: AppServer): Promise<void> {
  await refusesStrangers(server.url, createGrpcTransport);
  await visitAs(server, { tokens: memoryTokens(), connect: createGrpcTransport });
}

/** The public method answers by itself; the protected one asks to sign in. */
export async function refusesStrangers(
  url: string,
  connect: Connect = createConnectTransport,
): Promise<void> {
  const notes = createClient(NotesService, connect({ baseUrl: url }));
  const wrong = await notes.signIn({ user: "ada", password: "wrong" }).catch(asConnectError);
  expect(wrong).toMatchObject({ code: Code.PermissionDenied });
  await refusesProtected(url, connect);
}

/** The protected method asks to sign in. */
export async function refusesProtected(
  url: string,
  connect: Connect = createConnectTransport,
): Promise<void> {
  const notes = createClient(NotesService, connect({ baseUrl: url }));
  const refused = await notes.listNotes({}).catch(asConnectError);
  expect(refused).toMatchObject({ code: Code.Unauthenticated });
  expect(ConnectError.from(refused).findDetails(RefreshHintSchema)).toMatchObject([
    { action: Action.SIGN_IN },
  ]);
}

interface VisitorParts {
  readonly tokens: TokenStore;
  readonly connect: Connect;
}

/** Signs in, writes and reads, reads again after the access token has expired, and signs out. */
async function visitAs(server: AppServer, { tokens, connect }: VisitorParts): Promise<void> {
  const events: SessionClientEvent["type"][] = [];
  const session = createSessionClient({
    transport: (parts) => connect({ baseUrl: server.url, ...parts }),
    tokens,
    onEvent: ({ type }) => events.push(type),
  });
  const notes = createClient(NotesService, session.transport);
  await notes.signIn({ user: `ada by ${tokens.transport}`, password });
  await notes.addNote({ note: { text: "milk" } });
  expect((await notes.listNotes({})).notes).toMatchObject([{ text: "milk" }]);
  expect(events).toEqual(["signedIn"]);
  await server.later();
  expect((await notes.listNotes({})).notes).toMatchObject([{ text: "milk" }]);
  expect(events).toEqual(["signedIn", "refreshed"]);
  await session.signOut();
  const refused = await notes.listNotes({}).catch(asConnectError);
  expect(refused).toMatchObject({ code: Code.Unauthenticated });
}

function asConnectError(error: unknown): ConnectError {
  return ConnectError.from(error);
}

/** The fetch of a page of the application's own origin, which keeps cookies. */
function fetchOfPage(cookies: Map<string, string>): typeof globalThis.fetch {
  return async (input, init) => {
    const headers = new Headers(init?.headers);
    headers.set("cookie", [...cookies].map(([name, value]) => `${name}=${value}`).join("; "));
    headers.set("sec-fetch-site", "same-origin");
    const response = await globalThis.fetch(input, { ...init, headers });
    for (const line of response.headers.getSetCookie()) {
      const [, name = "", value = ""] = /^([^=]*)=([^;]*)/.exec(line) ?? [];
      if (value === "" || /max-age=0/i.test(line)) {
        cookies.delete(name);
      } else {
        cookies.set(name, value);
      }
    }
    return response;
  };
}
