import type { SecretOption } from "../../src/base/crypto.ts";
import type { LifetimeOptions, RefreshOptions } from "../../src/engine/lifetimes.ts";
import type { SessionStore } from "../../src/engine/store.ts";
import type { FakeClock } from "../../src/testing/fake-clock.ts";
import { startEngine, type TestEngine } from "../helpers/engine.ts";

/** A store for several servers, on a clock that moves only on request. */
export interface SharedStore {
  /** The store for a further server, with connections of its own. Its engine opens and closes it. */
  newStore(): Promise<SessionStore>;
  /** The time of the store's clock. */
  now(): number;
  /** Advances the store's clock by milliseconds. */
  pass(ms: number): Promise<void>;
  /** Called after all engines are closed. */
  close(): Promise<void>;
}

export type Method = Exclude<keyof SessionStore, "name" | "onChange">;

/** Intercepts calls from an engine to its store; `run` performs the call. */
export type Hook = (method: Method, run: () => Promise<unknown>) => Promise<unknown>;

export interface Server extends TestEngine {
  /** The store methods that were called so far. */
  readonly calls: Method[];
  hook: Hook;
}

export interface ServersOptions {
  readonly secret?: SecretOption;
  readonly lifetimes?: LifetimeOptions;
  readonly refresh?: RefreshOptions;
  /** By how many milliseconds each server's wall clock is wrong; one server per number. */
  readonly wrong?: readonly number[];
}

export interface Servers extends AsyncDisposable {
  readonly all: Server[];
  readonly shared: SharedStore;
  /** The server with this index, modulo the number of servers. */
  at(index: number): Server;
  /** Starts another server. */
  add(options?: ServersOptions & { readonly clockError?: number }): Promise<Server>;
  /** Advances time on all servers, and waits for the reads and writes that become due. */
  pass(ms: number): Promise<void>;
  thefts(): Server["events"];
}

export const secret = "a secret of at least 32 bytes, for tests";
export const directly: Hook = (_method, run) => run();

/** Starts servers that share a store and a secret; four by default. */
export async function startServers(
  creating: Promise<SharedStore>,
  options: ServersOptions = {},
): Promise<Servers> {
  const shared = await creating;
  const time = createTime(shared);
  const all: Server[] = [];
  const servers: Servers = {
    all,
    shared,
    at: (index) => all[index % all.length] as Server,
    async add(more = options) {
      const clock = time.clockOf(all.length, more.clockError ?? 0);
      const server = await startServer(await shared.newStore(), {
        ...{ secret, ...options, ...more },
        clock,
        track: (work) => time.track(work),
      });
      all.push(server);
      return server;
    },
    pass: (ms) => time.pass(ms),
    thefts: () => all.flatMap(({ events }) => events.filter(({ type }) => type === "theft")),
    async [Symbol.asyncDispose]() {
      await time.idle();
      await Promise.all(all.map((server) => server.close()));
      await shared.close();
    },
  };
  for (const clockError of options.wrong ?? [0, 0, 0, 0]) {
    await servers.add({ ...options, clockError });
  }
  return servers;
}

type Track = <T>(work: Promise<T>) => Promise<T>;

async function startServer(
  store: SessionStore,
  { track, ...options }: ServersOptions & { readonly clock: FakeClock; readonly track: Track },
): Promise<Server> {
  const calls: Method[] = [];
  let server: Server | undefined;
  const hooked = new Proxy(store, {
    get(target, name) {
      const member: unknown = Reflect.get(target, name);
      if (name === "onChange" || typeof member !== "function") {
        return member;
      }
      return (...args: unknown[]) => {
        const method = name as Method;
        calls.push(method);
        const run = async (): Promise<unknown> => Reflect.apply(member, target, args);
        return track((server?.hook ?? directly)(method, run));
      };
    },
  });
  const started = await startEngine({ ...options, store: hooked });
  server = Object.assign(started, { calls, hook: directly });
  return server;
}

/** The time of all servers. Timers that become due while it advances fire at its end, as after a sleep. */
function createTime(shared: SharedStore) {
  const begin = shared.now();
  const timers = new Set<{ readonly at: number; readonly action: () => void }>();
  const underWay = new Set<Promise<unknown>>();
  const idle = async (): Promise<void> => {
    do {
      await Promise.allSettled(underWay);
      await new Promise((resolve) => setImmediate(resolve));
    } while (underWay.size > 0);
  };
  return {
    idle,
    track<T>(work: Promise<T>): Promise<T> {
      const settled = work.finally(() => underWay.delete(settled));
      underWay.add(settled);
      return settled;
    },
    async pass(ms: number): Promise<void> {
      await shared.pass(ms);
      for (const timer of [...timers].filter(({ at }) => at <= shared.now())) {
        timers.delete(timer);
        timer.action();
      }
      await idle();
    },
    /** A clock with a wrong wall time, whose monotonic time started at a different moment. */
    clockOf(index: number, wrong: number): FakeClock {
      return {
        now: () => shared.now() + wrong,
        monotonic: () => shared.now() - begin + index * 7_777_777,
        after(ms, action) {
          const timer = { at: shared.now() + ms, action };
          timers.add(timer);
          return () => timers.delete(timer);
        },
        advance: () => notHere(),
        setNow: () => notHere(),
      };
    },
  };
}

function notHere(): never {
  throw new Error("the clocks of all servers move together: use pass()");
}
