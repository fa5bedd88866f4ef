import type { HandlerContext } from "@connectrpc/connect";
import { assertMembers } from "../../base/checks.ts";
import { SessionError } from "../../base/errors.ts";
import { header, type TokenTransport } from "../../base/wire.ts";
import type { Created, Creation } from "../../engine/create.ts";
import type { Engine } from "../../engine/engine.ts";
import { type OwnLifetimes, readOwnLifetimes } from "../../engine/lifetimes.ts";
import type { Session } from "../../engine/session.ts";
import type { Device } from "../../engine/store.ts";
import { isTrustedSite } from "../../request/origins.ts";
import { hasCookies } from "../../request/tokens.ts";
import { chooseTransport } from "../../request/transport.ts";
import { checkCrossSite, provenSessions } from "../authenticate/refresh.ts";
import { type Call, endOwn } from "../call/call.ts";
import type { Core } from "../core.ts";
import { expireCookies, writeTokens } from "../response/tokens.ts";
import { readData } from "./edits.ts";

/** Characters that are kept of a User-Agent; real ones are shorter. */
const maxUserAgent = 512;
/** The longest IPv6 address with a zone has fewer characters. */
const maxIp = 64;

/**
 * What a call tells of the device it comes from.
 * @throws TypeError when `clientIp` returns no text
 * @throws SessionError `general` when it throws
 */
export function deviceOf(core: Core, context: HandlerContext): Device {
  const userAgent = context.requestHeader.get("user-agent")?.slice(0, maxUserAgent).toWellFormed();
  const ip = ipOf(core, context)?.slice(0, maxIp).toWellFormed();
  return { ...(userAgent ? { userAgent } : {}), ...(ip ? { ip } : {}) };
}

function ipOf({ clientIp }: Core, context: HandlerContext): string | undefined {
  let ip: unknown;
  try {
    ip = clientIp?.(context);
  } catch (cause) {
    throw new SessionError("general", "INTERNAL", { message: "clientIp threw", cause });
  }
  if (ip !== undefined && typeof ip !== "string") {
    throw new TypeError("clientIp: must return a string, or undefined where it is not known");
  }
  return ip;
}

/** Who signs in, and with what. `Claims`: what the schema of the option `claims` takes. */
export type NewSessionOptions<Claims extends object = object> = SessionFacts &
  (Record<never, never> extends Claims
    ? { readonly claims?: Claims }
    : {
        /**
         * What every access token carries and `session.claims` gives back, as JSON. Readable by every
         * service that verifies the token, and by clients that hold it; names of RFC 7519 and of
         * rpc-session are refused.
         */
        readonly claims: Claims;
      });

/** What a new session is given beside its claims. */
export interface SessionFacts {
  /** The user's id, 1 to 255 characters; the `sub` of the access token. */
  readonly userId: string;
  /** The tenant the session belongs to; the `tid` of the access token. Default none. */
  readonly tenantId?: string;
  /** Private data, JSON, at most 64 KiB: for the service alone, no token carries it. Default none. */
  readonly data?: object;
  /** What the user calls the device, at most 255 characters. Default none. */
  readonly label?: string;
  /** A shorter life than the service's. */
  readonly lifetimes?: OwnLifetimes;
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
export async function signIn(
  core: Core,
  call: Call,
  { options, context }: { readonly options: AnySession; readonly context: HandlerContext },
): Promise<Session> {
  const given = await readNewSession(core, options);
  const device = { ...deviceOf(core, context), ...given.device };
  assertNotCommitted(call, "sessions.create");
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
  const [replaces = null, ...others] = await formerSessions(engine, call);
  // Copies of the cookies may name further sessions, which nobody will hold after this response.
  for (const other of others) {
    await endOwn(call, () => engine.revoke(other, "replaced"));
  }
  const created = await endOwn(call, () =>
    engine.create({ ...given, device, transport, replaces }),
  );
  return enterCreated(core, call, created);
}

/** The sessions that nobody will hold after this response. */
async function formerSessions(engine: Engine, call: Call): Promise<Iterable<string>> {
  if (call.written !== undefined) {
    // The call has begun one already, and that one took the place of those presented.
    return [call.written];
  }
  const now = engine.revocations.storeNow();
  return (await provenSessions(engine, call.presented, { inMessage: "", now })).sessions;
}

/** Options whose claims are checked when the session begins, not by the compiler. */
export type AnySession = SessionFacts & { readonly claims?: object };

/** Writes the tokens of a new session to the response of the call, and makes it the call's. */
export async function enterCreated(core: Core, call: Call, created: Created): Promise<Session> {
  await writeCreated(core, call, created);
  call.written = created.record.id;
  const { claims } = created.access;
  const read = await core.claims.read(created.record.claims);
  const session = core.sessionOn(core, { claims, read }, call);
  call.enter(() => session);
  return session;
}

/** @throws TypeError when no token can be written any more */
export function assertNotCommitted(call: Call, what: string): void {
  if (call.committed) {
    throw new TypeError(
      `${what}: the response headers were sent already, or with the first message of the stream; call it before that`,
    );
  }
}

/**
 * Begins a session without a response.
 * @throws SessionError TypeError
 */
export async function issue(
  core: Core,
  options: AnySession & { readonly transport?: TokenTransport },
): Promise<Created> {
  const given = await readNewSession(core, options);
  const transport = readTransport(options.transport);
  const engine = await core.engine();
  return engine.create({ ...given, transport, replaces: null });
}

/** @throws TypeError when it is none */
export function readTransport(transport: TokenTransport = "header"): TokenTransport {
  if (transport !== "header" && transport !== "cookie") {
    throw new TypeError('transport: must be "header" or "cookie"');
  }
  return transport;
}

const members: Readonly<Record<keyof AnySession | "transport", 0>> = {
  ...{ userId: 0, tenantId: 0, claims: 0, data: 0, label: 0, lifetimes: 0, transport: 0 },
};

type Given = Omit<Creation, "transport" | "replaces">;

async function readNewSession(core: Core, options: AnySession): Promise<Given> {
  assertMembers("the new session", options, members);
  const { userId, tenantId, label, lifetimes, data = {} } = options;
  assertId("userId", userId);
  if (tenantId !== undefined) {
    assertId("tenantId", tenantId);
  }
  if (label !== undefined) {
    assertId("label", label);
  }
  const claims = await core.claims.accept(options.claims ?? {});
  // Here, where a mistake still changes nothing.
  await core.claims.forClient(claims);
  return {
    userId,
    tenantId: tenantId ?? null,
    claims,
    data: readData(data),
    device: label === undefined ? {} : { label },
    ...(lifetimes === undefined ? {} : { life: readOwnLifetimes(core.lifetimes, lifetimes) }),
  };
}

/** @throws TypeError unless it is a text that a store and a token can hold */
export function assertId(name: string, value: unknown): asserts value is string {
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
    wanted: call.requestHeader.get(header.transport) ?? undefined,
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
    await writeTokens(core, call.responseHeader, {
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
