export type { Duration } from "../base/checks.ts";
export type { Clock } from "../base/clock.ts";
export type {
  AnyClaims,
  ClaimsInput,
  ClaimsOf,
  ClaimsSchema,
  JsonObject,
  JsonValue,
} from "../base/json.ts";
export type { OwnLifetimes } from "../engine/lifetimes.ts";
export type { NewSessionOptions, SessionFacts } from "../server/session/sign-in.ts";
export { createFakeClock, type FakeClock } from "./fake-clock.ts";
export {
  signedIn,
  type TestSessions,
  type TestSessionsOptions,
  testSessions,
} from "./test-sessions.ts";
