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
  return await server.call(SessionService.method.refresh, { refreshToken }, presented);
}

/** Refreshes a cookie session: what its response sets. */
export async function refreshed(sessions: TestSessions, refresh: string, insecure = false) {
  const { headers, error } = await refreshCall(sessions, { refresh, insecure });
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
