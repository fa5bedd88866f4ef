export type { Duration } from "../base/checks.ts";
export type { Clock } from "../base/clock.ts";
export type { JsonObject, JsonValue } from "../base/json.ts";
export type { TokenTransport } from "../base/wire.ts";
export type { SessionCallOptions } from "./call/deadline.ts";
export { withRefresh } from "./call/with-refresh.ts";
export type {
  SessionClientEvent,
  SessionClientEventListener,
  SessionState,
  SignedOutBy,
  StepUpHint,
  StepUpListener,
} from "./events.ts";
export type { SessionClientOptions, TransportParts } from "./options.ts";
export type { CursorOptions, OpenStream, ResumedCall, ResumeOptions } from "./resume/resume.ts";
export { createSessionClient, type SessionClient } from "./session-client.ts";
export { type ClientTokens, cookieTokens, memoryTokens, type TokenStore } from "./state/tokens.ts";
