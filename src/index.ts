export type { Clock } from "./base/clock.ts";
export { createSessions, type Sessions } from "./create-sessions.ts";
export type { Duration } from "./base/duration.ts";
export {
  type PolicyViolation,
  SessionError,
  type SessionErrorKind,
  type SessionErrorOptions,
  type SessionErrorReason,
} from "./base/errors.ts";
export type { EndedBy, SessionEvent, SessionEventListener } from "./base/events.ts";
export type { JsonObject, JsonValue } from "./base/json.ts";
export type { SigningAlgorithm } from "./jwt/algorithms.ts";
export type { JsonWebKey, JsonWebKeySet } from "./jwt/jwk.ts";
export type { VerifiedCacheOptions } from "./jwt/verified-cache.ts";
export type { SessionLogger } from "./base/logger.ts";
export type { SessionsOptions, SessionsPerUserOptions } from "./options.ts";
export type { AnyClaims, ClaimsInput, ClaimsOf, ClaimsSchema } from "./base/schema.ts";
export type { SecretOption } from "./base/secrets.ts";
export type { Exchange } from "./server/call/call.ts";
export type { ClientIp } from "./server/core.ts";
export { type CorsLists, type SessionCors, sessionCors } from "./server/cors.ts";
export type {
  ListOptions,
  OwnerOptions,
  SessionDirectory,
  SessionList,
} from "./server/session/directory.ts";
export type { RequestGate } from "./server/call/gate.ts";
export type {
  MethodDescription,
  MethodPolicy,
  MethodPolicyOptions,
  StreamPolicy,
} from "./server/policy/policy.ts";
export { composeGates, type ProtectOptions } from "./server/protect.ts";
export type { IssuedSession, ServerSessions } from "./server/sessions.ts";
export type { IssuedTokens, NewSessionOptions, SessionFacts } from "./server/session/sign-in.ts";
export type { ForkOptions } from "./server/session/step-up.ts";
export type { GetSessionOptions, RequestContext, VerifyingSessions } from "./server/verifying.ts";
export type { ClientClaims } from "./engine/claims-rule.ts";
export type { SessionsHealth } from "./engine/revocation/health.ts";
export type { KeysOptions, RemoteSigner } from "./engine/keys/key-plan.ts";
export type { LifetimeOptions, OwnLifetimes, RefreshOptions } from "./engine/lifetimes.ts";
export type {
  ClaimsChange,
  DataChange,
  Session,
  VerifiedSession,
} from "./engine/session.ts";
export type { SessionInfo } from "./engine/session-info.ts";
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
} from "./engine/store.ts";
export type { CookieNames, CookieOptions } from "./request/cookie-options.ts";
export type { TokenTransport } from "./base/transport.ts";
