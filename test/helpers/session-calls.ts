import type { DescMethod } from "@bufbuild/protobuf";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { SessionService } from "../../gen/rpcsession/v1/service_pb.ts";
import { type Facts, factsOf, leaksOf, maskTokens } from "./golden.ts";
import {
  accessCookie,
  byCookie,
  type issue,
  type Presented,
  realm,
  refreshCookie,
} from "./presented.ts";
import type { NotesServer } from "./server.ts";
import { callWire, type Wire, type WireResult } from "./wire.ts";

type Issued = Awaited<ReturnType<typeof issue>>;

/** A request for a method that creates, refreshes or ends sessions. */
export interface SessionRequest extends Presented {
  /** `refresh_token` of the message. */
  readonly inMessage?: string;
}

export interface SessionAnswer {
  readonly result: WireResult;
  readonly facts: Facts;
  /** The places where tokens appear but must not. */
  readonly leaks: readonly string[];
}

/** Calls Refresh, SignOut or another method and masks the tokens in its response. */
export async function callSession(
  server: NotesServer,
  wire: Wire,
  { method, request }: { readonly method: DescMethod; readonly request: SessionRequest },
): Promise<SessionAnswer> {
  const { headers, inMessage } = request;
  const message = method === signInMethod ? { user: "alice" } : {};
  const result = await callWire(server, wire, {
    method,
    messages: [inMessage === undefined ? message : { refreshToken: inMessage }],
    headers,
  });
  const facts = factsOf(result);
  const written = result.setCookie.map((cookie) => cookie.slice(cookie.indexOf("=") + 1));
  const tokens = written.map((value) => value.slice(0, value.indexOf(";"))).filter(Boolean);
  return {
    result,
    facts: {
      ...facts,
      setCookie: facts.setCookie.map(maskTokens),
      headers: Object.fromEntries(
        Object.entries(facts.headers).map(([name, value]) => [name, describeHeader(name, value)]),
      ),
    },
    leaks: leaksOf(result, [...request.secrets, ...tokens]),
  };
}

/** Describes a header without values that differ between runs. */
function describeHeader(name: string, value: string): string {
  if (name !== "rpcsession-session") {
    return maskTokens(value);
  }
  const notice = new URLSearchParams(value);
  const known = notice.get("realm") === realm && notice.get("session") !== "";
  return known ? `${notice.get("event")} ${notice.get("generation")}` : value;
}

export const signInMethod: DescMethod = NotesService.method.signIn;
export const refreshMethod: DescMethod = SessionService.method.refresh;
export const signOutMethod: DescMethod = SessionService.method.signOut;

/** Refreshes over a fixed wire, independent of the one under test. */
export async function refreshOnce(server: NotesServer, issued: Issued): Promise<Issued> {
  const request = byCookie(issued.session.id, issued.tokens);
  const wire = { protocol: "connect-json", http: "h1" } as const;
  const { result } = await callSession(server, wire, { method: refreshMethod, request });
  const value = (name: string): string | undefined =>
    result.setCookie
      .find((cookie) => cookie.startsWith(`${name}=`))
      ?.slice(name.length + 1)
      .replace(/;.*$/, "");
  return {
    session: issued.session,
    tokens: {
      access: value(accessCookie) ?? "",
      refresh: value(refreshCookie) ?? issued.tokens.refresh,
    },
  };
}

/** Confirms the current generation, so that the next refresh rotates the refresh token. */
export async function settle(server: NotesServer, issued: Issued): Promise<Issued> {
  server.sessions.clock.advance("61s");
  const confirmed = await refreshOnce(server, issued);
  server.sessions.clock.advance("31s");
  return confirmed;
}
