import { SessionError } from "../errors.ts";
import type { AccessClaims } from "../jwt/claims.ts";
import { isEmpty } from "../tokens/source.ts";
import { header } from "../wire.ts";
import { andThen } from "./and-then.ts";
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
 * that have changed; and no promise where the token was verified before.
 *
 * @returns the verified claims; undefined when nothing was presented and nothing is required
 * @throws SessionError
 */
export function authenticate(
  core: VerifyingCore,
  request: AuthenticationRequest,
  demand: AuthenticationDemand,
): AccessClaims | undefined | Promise<AccessClaims> {
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
  const byToken = byCookie && core.antiCsrf === "token" && demand.doAntiCsrfCheck;
  return andThen(core.engine(), (engine) => {
    const now = engine.storeNow();
    const verified = byCookie
      ? verifyCookies(core, engine, { presented, now })
      : verifyBearer(engine, { presented, now });
    const ownPage = byToken
      ? andThen(verified, (claims) => checkAntiCsrf(core, engine, { claims, request }))
      : verified;
    const checkedAt = ownPage instanceof Promise ? undefined : now;
    const live = andThen(ownPage, (claims) =>
      checkSession(core, request, { engine, claims, demand, now: checkedAt }),
    );
    return andThen(live, (claims) => {
      engine.used(claims, now);
      return claims;
    });
  });
}

// Each check passes the claims on, or throws.

async function checkAntiCsrf(
  core: VerifyingCore,
  engine: Authenticator,
  { claims, request }: { readonly claims: AccessClaims; readonly request: AuthenticationRequest },
): Promise<AccessClaims> {
  const token = request.requestHeader.get(header.csrf);
  if (token === null || !(await engine.antiCsrf.verify(claims.sid, token))) {
    core.emit({ type: "csrfRefused", check: "token", origin: request.requestHeader.get("origin") });
    throw new SessionError("tryRefreshToken", "ANTI_CSRF", {
      message: "the anti-CSRF token is missing or wrong",
      session: claims.sid,
    });
  }
  return claims;
}
