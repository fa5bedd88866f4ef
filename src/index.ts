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
export type { SessionsOptions } from "./options.ts";
export type { SecretOption } from "./secrets.ts";
export type { Exchange } from "./server/call.ts";
export { type CorsLists, type SessionCors, sessionCors } from "./server/cors.ts";
export type { RequestGate } from "./server/gate.ts";
export type { MethodDescription, MethodPolicy, MethodPolicyOptions } from "./server/policy.ts";
export { composeGates, type ProtectOptions } from "./server/protect.ts";
export type { ServerSessions } from "./server/sessions.ts";
export type { IssuedTokens, NewSessionOptions } from "./server/sign-in.ts";
export type { GetSessionOptions, VerifyingSessions } from "./server/verifying.ts";
export type { KeysOptions, RemoteSigner } from "./session/key-plan.ts";
export type { LifetimeOptions, RefreshOptions } from "./session/lifetimes.ts";
export type { Session, VerifiedSession } from "./session/session.ts";
// Below: for authors of stores.
export type {
  Change,
  Changes,
  Device,
  NewSession,
  RefreshWrite,
  SessionRecord,
  SessionStore,
  StoreContext,
  Stored,
  StoredSigningKey,
} from "./session/store.ts";
export type { CookieOptions } from "./tokens/cookie.ts";
export type { TokenTransport } from "./transport.ts";
