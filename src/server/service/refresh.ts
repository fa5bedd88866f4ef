import { SessionError } from "../../base/errors.ts";
import type { Engine } from "../../engine/engine.ts";
import { badRefreshToken, isLive } from "../../engine/liveness.ts";
import type { Refreshed } from "../../engine/refresh/refresh.ts";
import { type ProvenRefreshToken, UnknownSecretError } from "../../engine/refresh/token.ts";
import { hasCookies } from "../../request/tokens.ts";
import { checkCrossSite, proveRefresh } from "../authenticate/refresh.ts";
import type { Call } from "../call/call.ts";
import type { Core } from "../core.ts";
import { expireCookies, writeTokens } from "../response/tokens.ts";

/**
 * Refreshes the session of a call and writes its tokens. A refresh token in the message wins over
 * cookies, which are then expired.
 *
 * @param inMessage `RefreshRequest.refresh_token`; empty for a cookie session
 * @throws SessionError
 */
export async function refreshOnCall(core: Core, call: Call, inMessage: string): Promise<Refreshed> {
  const { presented, responseHeader } = call;
  call.byCookie = inMessage === "" && hasCookies(presented);
  if (inMessage !== "") {
    if (hasCookies(presented)) {
      // They are expired below, which no other site may bring about.
      checkCrossSite(core, call);
    }
    const engine = await core.engine();
    const refreshed = await engine.refresh({ token: inMessage, transport: "header" });
    if (hasCookies(presented)) {
      expireCookies(core, responseHeader);
    }
    await writeTokens(core, responseHeader, { ...refreshed, ...plain });
    return refreshed;
  }
  if (presented.refreshCookies.length === 0) {
    throw new SessionError("unauthorized", "SESSION_MISSING", {
      message: "there is no refresh token",
    });
  }
  return refreshByCookie(core, call);
}

const plain = { event: "refreshed", antiCsrf: undefined, expireCopies: false } as const;

async function refreshByCookie(core: Core, call: Call): Promise<Refreshed> {
  checkCrossSite(core, call);
  const engine = await core.engine();
  const { refreshCookies, accessCookies } = call.presented;
  const expireCopies = refreshCookies.length > 1 || accessCookies.length > 1;
  const token = await chooseCookie(core, engine, refreshCookies);
  const refreshed = await engine.refresh({ token, transport: "cookie" });
  // Expiring the copies expires the one to keep as well, so it must be written again.
  const refreshToken =
    refreshed.refreshToken ??
    (expireCopies ? await engine.refreshTokens.mint(refreshed.record) : undefined);
  await writeTokens(core, call.responseHeader, {
    ...refreshed,
    refreshToken,
    event: "refreshed",
    antiCsrf:
      core.antiCsrf === "token" ? await engine.antiCsrf.mint(refreshed.record.id) : undefined,
    expireCopies,
  });
  return refreshed;
}

interface Candidate {
  readonly token: string;
  readonly proven: ProvenRefreshToken;
}

/** Of several refresh cookies, the highest authentic generation of one session. */
async function chooseCookie(
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
    // Without the __Host- prefix a sibling host may have planted one of them.
    throw new SessionError("unauthorized", "TOKEN_CONFLICT", {
      message: "there are refresh cookies of several sessions",
      clearTokens: true,
    });
  }
  const best = candidates.toSorted(byPreference)[0];
  if (best === undefined) {
    throw unknown ?? badRefreshToken();
  }
  return best.token;
}

/** The authentic ones of several refresh cookies, and whether one is of a secret not known here. */
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

/** Live ones first, then the newest session, then the highest generation. */
function byPreference(a: Candidate, b: Candidate): number {
  return (
    Number(isLive(b.proven)) - Number(isLive(a.proven)) ||
    b.proven.record.createdAt - a.proven.record.createdAt ||
    b.proven.generation - a.proven.generation
  );
}
