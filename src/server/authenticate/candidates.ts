import { parseRefreshToken } from "../../engine/refresh/format.ts";
import { outlineOf } from "../../jwt/strict-parse.ts";
import { maxCopies, maxRead, type PresentedTokens } from "../../request/tokens.ts";
import type { Authenticator, VerifyingCore } from "../core.ts";

// Which tokens of a request may be this service's own, before anything is verified. The table is in
// docs/internals/which-tokens-count.md.

type Issuers = Pick<VerifyingCore, "isOwnIssuer">;

/** Whether an access cookie names another issuer. It then counts as absent. */
function isForeign({ isOwnIssuer }: Issuers, accessCookie: string): boolean {
  const { issuer } = outlineOf(accessCookie);
  return issuer !== undefined && !isOwnIssuer(issuer);
}

/** Returns the access cookies that do not name another issuer. */
export function ownAccessCookies(
  issuers: Issuers,
  { accessCookies }: PresentedTokens,
): readonly string[] {
  return accessCookies.filter((cookie) => !isForeign(issuers, cookie));
}

/** Returns the issuer that a token of the request names, if it is accepted. It proves nothing. */
export function presentedIssuer(
  { isOwnIssuer }: Issuers,
  presented: PresentedTokens,
): string | undefined {
  return issuersOf(presented).find(isOwnIssuer);
}

/** Returns an issuer that a token of the request names and that is not accepted. It proves nothing. */
export function foreignIssuer(
  { isOwnIssuer }: Issuers,
  presented: PresentedTokens,
): string | undefined {
  return issuersOf(presented).find((issuer) => !isOwnIssuer(issuer));
}

function issuersOf({ bearer, accessCookies }: PresentedTokens): readonly string[] {
  return [...(bearer === undefined ? [] : [bearer]), ...accessCookies]
    .map((token) => outlineOf(token).issuer)
    .filter((issuer) => issuer !== undefined);
}

/** Whether an access cookie of another issuer is among the cookies of a request. */
export function hasForeignCookies(
  issuers: Issuers,
  { accessCookies }: Pick<PresentedTokens, "accessCookies">,
): boolean {
  return accessCookies.some((cookie) => isForeign(issuers, cookie));
}

/**
 * Whether a cookie of a request may be this service's own. A refresh cookie names no issuer: it counts
 * as that of the access cookies beside it.
 */
export function mayHaveOwnCookies(issuers: Issuers, presented: PresentedTokens): boolean {
  return (
    ownAccessCookies(issuers, presented).length > 0 ||
    (presented.accessCookies.length === 0 && presented.refreshCookies.length > 0)
  );
}

/**
 * Whether a refresh cookie may be this service's own: beside access cookies of other issuers only, it
 * is so only under a secret of this server.
 */
export function hasOwnRefresh(
  engine: Pick<Authenticator, "namesOwnSecret">,
  { accessCookies, refreshCookies }: PresentedTokens,
): boolean {
  return refreshCookies.some((token) => accessCookies.length === 0 || engine.namesOwnSecret(token));
}

/**
 * The same as {@link mayHaveOwnCookies}, for calls that expire cookies: the secrets are asked too.
 * @throws SessionError `unavailable` if they are needed and cannot be read yet
 */
export async function hasOwnCookies(
  core: VerifyingCore,
  presented: PresentedTokens,
): Promise<boolean> {
  return (
    mayHaveOwnCookies(core, presented) ||
    (presented.refreshCookies.length > 0 && hasOwnRefresh(await core.engine(), presented))
  );
}

/**
 * Whether there are more copies of a cookie than a browser can have come by honestly. The real one
 * may then be among those that would not be looked at.
 *
 * @param read the copies that were read
 * @param own those of them that do not belong to another service
 */
export function isTooMany(read: readonly string[], own: readonly string[]): boolean {
  return own.length > maxCopies || read.length >= maxRead;
}

/**
 * Whether a bearer token is not this service's own, so that a policy may leave it to the service: it
 * names another issuer or, if it names none, does not have the form of this service's tokens. Text that
 * is not a bearer token at all is never foreign.
 */
export function isForeignBearer({ isOwnIssuer }: Issuers, bearer: string): boolean {
  if (!b64token.test(bearer) || parseRefreshToken(bearer) !== undefined) {
    return false;
  }
  const { isAccessToken, issuer } = outlineOf(bearer);
  return issuer === undefined ? !isAccessToken : !isOwnIssuer(issuer);
}

/** RFC 6750 section 2.1. */
const b64token = /^[A-Za-z0-9._~+/-]+=*$/;
