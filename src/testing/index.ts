export { createFakeClock, type FakeClock } from "./fake-clock.ts";
export {
  signedIn,
  type TestSessions,
  type TestSessionsOptions,
  testSessions,
} from "./test-sessions.ts";
