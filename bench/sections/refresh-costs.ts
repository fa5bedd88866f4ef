import { Client } from "pg";
import { Engine } from "../../src/engine/engine.ts";
import { readLifetimes } from "../../src/engine/lifetimes.ts";
import type { SessionStore } from "../../src/engine/store.ts";
import { memoryStore } from "../../src/stores/memory/index.ts";
import { createFakeClock } from "../../src/testing/fake-clock.ts";
import { spreadOf } from "../lib/stats.ts";
import { issuer } from "../lib/tokens.ts";

/** Microseconds of CPU of one piece of work, over all threads of the process. */
export async function cpuOf<T>(
  all: readonly T[],
  work: (one: T) => Promise<unknown>,
): Promise<number> {
  const begun = process.cpuUsage();
  for (const one of all) {
    await work(one);
  }
  const { user, system } = process.cpuUsage(begun);
  return (user + system) / all.length;
}

/**
 * The median times of two pieces of work, one at a time, in milliseconds. They take turns, so that both
 * find the processor's caches and the database in the same state.
 */
export async function p50OfEach<T>(
  all: readonly T[],
  works: readonly [(one: T) => Promise<unknown>, (one: T) => Promise<unknown>],
): Promise<readonly [number, number]> {
  const times: [number[], number[]] = [[], []];
  for (const [index, one] of all.entries()) {
    for (const turn of index % 2 === 0 ? ([0, 1] as const) : ([1, 0] as const)) {
      const begun = performance.now();
      await works[turn](one);
      times[turn].push(performance.now() - begun);
    }
  }
  return [spreadOf(times[0]).median, spreadOf(times[1]).median];
}

/** Counts the statements that this process sends to PostgreSQL from now on, on all connections. */
export function countStatements(): { readonly sent: () => number; readonly stop: () => void } {
  let count = 0;
  const prototype: { query: (...given: unknown[]) => unknown } = Client.prototype;
  const original = prototype.query;
  prototype.query = function (this: Client, ...given) {
    count++;
    return original.apply(this, given);
  };
  return {
    sent: () => count,
    stop: () => {
      prototype.query = original;
    },
  };
}

/** The writes of a session that is used all the time, for each life of an access token. */
export async function writesPerLife(): Promise<string> {
  const clock = createFakeClock();
  const counts = { refresh: 0, confirm: 0 };
  const inner = memoryStore();
  const store: SessionStore = {
    ...inner,
    advance: async (write) => {
      const done = await (inner.advance as NonNullable<SessionStore["advance"]>)(write);
      counts.refresh += done.advanced ? 1 : 0;
      return done;
    },
    refresh: (write) => {
      counts.refresh++;
      return inner.refresh(write);
    },
    confirm: (uses) => {
      counts.confirm += uses.length;
      return inner.confirm(uses);
    },
  };
  const engine = await new Engine({
    ...{ issuer, audience: issuer, store, secret: "the secret of the benchmark, long enough" },
    ...{ lifetimes: readLifetimes({}, {}), clockSkew: 60_000, clock, emit: () => {} },
  }).open();
  const created = await engine.creator.create({
    ...{ userId: "ada", tenantId: null, claims: {}, data: {}, device: {} },
    ...{ transport: "header", replaces: null },
  });
  let [token, access] = [created.refreshToken, created.access];
  const lives = 50;
  for (let life = 0; life < lives; life++) {
    for (let minute = 0; minute < 13; minute++) {
      clock.advance("1m");
      engine.used(access.claims);
    }
    await engine.settled();
    const refreshed = await engine.refresher.refresh({ token, transport: "header" });
    token = refreshed.refreshToken ?? token;
    access = refreshed.access;
  }
  await engine.close();
  const each = (writes: number): string => (writes / lives).toFixed(2);
  return `writes of a session in each life of an access token, with a use every minute: ${each(counts.refresh)} by the refresh, which also writes when the session was last seen, and ${each(counts.confirm)} by the confirmation. A refresh cannot confirm the generation that it has just sent, so two is the least.`;
}
