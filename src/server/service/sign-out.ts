import { hasCookies, isEmpty } from "../../request/source.ts";
import type { Call } from "../call/call.ts";
import type { Core } from "../core.ts";
import { checkCrossSite } from "../authenticate/cross-site.ts";
import { provenSessions } from "../authenticate/presented-session.ts";
import { endTokens, expireCookies } from "../response/respond.ts";

/**
 * Ends the session of any authentic token of the call: a refresh token of whatever generation, or
 * an access token, expired or not. A header that proves a
 * session wins over cookies, which are expired in any case.
 *
 * @param inMessage `SignOutRequest.refresh_token`; empty for a cookie session
 * @throws SessionError `forbidden` for a cross-site request, `unavailable`, also where all there is
 * is a refresh token under a secret not known here
 */
export async function signOut(core: Core, call: Call, inMessage: string): Promise<void> {
  const { presented, responseHeader } = call;
  if (inMessage === "" && isEmpty(presented)) {
    return;
  }
  if (hasCookies(presented)) {
    checkCrossSite(core, call);
  }
  const engine = await core.engine();
  const now = engine.storeNow();
  const { sessions, unknown } = await provenSessions(engine, presented, { inMessage, now });
  if (sessions.size === 0 && unknown !== undefined) {
    // Its session lives on, and a server that can end it may be asked next.
    throw unknown;
  }
  for (const session of sessions) {
    await engine.revoke(session, "signOut");
    endTokens(core, responseHeader, session);
  }
  if (hasCookies(presented)) {
    expireCookies(core, responseHeader);
  }
}
