import { assertAuthenticationWord } from "../../base/checks.ts";
import type { Authentication } from "../../engine/store.ts";

/** How the user has authenticated just now. Policies can demand an `acr`; see RFC 9470. */
export interface AuthenticationOptions {
  /**
   * The authentication context class that the service gives this authentication, such as "phr" for a
   * phishing-resistant one (OpenID Connect EAP ACR values). It becomes `acr` of the access tokens. 1 to
   * 255 printable ASCII characters without spaces, quotes and backslashes. Default: none.
   *
   * A policy trusts it. So pass what your code has verified, never a value from the request.
   */
  readonly acr?: string | undefined;
  /**
   * The methods of this authentication, such as `["hwk", "user"]` (RFC 8176). They become `amr` of the
   * access tokens. 1 to 16 values of the form of `acr`. Default: none.
   */
  readonly amr?: readonly string[] | undefined;
}

/** More methods than one sign-in can use. */
const maxMethods = 16;

/** @throws TypeError if a value cannot be carried by a token, or listed in a challenge */
export function readAuthentication({ acr, amr }: AuthenticationOptions): Authentication | null {
  if (acr !== undefined) {
    assertAuthenticationWord("acr", acr);
  }
  if (amr !== undefined) {
    if (!Array.isArray(amr) || amr.length === 0 || amr.length > maxMethods) {
      throw new TypeError(
        `amr must be a list of 1 to ${maxMethods} methods, such as ["hwk", "user"]`,
      );
    }
    for (const method of amr) {
      assertAuthenticationWord("amr", method);
    }
  }
  return acr === undefined && amr === undefined
    ? null
    : { ...(acr === undefined ? {} : { acr }), ...(amr === undefined ? {} : { amr: [...amr] }) };
}
