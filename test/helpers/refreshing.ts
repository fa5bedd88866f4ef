import type { TestSessions } from "rpc-session/testing";
import { SessionService } from "../../gen/rpcsession/v1/service_pb.ts";
import { cookieValue, type Presented } from "./exchanges.ts";
import { type WireAnswer, wireServer } from "./wire-server.ts";

/** Calls SessionService.Refresh on a server with `sessions.protect`. */
export async function refreshCall(
  sessions: TestSessions,
  presented: Presented,
  refreshToken = "",
): Promise<WireAnswer<unknown>> {
  const server = wireServer(sessions.protect({ routes: () => {} }));
  return await server.call(method, { refreshToken }, presented);
}

const method = SessionService.method.refresh;

/** Refreshes a cookie session and returns the tokens that the response sets. */
export async function refreshed(sessions: TestSessions, refresh: string, insecure = false) {
  // Without protect, which would check the policies against the routes.
  const server = wireServer({
    routes: (router) => router.service(SessionService, sessions.service),
    requestGate: sessions.requestGate,
    interceptors: [sessions.interceptor],
  });
  const { headers, error } = await server.call(method, {}, { refresh, insecure });
  if (error !== undefined) {
    throw error;
  }
  return {
    access: cookieValue(headers, "access", insecure) ?? "",
    refresh: cookieValue(headers, "refresh", insecure),
    csrf: headers.get("rpcsession-csrf") ?? "",
  };
}

/** Advances the clock and refreshes until the refresh token of a cookie session rotates. */
export async function advanced(sessions: TestSessions, refresh: string, insecure = false) {
  sessions.clock.advance("61s");
  await refreshed(sessions, refresh, insecure);
  sessions.clock.advance("31s");
  const next = await refreshed(sessions, refresh, insecure);
  if (next.refresh === undefined) {
    throw new Error("expected the refresh token to rotate, but it did not");
  }
  return { ...next, refresh: next.refresh };
}

/** A session issued without a response. */
export interface Issued {
  readonly id: string;
  readonly access: string;
  readonly refresh: string;
  readonly revoke: () => Promise<void>;
}

export async function issueOn(
  sessions: TestSessions,
  transport: "cookie" | "header",
): Promise<Issued> {
  const { session, tokens } = await sessions.issue({ userId: "alice", transport });
  const { accessToken: access, refreshToken: refresh } = tokens;
  return { id: session.id, access, refresh, revoke: () => session.revoke() };
}
