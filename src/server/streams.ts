import type { Clock } from "../clock.ts";
import type { SessionError } from "../errors.ts";
import type { Session } from "../session/session.ts";
import type { VerifyingCore } from "./core.ts";
import type { StreamPolicy } from "./policy.ts";
import { WatchedStream } from "./watched-stream.ts";

/** The open streams of an instance. */
export interface Streams {
  /**
   * Watches a stream that runs under a session, until `close` is called on it.
   * @param end ends it; called at most once, and at once where the session has ended already
   * @throws SessionError `unavailable`
   */
  watch(
    session: Session,
    policy: Exclude<StreamPolicy, "never">,
    end: (error: SessionError) => void,
  ): Promise<WatchedStream>;
  /** How many are watched. */
  readonly size: number;
}

/** Milliseconds between two looks at every stream, at least and at most. */
const soonest = 25;
const latest = 1_000;

export function createStreams(core: VerifyingCore): Streams {
  const open = new Set<WatchedStream>();
  const rounds = createRounds(core.clock, open);
  return {
    async watch(session, policy, end) {
      const options = {
        engine: await core.engine(),
        policy,
        // Not all of them at once.
        patience: core.maxStreamStaleness * (0.9 + 0.1 * Math.random()),
        monotonic: () => core.clock.monotonic(),
        end,
        closed(stream: WatchedStream) {
          open.delete(stream);
          rounds.left();
        },
      };
      const stream = new WatchedStream(options, session);
      if (stream.open) {
        open.add(stream);
        stream.look();
        rounds.joined(stream);
      }
      return stream;
    },
    get size() {
      return open.size;
    },
  };
}

/**
 * Has all streams look, by one timer for all: at the next end, and every second, because the store's
 * clock may jump and the log may fall silent.
 */
function createRounds(clock: Clock, open: ReadonlySet<WatchedStream>) {
  let nextAt = Number.POSITIVE_INFINITY;
  let cancel = (): void => {};
  const round = (): void => {
    nextAt = Number.POSITIVE_INFINITY;
    let dueIn = latest;
    for (const stream of open) {
      stream.look();
      dueIn = stream.open ? Math.min(dueIn, stream.dueIn) : dueIn;
    }
    after(dueIn);
  };
  const after = (ms: number): void => {
    const wait = Math.min(Math.max(ms, soonest), latest);
    const at = clock.monotonic() + wait;
    if (open.size > 0 && at < nextAt) {
      cancel();
      nextAt = at;
      cancel = clock.after(wait, round);
    }
  };
  return {
    joined: (stream: WatchedStream): void => after(stream.dueIn),
    left(): void {
      if (open.size === 0) {
        cancel();
        nextAt = Number.POSITIVE_INFINITY;
      }
    },
  };
}
