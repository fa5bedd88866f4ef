import type { DescMethod, Message } from "@bufbuild/protobuf";
import type { Clock } from "../base/clock.ts";
import type { SessionErrorReason } from "../base/errors.ts";
import type { SessionTelemetry } from "../base/telemetry.ts";
import type { ClaimsRule } from "../engine/claims.ts";
import type { Engine } from "../engine/engine.ts";
import type { Lifetimes } from "../engine/lifetimes.ts";
import type { Nonces } from "../engine/refresh/nonces.ts";
import type { Revocations } from "../engine/revocation/log.ts";
import type { Session, VerifiedSession } from "../engine/session.ts";
import type { SessionRecord } from "../engine/store.ts";
import type { TokenClaims } from "../jwt/claims.ts";
import type { SessionCookies } from "../request/cookies.ts";
import type { CrossSiteRule } from "../request/origins.ts";
import type { DbscBinding } from "./authenticate/dbsc.ts";
import type { Proofs } from "./authenticate/proofs.ts";
import type { Call, SessionFactory, VerifiedClaims } from "./call/call.ts";
import type { ClientContext } from "./call/exchange.ts";
import type { Operations } from "./call/operations.ts";
import type { ClaimDemand } from "./policy/rules.ts";
import type { ReadSources } from "./policy/source-options.ts";

/** Returns the IP address of a call's client; undefined if it is not known. */
export type ClientIp = (context: ClientContext) => string | undefined;

/** A refusal that is about to be sent to a client. */
export interface Refusal {
  /** As `RefreshHint.reason` says it on the wire. */
  readonly reason: SessionErrorReason;
  /** For example "notes.v1.NotesService/ListNotes". */
  readonly procedure: string;
  /** The message in English. */
  readonly message: string;
  /** The headers of the request, for example `accept-language`. Do not repeat tokens of it. */
  readonly requestHeader: Headers;
}

/** Returns the message of a refusal, at most 1000 characters; undefined keeps the one in English. */
export type RefusalMessage = (refusal: Refusal) => string | undefined;

/** The part of the engine that authenticates calls. A service without a store has its own. */
export type Authenticator = Pick<
  Engine,
  "verify" | "used" | "load" | "loadUnsure" | "reissue" | "reissueFrom"
> & {
  readonly revocations: Revocations;
  readonly antiCsrf: Pick<Engine["antiCsrf"], "verify">;
  /** The nonces of proofs; undefined without a secret. */
  readonly nonces: Nonces | undefined;
  /**
   * Whether a session is live by the store's word. Without a store this is unknown.
   * @throws SessionError `unavailable`
   */
  standingOf(session: string): Promise<"live" | "over" | "unknown">;
  /** Whether a refresh token names a secret of this server. Proves nothing. False without secrets. */
  namesOwnSecret(refreshToken: string): boolean;
};

/** Fetches claims again that are older than a policy allows. */
export interface ClaimRenewal {
  /** Whether a claim has a source. */
  has(claim: string): boolean;
  /**
   * Makes sure that the claims that a call is judged by are young enough. Returns undefined if they
   * are; this takes no promise.
   *
   * @returns the claims to use; the response carries an access token with them
   * @throws SessionError `unavailable` if a source fails; `unauthorized` if the session has ended
   */
  renew(
    call: Call,
    token: TokenClaims,
    demands: readonly ClaimDemand[],
    signal: AbortSignal | undefined,
  ): Promise<TokenClaims> | undefined;
  /** The same for a session by id; undefined if its claims are young enough. */
  renewRecord(
    record: SessionRecord,
    demands: readonly ClaimDemand[],
  ): Promise<SessionRecord | undefined>;
}

/** Asks elsewhere whether calls are allowed. */
export interface DecisionPoint {
  /** Whether decisions depend on messages. */
  readonly readsRequest: boolean;
  /** Decides on a call before its body is read; undefined if it is allowed by an answer that is kept. */
  before(call: Call, method: DescMethod): Promise<void> | undefined;
  /** Decides on a message; undefined if that does not depend on it. */
  onMessage(call: Call, method: DescMethod, request: Message): Promise<void> | undefined;
}

/** The resolved options and the engine, shared by everything that reads sessions. */
export interface VerifyingCore<S extends VerifiedSession = VerifiedSession>
  extends SessionFactory,
    CrossSiteRule {
  readonly issuer: string;
  /** The other issuers whose sessions are accepted, after a change of the issuer. */
  readonly olderIssuers: readonly string[];
  /** Whether tokens of an issuer are accepted: `issuer` itself, or one of `olderIssuers`. */
  isOwnIssuer(issuer: string): boolean;
  readonly cookies: SessionCookies;
  readonly antiCsrf: "off" | "token";
  /** The proofs of possession that calls carry. */
  readonly proofs: Proofs;
  readonly claims: ClaimsRule;
  /** Fetches claims that are too old; undefined in a service that only verifies. */
  readonly sources: ClaimRenewal | undefined;
  /** The option `authorize`; undefined if it is not set. */
  readonly decisions: DecisionPoint | undefined;
  readonly revocations: Revocations;
  /** Creates the session object of a call from its verified token. */
  sessionOn(core: VerifyingCore<S>, verified: VerifiedClaims, call: Call): S;
  readonly clock: Clock;
  readonly refusalMessage: RefusalMessage | undefined;
  /** Undefined if nobody observes; a warm call then does nothing for it. */
  readonly telemetry: SessionTelemetry | undefined;
  /** What this instance finishes before it closes. */
  readonly operations: Operations;
  /** Milliseconds for which open streams go on while the change log cannot be read. */
  readonly maxStreamStaleness: number;
  /**
   * Whether clients are told which session their calls belong to. A service that only verifies does
   * not tell: it does not know which claims they may read.
   */
  readonly tellsClients: boolean;
  /**
   * The engine. It is opened on first use; once it is open, it is returned without a promise.
   * @throws SessionError `unavailable` if it cannot be opened now; the next call tries again
   */
  engine(): Authenticator | Promise<Authenticator>;
}

/** The same for everything that also creates, refreshes and ends sessions. */
export interface Core extends VerifyingCore<Session> {
  /** Sessions in cookies that are bound to a key of the browser. */
  readonly dbsc: DbscBinding;
  readonly browserHeaderTransport: boolean;
  /** The tenant of new sessions that name none: that of their host. Default: none. */
  readonly tenantId?: string | null;
  readonly lifetimes: Lifetimes;
  /** Returns the IP address of a call's client, as far as it can be trusted. */
  readonly clientIp: ClientIp | undefined;
  /** The option `claimSources`, checked. */
  readonly claimSources: ReadSources;
  engine(): Engine | Promise<Engine>;
}
