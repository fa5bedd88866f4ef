export { createFakeClock, type FakeClock } from "./fake-clock.ts";
export { signedIn, type TestSessions, testSessions } from "./test-sessions.ts";
