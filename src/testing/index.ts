export { createFakeClock, type FakeClock } from "./fake-clock.ts";
export {
  type ContractClock,
  type ContractRunner,
  type DurableStoreFixture,
  describeDurableSessionStore,
  describeSessionStore,
  type StoreFixture,
} from "./store-contract/index.ts";
export {
  signedIn,
  type TestSessions,
  type TestSessionsOptions,
  testSessions,
} from "./test-sessions.ts";
