export type { Duration } from "./base/checks.ts";
export type { Clock } from "./base/clock.ts";
export type { SecretOption } from "./base/crypto.ts";
export {
  type PolicyViolation,
  SessionError,
  type SessionErrorKind,
  type SessionErrorOptions,
  type SessionErrorReason,
  type StepUp,
} from "./base/errors.ts";
export type {
  EndedBy,
  SessionEvent,
  SessionEventListener,
  SessionLogger,
  TheftKind,
} from "./base/events.ts";
export type {
  AnyClaims,
  ClaimsInput,
  ClaimsOf,
  ClaimsSchema,
  JsonObject,
  JsonValue,
} from "./base/json.ts";
export type {
  FeedReadings,
  ObservedCall,
  ObservedOperation,
  Operation,
  OperationFacts,
  SessionTelemetry,
  TelemetryReadings,
} from "./base/telemetry.ts";
export type { TokenTransport } from "./base/wire.ts";
export { type CloseOptions, createSessions, type Sessions } from "./create-sessions.ts";
export type { AuditLogOptions, RevokeCause } from "./engine/audit/log.ts";
export type { ClientClaims } from "./engine/claims.ts";
export type { KeysOptions, RemoteSigner } from "./engine/keys/plan.ts";
export type { LifetimeOptions, OwnLifetimes, RefreshOptions } from "./engine/lifetimes.ts";
export type { RevocationCheck } from "./engine/revocation/check.ts";
export type { SessionsHealth } from "./engine/revocation/health.ts";
export type {
  ClaimsChange,
  DataChange,
  Session,
  SessionInfo,
  VerifiedSession,
} from "./engine/session.ts";
// The contract of session stores, for authors of stores.
export type {
  AuditDetail,
  AuditEvent,
  AuditedUser,
  AuditRecord,
  AuditRecords,
  Authentication,
  Changes,
  ClaimsEntry,
  Device,
  EndedEntry,
  ExternalId,
  ExternalKey,
  GenerationUse,
  Inserted,
  KeysEntry,
  LogEntry,
  NewAuditEntry,
  NewSession,
  RecordedSecret,
  RecordedSecrets,
  RefreshWrite,
  RevokeScope,
  SecretName,
  SessionLimit,
  SessionOwner,
  SessionPage,
  SessionRecord,
  SessionSelection,
  SessionStore,
  SessionUpdate,
  StoreContext,
  Stored,
  StoredSigningKey,
} from "./engine/store.ts";
export type { HostOptions } from "./host-options.ts";
export type { SecretInfo, SessionKeys, SessionSecrets, SigningKeyInfo } from "./incident.ts";
export type { JsonWebKey, JsonWebKeySet, SigningAlgorithm } from "./jwt/jwk.ts";
export type { VerifiedCacheOptions } from "./jwt/verified-cache.ts";
export type { BindOptions, SessionsOptions, SessionsPerUserOptions } from "./options.ts";
export type { CookieNames, CookieOptions } from "./request/cookie-options.ts";
export { redactTokens } from "./request/tokens.ts";
export type {
  ClientContext,
  Exchange,
  InterceptedRequest,
  RpcContext,
} from "./server/call/exchange.ts";
export type { RequestGate } from "./server/call/gate.ts";
export type { ClientIp, Refusal, RefusalMessage } from "./server/core.ts";
export type { HostOf, HostRequest } from "./server/hosts.ts";
export type { AuthorizeOptions, Decision } from "./server/policy/decisions.ts";
export type {
  ClaimDemand,
  ClaimReason,
  ClaimRule,
  ClaimRules,
  ClaimValue,
  Condition,
  ConditionFacts,
  ConditionLanguage,
  ForeignBearerPolicy,
  MethodDescription,
  MethodPolicy,
  MethodPolicyOptions,
  ProofPolicy,
  StreamPolicy,
  ValidateClaims,
} from "./server/policy/policy.ts";
export type { ClaimSource, ClaimSubject } from "./server/policy/source-options.ts";
export {
  type CorsLists,
  composeGates,
  type ProtectOptions,
  type SessionCors,
  sessionCors,
} from "./server/protect.ts";
export type {
  DrainOptions,
  GetSessionOptions,
  RequestContext,
  StepUpDemand,
  VerifyingSessions,
} from "./server/reading.ts";
export type { DbscEndpoints, DbscRequest } from "./server/service/dbsc.ts";
export type { AdoptedFacts } from "./server/session/adopt.ts";
export type {
  AuditEntry,
  AuditListOptions,
  AuditOwner,
  AuditPage,
  SessionAuditLog,
} from "./server/session/audit.ts";
export type { SessionCondition } from "./server/session/by-condition.ts";
export type {
  ExternalOptions,
  ListOptions,
  OwnerOptions,
  SessionDirectory,
  SessionList,
} from "./server/session/by-id.ts";
export type {
  AuthenticationOptions,
  BindOption,
  IssuedTokens,
  NewSessionOptions,
  RedirectOptions,
  SessionFacts,
} from "./server/session/sign-in.ts";
export type { ForkOptions } from "./server/session/successors.ts";
export type { SessionTicket, TicketOptions } from "./server/session/tickets.ts";
export type {
  HostSessions,
  IssuedSession,
  IssueOptions,
  ServerSessions,
} from "./server/sessions.ts";
export { type KeepAliveOptions, keepAlive } from "./server/streams/keep-alive.ts";
