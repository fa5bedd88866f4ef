import { SessionError } from "../errors.ts";
import type { AccessClaims } from "../jwt/claims.ts";
import { isEmpty } from "../tokens/source.ts";
import type { Call } from "./call.ts";
import { checkSession, type SessionDemand } from "./check-session.ts";
import type { Authenticator, VerifyingCore } from "./core.ts";
import { checkCrossSite } from "./cross-site.ts";
import { verifyBearer, verifyCookies } from "./verify-presented.ts";

/** A call as far as authentication looks at it. */
export type AuthenticationRequest = Pick<
  Call,
  "requestHeader" | "requestMethod" | "presented" | "responseHeader"
>;

/** What a call demands. */
export interface AuthenticationDemand extends SessionDemand {
  readonly required: boolean;
  readonly doAntiCsrfCheck: boolean;
}

/**
 * Finds and verifies the access token of a request: tokens, cross-site, signature, anti-CSRF token,
 * revocation. No I/O, but for an unknown signing key, a stale change log, a strict check, and claims
 * that have changed.
 *
 * @returns the verified claims; undefined when nothing was presented and nothing is required
 * @throws SessionError
 */
export async function authenticate(
  core: VerifyingCore,
  request: AuthenticationRequest,
  demand: AuthenticationDemand,
): Promise<AccessClaims | undefined> {
  const { presented } = request;
  if (isEmpty(presented)) {
    if (demand.required) {
      throw new SessionError("unauthorized", "SESSION_MISSING", {
        message: "the call needs a session",
      });
    }
    return undefined;
  }
  const byCookie = presented.bearer === undefined;
  if (byCookie) {
    checkCrossSite(core, request);
  }
  const engine = await core.engine();
  const now = engine.storeNow();
  const claims = byCookie
    ? await verifyCookies(core, engine, { presented, now })
    : await verifyBearer(engine, { presented, now });
  if (byCookie && core.antiCsrf === "token" && demand.doAntiCsrfCheck) {
    await checkAntiCsrf(engine, claims, presented.antiCsrf);
  }
  const current = await checkSession(core, request, { engine, claims, demand });
  engine.used(claims);
  return current;
}

async function checkAntiCsrf(
  engine: Authenticator,
  claims: AccessClaims,
  token: string | undefined,
): Promise<void> {
  if (token === undefined || !(await engine.antiCsrf.verify(claims.sid, token))) {
    throw new SessionError("tryRefreshToken", "ANTI_CSRF", {
      message: "the anti-CSRF token is missing or wrong",
      session: claims.sid,
    });
  }
}
