import type { SessionError } from "../../base/errors.ts";
import type { VerifiedSession } from "../../engine/session.ts";
import type { VerifyingCore } from "../core.ts";
import { createLogWatch, type LogWatch, type StreamEnds, WatchedStream } from "./watched.ts";

/** Milliseconds between two looks at every stream, at least and at most. */
const soonest = 25;
const latest = 1_000;

/**
 * The open streams of an instance. One timer serves all: it goes off at the next end, and every
 * second, because the store's clock may jump and its log may fall silent.
 */
export class OpenStreams {
  readonly #core: VerifyingCore;
  readonly #open = new Set<WatchedStream>();
  #freshness: LogWatch | undefined;
  #roundAt = Number.POSITIVE_INFINITY;
  #cancelRound: () => void = () => {};

  constructor(core: VerifyingCore) {
    this.#core = core;
  }

  /**
   * Watches a stream that runs under a session, until it is closed.
   * @param end ends it; called once at most, and at once where the session has ended already
   * @throws SessionError `unavailable`
   */
  async watch(
    session: VerifiedSession,
    ends: StreamEnds,
    end: (error: SessionError) => void,
  ): Promise<WatchedStream> {
    const { clock, maxStreamStaleness } = this.#core;
    const engine = await this.#core.engine();
    this.#freshness ??= createLogWatch(engine.revocations, clock, maxStreamStaleness);
    const options = {
      ...{ engine, end, ...ends, freshness: this.#freshness },
      // Not all of them at once.
      patience: maxStreamStaleness * (0.9 + 0.1 * Math.random()),
      monotonic: () => clock.monotonic(),
      closed: (stream: WatchedStream) => this.#left(stream),
    };
    const stream = new WatchedStream(options, session);
    if (stream.isOpen) {
      this.#open.add(stream);
      stream.look();
      this.#roundAfter(stream.dueIn);
    }
    return stream;
  }

  #left(stream: WatchedStream): void {
    this.#open.delete(stream);
    if (this.#open.size === 0) {
      this.#cancelRound();
      this.#roundAt = Number.POSITIVE_INFINITY;
    }
  }

  #round(): void {
    this.#roundAt = Number.POSITIVE_INFINITY;
    this.#freshness?.look();
    let dueIn = latest;
    for (const stream of this.#open) {
      stream.look();
      dueIn = stream.isOpen ? Math.min(dueIn, stream.dueIn) : dueIn;
    }
    this.#roundAfter(dueIn);
  }

  #roundAfter(ms: number): void {
    const { clock } = this.#core;
    const wait = Math.min(Math.max(ms, soonest), latest);
    const at = clock.monotonic() + wait;
    if (this.#open.size > 0 && at < this.#roundAt) {
      this.#cancelRound();
      this.#roundAt = at;
      this.#cancelRound = clock.after(wait, () => this.#round());
    }
  }
}
