import { SessionError } from "../errors.ts";
import type { AccessClaims } from "../jwt/claims.ts";
import { endedError, liveOf } from "../session/ended.ts";
import { isEmpty } from "../tokens/source.ts";
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
 * revocation. No I/O, but for an unknown signing key.
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
    await checkAntiCsrf(core, engine, { claims, request });
  }
  await checkRevoked(engine, claims);
  engine.used(claims);
  return claims;
}

async function checkAntiCsrf(
  core: VerifyingCore,
  engine: Authenticator,
  { claims, request }: { readonly claims: AccessClaims; readonly request: AuthenticationRequest },
): Promise<void> {
  const token = request.presented.antiCsrf;
  if (token === undefined || !(await engine.antiCsrf.verify(claims.sid, token))) {
    core.emit({ type: "csrfRefused", check: "token", origin: request.requestHeader.get("origin") });
    throw new SessionError("tryRefreshToken", "ANTI_CSRF", {
      message: "the anti-CSRF token is missing or wrong",
      session: claims.sid,
    });
  }
}

async function checkRevoked(engine: Authenticator, claims: AccessClaims): Promise<void> {
  const { sid: session } = claims;
  const change = engine.revocations.get(session);
  if (change !== undefined) {
    throw endedError({ session, endedBy: change.endedBy, at: change.at }, engine.storeNow());
  }
  if (engine.revocations.unsure) {
    liveOf(session, await engine.load(session));
  }
}
