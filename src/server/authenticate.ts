import { SessionError } from "../errors.ts";
import type { AccessClaims } from "../jwt/claims.ts";
import { endedError, liveOf } from "../session/ended.ts";
import { isEmpty } from "../tokens/source.ts";
import { andThen } from "./and-then.ts";
import type { Call } from "./call.ts";
import type { Authenticator, VerifyingCore } from "./core.ts";
import { checkCrossSite } from "./cross-site.ts";
import { verifyBearer, verifyCookies } from "./verify-presented.ts";

/** A call as far as authentication looks at it. */
export type AuthenticationRequest = Pick<Call, "requestHeader" | "requestMethod" | "presented">;

/** What a call demands. */
export interface AuthenticationDemand {
  readonly required: boolean;
  readonly doAntiCsrfCheck: boolean;
}

/**
 * Finds and verifies the access token of a request: tokens, cross-site, signature, anti-CSRF token,
 * revocation. No I/O, but for an unknown signing key; and no promise where the token was verified
 * before.
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
    const live = andThen(ownPage, (claims) => checkRevoked(engine, claims));
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
  const token = request.presented.antiCsrf;
  if (token === undefined || !(await engine.antiCsrf.verify(claims.sid, token))) {
    core.emit({ type: "csrfRefused", check: "token", origin: request.requestHeader.get("origin") });
    throw new SessionError("tryRefreshToken", "ANTI_CSRF", {
      message: "the anti-CSRF token is missing or wrong",
      session: claims.sid,
    });
  }
  return claims;
}

function checkRevoked(
  engine: Authenticator,
  claims: AccessClaims,
): AccessClaims | Promise<AccessClaims> {
  const { sid: session } = claims;
  const change = engine.revocations.get(session);
  if (change !== undefined) {
    throw endedError({ session, endedBy: change.endedBy, at: change.at }, engine.storeNow());
  }
  return engine.revocations.unsure ? checkStored(engine, claims) : claims;
}

async function checkStored(engine: Authenticator, claims: AccessClaims): Promise<AccessClaims> {
  liveOf(claims.sid, await engine.load(claims.sid));
  return claims;
}
