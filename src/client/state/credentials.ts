import { Code, ConnectError } from "@connectrpc/connect";
import { header, type TokenTransport } from "../../base/wire.ts";
import type { ClientTokens } from "./tokens.ts";

/** The credentials that identify a session: tokens by header, or the anti-CSRF token of cookies. */
export interface Credentials {
  readonly transport: TokenTransport;
  readonly tokens: ClientTokens | undefined;
  readonly csrf: string | undefined;
}

/** The error of a call that needs tokens while the token store fails. */
export function tokensNotLoaded(cause?: ConnectError): ConnectError {
  return new ConnectError(
    "the token store has not returned the tokens; try again, and check the event storeFailed",
    Code.Unavailable,
    undefined,
    undefined,
    cause,
  );
}

/** The credentials of a refresh, which is authenticated by the refresh token alone. */
export function refreshHeaders({ transport, csrf }: Credentials): Record<string, string> {
  return { [header.transport]: transport, ...(csrf !== undefined && { [header.csrf]: csrf }) };
}

/** The credentials of every other call. */
export function credentialHeaders(held: Credentials): Record<string, string> {
  const { tokens } = held;
  return {
    ...refreshHeaders(held),
    ...(tokens !== undefined && { authorization: `Bearer ${tokens.accessToken}` }),
  };
}
