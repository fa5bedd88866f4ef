import type { Engine } from "../session/engine.ts";
import { checkCrossSite, hasCookies } from "./authenticate.ts";
import type { Call } from "./call.ts";
import type { Core } from "./core.ts";
import { proveRefresh, sessionOfAccess, sessionsOfCookies } from "./presented-session.ts";
import { endTokens, expireCookies } from "./respond.ts";

/**
 * Ends the session of any authentic token of the call: a refresh token of whatever generation, or
 * an access token, expired or not. A header wins over cookies, which are expired in any case.
 *
 * @param inMessage `SignOutRequest.refresh_token`; empty for a cookie session
 * @throws SessionError `forbidden` for a cross-site request, `unavailable`
 */
export async function signOut(core: Core, call: Call, inMessage: string): Promise<void> {
  const { presented, responseHeader } = call;
  const byHeader = inMessage !== "" || presented.bearer !== undefined;
  if (!byHeader && !hasCookies(presented)) {
    return;
  }
  if (hasCookies(presented)) {
    checkCrossSite(core, { headers: call.requestHeader, method: call.requestMethod });
  }
  const engine = await core.engine();
  const now = core.clock.now();
  const sessions = byHeader
    ? await sessionsOfHeader(engine, { inMessage, bearer: presented.bearer, now })
    : await sessionsOfCookies(engine, presented, now);
  for (const session of sessions) {
    await engine.revoke(session, "signOut");
    endTokens(core, responseHeader, session);
  }
  if (hasCookies(presented)) {
    expireCookies(core, responseHeader);
  }
}

async function sessionsOfHeader(
  engine: Engine,
  tokens: { readonly inMessage: string; readonly bearer: string | undefined; readonly now: number },
): Promise<ReadonlySet<string>> {
  const { inMessage, bearer, now } = tokens;
  const proven = inMessage === "" ? undefined : await proveRefresh(engine, inMessage, "header");
  if (proven !== undefined) {
    return new Set([proven.record.id]);
  }
  const session =
    bearer === undefined
      ? undefined
      : await sessionOfAccess(engine, { token: bearer, transport: "header", now });
  return new Set(session === undefined ? [] : [session]);
}
