import { SessionError } from "../../base/errors.ts";
import type { AccessClaims } from "../../jwt/claims.ts";
import { endedError, liveOf } from "../../engine/ended.ts";
import type { Reissued } from "../../engine/reissue.ts";
import type { RevocationCheck } from "../../engine/revocation/revocation-check.ts";
import type { Call } from "../call/call.ts";
import type { Authenticator, VerifyingCore } from "../core.ts";
import { writeReissued } from "../response/respond.ts";

/** What a call demands of a session whose token is good. */
export interface SessionDemand {
  readonly check: RevocationCheck;
  /** Whether claims that are out of date must not serve, even in an outage. Default false. */
  readonly needsClaims?: boolean;
}

/** Where a new access token goes. */
type Response = Pick<Call, "requestMethod" | "responseHeader">;

/** A verified token, and what its call demands. */
export interface Verified {
  readonly engine: Authenticator;
  readonly claims: AccessClaims;
  readonly demand: SessionDemand;
  /** What `storeNow` told just now; undefined where something was waited for since. */
  readonly now: number | undefined;
}

/**
 * Checks that the session of a verified token lives, and brings its claims up to date: where they
 * have changed, the response carries a new access token. Nothing is waited for where all is known.
 *
 * @throws SessionError
 */
export function checkSession(
  core: VerifyingCore,
  response: Response,
  verified: Verified,
): AccessClaims | Promise<AccessClaims> {
  const { engine, claims, demand, now } = verified;
  switch (demand.check) {
    case "none":
      return claims;
    case "strict":
      return checkStored(core, response, verified);
    case "feed":
      assertNotRevoked(engine, claims);
      return engine.revocations.unsure || engine.feed.isStale(now) || hasNewClaims(engine, claims)
        ? checkFeed(core, response, verified)
        : claims;
  }
}

async function checkFeed(
  core: VerifyingCore,
  response: Response,
  verified: Verified,
): Promise<AccessClaims> {
  const { engine, claims, demand } = verified;
  if (!engine.revocations.unsure && engine.feed.isStale()) {
    await engine.feed.catchUp();
    assertNotRevoked(engine, claims);
  }
  // Also where the store has lost changes meanwhile.
  if (engine.revocations.unsure) {
    return adoptStored(core, response, { verified, stored: await engine.loadUnsure(claims.sid) });
  }
  try {
    return await adopt(core, response, { claims, reissued: await engine.reissue(claims) });
  } catch (error) {
    if (!demand.needsClaims && error instanceof SessionError && error.kind === "unavailable") {
      return claims;
    }
    throw error;
  }
}

async function checkStored(
  core: VerifyingCore,
  response: Response,
  verified: Verified,
): Promise<AccessClaims> {
  const { engine, claims } = verified;
  return adoptStored(core, response, { verified, stored: await engine.load(claims.sid) });
}

async function adoptStored(
  core: VerifyingCore,
  response: Response,
  { verified, stored }: { readonly verified: Verified; readonly stored: StoredSession },
): Promise<AccessClaims> {
  const { engine, claims } = verified;
  const record = liveOf(claims.sid, stored);
  const reissued = await engine.reissueFrom(claims, { record, now: stored.now });
  return adopt(core, response, { claims, reissued });
}

type StoredSession = Awaited<ReturnType<Authenticator["load"]>>;

function assertNotRevoked(engine: Authenticator, claims: AccessClaims): void {
  const { sid: session } = claims;
  const end = engine.revocations.get(session);
  if (end !== undefined) {
    throw endedError({ session, endedBy: end.endedBy, at: end.at }, engine.storeNow());
  }
}

function hasNewClaims({ revocations }: Authenticator, { sid, cv }: AccessClaims): boolean {
  const version = revocations.claimsVersionOf(sid);
  return version !== undefined && version > cv;
}

/** The claims that the call goes on with; new ones go to the client, unless by GET, which may be kept. */
async function adopt(
  core: VerifyingCore,
  { requestMethod, responseHeader }: Response,
  { claims, reissued }: { readonly claims: AccessClaims; readonly reissued: Reissued | undefined },
): Promise<AccessClaims> {
  if (reissued === undefined) {
    return claims;
  }
  if (requestMethod !== "GET") {
    await writeReissued(core, responseHeader, reissued);
  }
  return reissued.access.claims;
}
