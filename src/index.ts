export type { Clock } from "./clock.ts";
export { createSessions, type Sessions } from "./create-sessions.ts";
export type { Duration } from "./duration.ts";
export {
  type PolicyViolation,
  SessionError,
  type SessionErrorKind,
  type SessionErrorOptions,
  type SessionErrorReason,
} from "./errors.ts";
export type { EndedBy, SessionEvent, SessionEventListener } from "./events.ts";
export type { JsonObject, JsonValue } from "./json.ts";
export type { SigningAlgorithm } from "./jwt/algorithms.ts";
export type { JsonWebKey, JsonWebKeySet } from "./jwt/jwk.ts";
export type { VerifiedCacheOptions } from "./jwt/verified-cache.ts";
export type { SessionLogger } from "./logger.ts";
export type { SessionsOptions, SessionsPerUserOptions } from "./options.ts";
export type { AnyClaims, ClaimsInput, ClaimsOf, ClaimsSchema } from "./schema.ts";
export type { SecretOption } from "./secrets.ts";
export type { Exchange } from "./server/call.ts";
export type { ClientIp } from "./server/core.ts";
export { type CorsLists, type SessionCors, sessionCors } from "./server/cors.ts";
export type {
  ListOptions,
  OwnerOptions,
  SessionDirectory,
  SessionList,
} from "./server/directory.ts";
export type { RequestGate } from "./server/gate.ts";
export type {
  MethodDescription,
  MethodPolicy,
  MethodPolicyOptions,
  StreamPolicy,
} from "./server/policy.ts";
export { composeGates, type ProtectOptions } from "./server/protect.ts";
export type { IssuedSession, ServerSessions } from "./server/sessions.ts";
export type { IssuedTokens, NewSessionOptions, SessionFacts } from "./server/sign-in.ts";
export type { ForkOptions } from "./server/step-up.ts";
export type { GetSessionOptions, RequestContext, VerifyingSessions } from "./server/verifying.ts";
export type { ClientClaims } from "./session/claims-rule.ts";
export type { SessionsHealth } from "./session/health.ts";
export type { KeysOptions, RemoteSigner } from "./session/key-plan.ts";
export type { LifetimeOptions, OwnLifetimes, RefreshOptions } from "./session/lifetimes.ts";
export type {
  ClaimsChange,
  DataChange,
  Session,
  VerifiedSession,
} from "./session/session.ts";
export type { SessionInfo } from "./session/session-info.ts";
// Below: for authors of stores.
export type {
  Change,
  Changes,
  Device,
  Inserted,
  NewSession,
  RefreshWrite,
  RevokeScope,
  SessionLimit,
  SessionOwner,
  SessionPage,
  SessionRecord,
  SessionStore,
  SessionUpdate,
  StoreContext,
  Stored,
  StoredSigningKey,
} from "./session/store.ts";
export type { CookieNames, CookieOptions } from "./tokens/cookie-options.ts";
export type { TokenTransport } from "./transport.ts";
