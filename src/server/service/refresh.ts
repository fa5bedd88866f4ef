import { SessionError } from "../../base/errors.ts";
import type { Engine } from "../../engine/engine.ts";
import { badRefreshToken, isLive } from "../../engine/liveness.ts";
import type { Refreshed } from "../../engine/refresh/refresh.ts";
import { type ProvenRefreshToken, UnknownSecretError } from "../../engine/refresh/token.ts";
import { checkCrossSite } from "../../request/origins.ts";
import { proveRefresh } from "../authenticate/refresh.ts";
import type { Call } from "../call/call.ts";
import type { Core } from "../core.ts";
import { expireCookies, writeTokens } from "../response/tokens.ts";

/**
 * Refreshes the session of a call and writes its new tokens to the response. A refresh token in the
 * message takes precedence over cookies.
 *
 * @param inMessage `RefreshRequest.refresh_token`; empty for a cookie session
 * @throws SessionError
 */
export async function refreshCall(core: Core, call: Call, inMessage: string): Promise<Refreshed> {
  call.byCookie = inMessage === "" && call.presented.hasCookies;
  return inMessage === ""
    ? await refreshByCookie(core, call)
    : await refreshByMessage(core, call, inMessage);
}

async function refreshByCookie(core: Core, call: Call): Promise<Refreshed> {
  const { refreshCookies, accessCookies } = call.presented;

  // 1. There must be something to refresh with.
  if (refreshCookies.length === 0) {
    throw new SessionError("unauthorized", "SESSION_MISSING", {
      message: "the request has no refresh token; sign in",
    });
  }

  // 2. Cookies only count on requests from this service's own pages.
  checkCrossSite(core, call);

  // 3. Select the refresh token. A browser may hold several copies of the cookie.
  const engine = await core.engine();
  const token = await selectCookie(core, engine, refreshCookies);

  // 4. Exchange it: the engine rotates it, or revokes the session if it detects reuse.
  const refreshed = await engine.refresh({ token, transport: "cookie" });

  // 5. Write the tokens. Expiring the copies also expires the cookie to keep, so write it again.
  const expireCopies = refreshCookies.length > 1 || accessCookies.length > 1;
  const refreshToken =
    refreshed.refreshToken ??
    (expireCopies ? await engine.refreshTokens.mint(refreshed.record) : undefined);
  const antiCsrf =
    core.antiCsrf === "token" ? await engine.antiCsrf.mint(refreshed.record.id) : undefined;
  await writeTokens(core, call.responseHeader, {
    ...refreshed,
    refreshToken,
    event: "refreshed",
    antiCsrf,
    expireCopies,
  });
  return refreshed;
}

async function refreshByMessage(core: Core, call: Call, token: string): Promise<Refreshed> {
  const { presented, responseHeader } = call;

  // 1. Cookies that came along are expired in step 3. Another site must not be able to do that.
  if (presented.hasCookies) {
    checkCrossSite(core, call);
  }

  // 2. Exchange the token.
  const engine = await core.engine();
  const refreshed = await engine.refresh({ token, transport: "header" });

  // 3. Expire the cookies: the client now uses headers.
  if (presented.hasCookies) {
    expireCookies(core, responseHeader);
  }

  // 4. Write the tokens.
  await writeTokens(core, responseHeader, {
    ...refreshed,
    event: "refreshed",
    antiCsrf: undefined,
    expireCopies: false,
  });
  return refreshed;
}

interface Candidate {
  readonly token: string;
  readonly proven: ProvenRefreshToken;
}

/** Returns the best of several refresh cookies; a single one is returned without checking it. */
async function selectCookie(
  core: Core,
  engine: Engine,
  cookies: readonly string[],
): Promise<string> {
  const [first, ...more] = cookies;
  if (first !== undefined && more.length === 0) {
    return first;
  }
  const { candidates, unknown } = await proveCookies(engine, cookies);
  const sessions = new Set(candidates.map(({ proven }) => proven.record.id));
  if (sessions.size > 1 && !core.cookies.hostOnly) {
    // Without the __Host- prefix, a sibling host may have planted one of them.
    throw new SessionError("unauthorized", "TOKEN_CONFLICT", {
      message: "the request has refresh cookies of several sessions; sign in again",
      clearTokens: true,
    });
  }
  const best = candidates.toSorted(byPreference)[0];
  if (best === undefined) {
    throw unknown ?? badRefreshToken();
  }
  return best.token;
}

/** Returns the authentic cookies, and an error if one was made with a secret unknown to this server. */
async function proveCookies(engine: Engine, cookies: readonly string[]) {
  const candidates: Candidate[] = [];
  let unknown: UnknownSecretError | undefined;
  for (const token of cookies) {
    const proven = await proveRefresh(engine, token, "cookie");
    if (proven instanceof UnknownSecretError) {
      unknown = proven;
    } else if (proven !== undefined) {
      candidates.push({ token, proven });
    }
  }
  return { candidates, unknown };
}

/** Sorts live sessions first, then the newest session, then the highest generation. */
function byPreference(a: Candidate, b: Candidate): number {
  return (
    Number(isLive(b.proven)) - Number(isLive(a.proven)) ||
    b.proven.record.createdAt - a.proven.record.createdAt ||
    b.proven.generation - a.proven.generation
  );
}
