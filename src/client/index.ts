export type { Clock } from "../clock.ts";
export type { Duration } from "../duration.ts";
export type { JsonObject, JsonValue } from "../json.ts";
export type { TokenTransport } from "../transport.ts";
export type {
  SessionClientEvent,
  SessionClientEventListener,
  SessionState,
  SignedOutBy,
} from "./client-event.ts";
export type { SessionClientOptions, TransportParts } from "./options.ts";
export type { CursorOptions, OpenStream, ResumedCall, ResumeOptions } from "./resume.ts";
export { createSessionClient, type SessionClient } from "./session-client.ts";
export type { SessionCallOptions } from "./session-rpc.ts";
export { type ClientTokens, cookieTokens, memoryTokens, type TokenStore } from "./token-store.ts";
export { withRefresh } from "./with-refresh.ts";
