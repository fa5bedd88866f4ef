import type { TokenTransport } from "../../src/base/wire.ts";
import { generateSigningKey, importSigningKey, signAccessToken } from "../../src/jwt/keys.ts";
import type { NotesServer } from "./server.ts";

/** The tokens and headers of a request. */
export interface Presented {
  readonly headers: Record<string, string>;
  /** The id of the session that it belongs to. */
  readonly session: string;
  /** Secrets that may only be returned in the headers meant for them. */
  readonly secrets: readonly string[];
}

export interface Tokens {
  readonly access?: string | undefined;
  readonly refresh?: string | undefined;
}

export const accessCookie = "__Host-Http-rpcsession-access";
export const refreshCookie = "__Host-Http-rpcsession-refresh";
export const sameOrigin: Record<string, string> = { "sec-fetch-site": "same-origin" };

/** The issuer of `testSessions`. */
export const realm = "https://test.example";

/** A Cookie header with both cookies, next to an unrelated one. */
export function cookieHeader({ access, refresh }: Tokens): string {
  const pairs = ["theme=dark"];
  if (access !== undefined) {
    pairs.push(`${accessCookie}=${access}`);
  }
  if (refresh !== undefined) {
    pairs.push(`${refreshCookie}=${refresh}`);
  }
  return pairs.join("; ");
}

export function byCookie(session: string, tokens: Tokens): Presented {
  return {
    headers: { cookie: cookieHeader(tokens), ...sameOrigin },
    session,
    secrets: [tokens.access, tokens.refresh].filter((token) => token !== undefined),
  };
}

export function byHeader(session: string, access: string): Presented {
  return { headers: { authorization: `Bearer ${access}` }, session, secrets: [access] };
}

/** The same, with other headers. */
export function withHeaders(presented: Presented, headers: Record<string, string>): Presented {
  return { ...presented, headers: { ...presented.headers, ...headers } };
}

/** A new session, and the tokens of it. */
export async function issue(server: NotesServer, transport: TokenTransport) {
  const { session, tokens } = await server.sessions.issue({ userId: "alice", transport });
  return { session, tokens: { access: tokens.accessToken, refresh: tokens.refreshToken } };
}

/** A request of a new session. */
export async function present(server: NotesServer, transport: TokenTransport): Promise<Presented> {
  const { session, tokens } = await issue(server, transport);
  return transport === "cookie"
    ? byCookie(session.id, tokens)
    : byHeader(session.id, tokens.access);
}

/**
 * A token in the name of an existing session, as this service would sign it, with a key that is not
 * its own.
 * @param age seconds since it was issued
 */
export async function forge(
  server: NotesServer,
  { session, age }: { readonly session: string; readonly age: number },
): Promise<string> {
  const { privateJwk } = await generateSigningKey("ES256");
  const iat = Math.floor(server.sessions.clock.now() / 1000) - age;
  return signAccessToken(
    {
      ...{ iss: realm, aud: realm, sub: "alice", sid: session, iat, exp: iat + 1800 },
      ...{
        jti: "forged",
        client_id: realm,
        gen: 0,
        gat: iat,
        cv: 0,
        auth_time: iat,
        session_iat: iat,
        session_exp: iat + 7_776_000,
      },
      transport: "cookie",
      claims: {},
    },
    await importSigningKey(privateJwk),
  );
}

/** A valid token with the signature of another one. */
export function withSignatureOf(token: string, other: string): string {
  return `${token.slice(0, token.lastIndexOf("."))}${other.slice(other.lastIndexOf("."))}`;
}
