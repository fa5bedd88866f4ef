import { SessionError } from "../errors.ts";
import { assertUserClaims } from "../jwt/user-claims.ts";
import type { Created, Creation } from "../session/lifecycle.ts";
import type { Session } from "../session/session.ts";
import { isTrustedSite } from "../tokens/cross-site.ts";
import { hasCookies } from "../tokens/source.ts";
import { chooseTransport } from "../tokens/transport-choice.ts";
import type { TokenTransport } from "../transport.ts";
import { type Call, endOwn, enterSession } from "./call.ts";
import type { Core } from "./core.ts";
import { checkCrossSite } from "./cross-site.ts";
import { provenSessions } from "./presented-session.ts";
import { expireCookies, writeTokens } from "./respond.ts";

/** Who signs in. */
export interface NewSessionOptions {
  /** The user's id, 1 to 255 characters; the `sub` of the access token. */
  readonly userId: string;
  /** The tenant the session belongs to; the `tid` of the access token. Default none. */
  readonly tenantId?: string;
  /**
   * JSON that every access token carries and `session.claims` gives back. Readable by the client
   * and by every service that verifies the token; names of RFC 7519 and of rpc-session are refused.
   */
  readonly claims?: object;
}

/** Tokens to hand over by other means than a response. Secrets. */
export interface IssuedTokens {
  readonly accessToken: string;
  readonly refreshToken: string;
}

/**
 * Begins a session on the response of a call. A session that the request proves is ended by it.
 * @throws SessionError TypeError
 */
export async function signIn(core: Core, call: Call, options: NewSessionOptions): Promise<Session> {
  const given = readNewSession(options);
  if (call.committed) {
    throw new TypeError(
      "sessions.create: the response headers were sent with the first message of the stream; create the session before it",
    );
  }
  const transport = transportOf(core, call);
  if (transport === "cookie" && !core.cookies.kept) {
    throw new TypeError(
      `sessions.create: browsers do not keep Secure cookies from ${core.issuer}; use an https issuer, or cookies: { insecure: true } for development`,
    );
  }
  if (transport === "cookie" || hasCookies(call.presented)) {
    checkCrossSite(core, call);
  }
  const engine = await core.engine();
  const now = engine.storeNow();
  const presented = await provenSessions(engine, call.presented, { inMessage: "", now });
  const [replaces = null, ...others] = presented;
  // Copies of the cookies may name further sessions, which nobody will hold after this response.
  for (const other of others) {
    await endOwn(call, () => engine.revoke(other, "replaced"));
  }
  const created = await endOwn(call, () => engine.create({ ...given, transport, replaces }));
  await writeCreated(core, call, created);
  call.written = created.record.id;
  return enterSession(core, call, created.access.claims);
}

/**
 * Begins a session without a response.
 * @throws SessionError TypeError
 */
export async function issue(
  core: Core,
  options: NewSessionOptions & { readonly transport?: TokenTransport },
): Promise<Created> {
  const given = readNewSession(options);
  const transport = options.transport ?? "header";
  const engine = await core.engine();
  return engine.create({ ...given, transport, replaces: null });
}

function readNewSession(options: NewSessionOptions): Omit<Creation, "transport" | "replaces"> {
  const { userId, tenantId, claims = {} } = options;
  assertId("userId", userId);
  if (tenantId !== undefined) {
    assertId("tenantId", tenantId);
  }
  assertUserClaims(claims);
  return { userId, tenantId: tenantId ?? null, claims, data: {}, device: {} };
}

function assertId(name: string, value: unknown): asserts value is string {
  if (typeof value !== "string" || value.length === 0 || value.length > 255) {
    throw new TypeError(`${name}: must be a string of 1 to 255 characters`);
  }
  if (!value.isWellFormed() || value.includes("\u0000")) {
    throw new TypeError(`${name}: must be well-formed Unicode without NUL`);
  }
}

function transportOf(core: Core, call: Call): TokenTransport {
  const { requestHeader: headers, requestMethod } = call;
  return chooseTransport({
    wanted: call.presented.wantedTransport,
    // Over plain http browsers send no Fetch Metadata, but the origin of a page they do.
    fromBrowser: headers.has("sec-fetch-site") || headers.has("origin"),
    trustedSite: isTrustedSite(headers, requestMethod, core.origins),
    browserHeaderTransport: core.browserHeaderTransport,
  });
}

async function writeCreated(core: Core, call: Call, created: Created): Promise<void> {
  const { record } = created;
  const engine = await core.engine();
  const cookie = record.transport === "cookie";
  if (!cookie && hasCookies(call.presented)) {
    expireCookies(core, call.responseHeader);
  }
  const { accessCookies, refreshCookies } = call.presented;
  try {
    writeTokens(core, call.responseHeader, {
      ...created,
      event: "created",
      antiCsrf:
        cookie && core.antiCsrf === "token" ? await engine.antiCsrf.mint(record.id) : undefined,
      expireCopies: accessCookies.length > 1 || refreshCookies.length > 1,
    });
  } catch (error) {
    // Nobody will ever hold its tokens: do not leave it behind.
    await engine.revoke(record.id, "revoked");
    if (error instanceof RangeError) {
      throw new TypeError(error.message, { cause: error });
    }
    throw new SessionError("general", "INTERNAL", {
      message: "the tokens could not be written",
      cause: error,
    });
  }
}
