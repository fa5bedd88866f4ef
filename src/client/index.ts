export type { Clock } from "../base/clock.ts";
export type { Duration } from "../base/duration.ts";
export type { JsonObject, JsonValue } from "../base/json.ts";
export type { TokenTransport } from "../base/transport.ts";
export type {
  SessionClientEvent,
  SessionClientEventListener,
  SessionState,
  SignedOutBy,
} from "./client-event.ts";
export type { SessionClientOptions, TransportParts } from "./options.ts";
export type { CursorOptions, OpenStream, ResumedCall, ResumeOptions } from "./resume/resume.ts";
export { createSessionClient, type SessionClient } from "./session-client.ts";
export type { SessionCallOptions } from "./refresh/session-rpc.ts";
export { type ClientTokens, cookieTokens, memoryTokens, type TokenStore } from "./state/token-store.ts";
export { withRefresh } from "./call/with-refresh.ts";
