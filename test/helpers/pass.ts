import type { FakeClock } from "../../src/testing/fake-clock.ts";

/** Moves on in steps, and lets what falls due end. @param step milliseconds, as `ms` */
export async function pass(clock: FakeClock, ms: number, step = 1_000): Promise<void> {
  for (let passed = 0; passed < ms; passed += step) {
    clock.advance(`${step}ms`);
    await settled();
  }
}

/** Waits for work that needs neither timers nor I/O. */
export function settled(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
