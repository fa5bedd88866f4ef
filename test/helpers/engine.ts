import type { SecretOption } from "../../src/base/crypto.ts";
import type { SessionEvent } from "../../src/base/events.ts";
import { Engine } from "../../src/engine/engine.ts";
import {
  type LifetimeOptions,
  type RefreshOptions,
  readLifetimes,
} from "../../src/engine/lifetimes.ts";
import type { SessionStore } from "../../src/engine/store.ts";
import { memoryStore } from "../../src/stores/memory/index.ts";
import { createFakeClock, type FakeClock } from "../../src/testing/fake-clock.ts";

export interface TestEngine extends Engine {
  readonly clock: FakeClock;
  readonly store: SessionStore;
  readonly events: SessionEvent[];
  /** Creates a header session; returns its refresh token of generation 0. */
  signIn(): Promise<{ readonly id: string; readonly token: string }>;
  /** Refreshes a header session. */
  exchange(token: string): ReturnType<Engine["refresher"]["refresh"]>;
  /** Waits until the generation may be confirmed, uses the token, and lets the overlap pass. */
  confirm(token: string): Promise<void>;
}

export interface TestEngineOptions {
  readonly store?: SessionStore;
  readonly clock?: FakeClock;
  readonly secret?: SecretOption;
  readonly lifetimes?: LifetimeOptions;
  readonly refresh?: RefreshOptions;
}

export async function startEngine(options: TestEngineOptions = {}): Promise<TestEngine> {
  const { store = memoryStore(), clock = createFakeClock() } = options;
  const events: SessionEvent[] = [];
  const engine = await new Engine({
    issuer: "https://api.example.com",
    audience: "https://api.example.com",
    store,
    secret: options.secret,
    lifetimes: readLifetimes(options.lifetimes ?? {}, options.refresh ?? {}),
    clockSkew: 60_000,
    clock,
    emit: (event) => events.push(event),
  }).open();
  const exchange: TestEngine["exchange"] = (token) =>
    engine.refresher.refresh({ token, transport: "header" });
  return Object.assign(engine, {
    clock,
    store,
    events,
    exchange,
    signIn: async () => {
      const { record, refreshToken } = await engine.creator.create({
        userId: "alice",
        tenantId: null,
        claims: {},
        data: {},
        device: {},
        transport: "header",
        replaces: null,
      });
      return { id: record.id, token: refreshToken };
    },
    confirm: async (token: string) => {
      clock.advance("60s");
      await exchange(token);
      clock.advance("31s");
    },
  });
}
