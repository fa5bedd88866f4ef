import type { TestSessions } from "rpc-session/testing";
import { SessionService } from "../../gen/rpcsession/v1/service_pb.ts";
import { cookieValue, type Presented } from "./exchanges.ts";
import { type WireAnswer, wireServer } from "./wire-server.ts";

/** Calls SessionService.Refresh as it is served. */
export async function refreshCall(
  sessions: TestSessions,
  presented: Presented,
  refreshToken = "",
): Promise<WireAnswer<unknown>> {
  const server = wireServer(sessions.protect({ routes: () => {} }));
  return await server.call(method, { refreshToken }, presented);
}

const method = SessionService.method.refresh;

/** Refreshes a cookie session: what its response sets. */
export async function refreshed(sessions: TestSessions, refresh: string, insecure = false) {
  // By hand, because protect would check the policies against the routes.
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

/** Brings a cookie session to its next generation, which takes a while. */
export async function advanced(sessions: TestSessions, refresh: string, insecure = false) {
  sessions.clock.advance("61s");
  await refreshed(sessions, refresh, insecure);
  sessions.clock.advance("31s");
  const next = await refreshed(sessions, refresh, insecure);
  if (next.refresh === undefined) {
    throw new Error("the generation did not advance");
  }
  return { ...next, refresh: next.refresh };
}

/** A session that was issued without a response. */
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
