import type { HandlerContext } from "@connectrpc/connect";
import type { Clock } from "../base/clock.ts";
import type { SessionEventListener } from "../base/events.ts";
import type { JsonObject } from "../base/json.ts";
import type { ClaimsRule } from "../engine/claims.ts";
import type { Engine } from "../engine/engine.ts";
import type { Lifetimes } from "../engine/lifetimes.ts";
import type { Revocations } from "../engine/revocation/log.ts";
import type { Session, VerifiedSession } from "../engine/session.ts";
import type { TokenClaims } from "../jwt/claims.ts";
import type { SessionCookies } from "../request/cookies.ts";
import type { Call } from "./call/call.ts";

/** Tells the IP address of a call's client; undefined when it is not known. */
export type ClientIp = (context: HandlerContext) => string | undefined;

/** What authentication needs of an engine: all that a service that only verifies has. */
export type Authenticator = Pick<
  Engine,
  "verify" | "load" | "loadUnsure" | "reissue" | "reissueFrom" | "used" | "revoke"
> & {
  readonly revocations: Revocations;
  readonly antiCsrf: Pick<Engine["antiCsrf"], "verify">;
};

/** What the parts that read sessions share: the options, checked and resolved, and the engine. */
export interface VerifyingCore<S extends VerifiedSession = VerifiedSession> {
  readonly issuer: string;
  readonly cookies: SessionCookies;
  /** Exact origins whose pages may use cookies. */
  readonly origins: ReadonlySet<string>;
  readonly crossSite: "checked" | "unchecked";
  readonly antiCsrf: "off" | "token";
  readonly emit: SessionEventListener;
  readonly claims: ClaimsRule;
  /** The store's clock as this process knows it without asking; milliseconds since 1970. */
  storeNow(): number;
  /** The session of a call by its verified token. */
  sessionOn(call: Call, verified: VerifiedClaims): S;
  readonly clock: Clock;
  /** Milliseconds without word of the change log after which open streams end. */
  readonly maxStreamStaleness: number;
  /**
   * The engine, opened on first use; without a promise once it is open.
   * @throws SessionError `unavailable` when it cannot be opened now; the next call tries again
   */
  engine(): Authenticator | Promise<Authenticator>;
}

/** What a verified access token says. */
export interface VerifiedClaims {
  readonly claims: TokenClaims;
  /** The user's claims as handlers see them. */
  readonly read: JsonObject;
}

/** What every part of the server side shares, those that begin, refresh and end sessions included. */
export interface Core extends VerifyingCore<Session> {
  readonly browserHeaderTransport: boolean;
  readonly lifetimes: Lifetimes;
  /** The IP address of a call's client, as far as it can be trusted. */
  readonly clientIp: ClientIp | undefined;
  engine(): Engine | Promise<Engine>;
}
