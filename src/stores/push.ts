import { type Clock, inTime } from "../base/clock.ts";

/** Detects entries that other processes append to the change log. */
export interface Push {
  /** Whether notifications arrive at the moment; undefined if they never can. */
  connected(): boolean | undefined;
  close(): void;
}

/** Options of {@link PushConnection}. */
interface PushOptions {
  readonly clock: Clock;
  readonly open: OpenPushLine;
  /** Called when an entry was appended, and whenever an entry may have been missed. */
  readonly wake: () => void;
}

/** Opens a line; rejects if that fails, with {@link PushImpossible} if every attempt would fail. */
export type OpenPushLine = (events: PushEvents) => Promise<PushLine>;

/** The way to the database cannot carry notifications, so another attempt would be in vain. */
export class PushImpossible extends Error {
  override readonly name = "PushImpossible";
}

/** A connection on which the database sends notifications. */
export interface PushLine {
  /** Resolves when the database has proven that this line receives notifications. */
  ping(): Promise<void>;
  close(): void;
}

/** Events of a line. */
export interface PushEvents {
  /** An entry may have been appended. */
  readonly wake: () => void;
  /** The connection is gone. */
  readonly lost: () => void;
}

/** Milliseconds between two pings. Without pings, a broken connection looks like a quiet one. */
const pingEvery = 5_000;
/** Milliseconds that opening a line, or a ping, may take. */
const patience = 5_000;
/** Milliseconds before a lost line is opened again: after the first failure, and at most. */
const [firstPause, maxPause] = [100, 30_000];
/** Minimum milliseconds between two wake-ups. */
const wakeEvery = 20;
/**
 * So many wake-ups may follow each other at that interval, then one every so many milliseconds. With
 * 300 servers and sign-outs all the time, the log is read 1,500 times per second, not 15,000 times.
 */
const [wakeBurst, wakeOften] = [5, 200];

/** Keeps a line open: opens another one when the line is lost or does not answer. */
export class PushConnection implements Push {
  readonly #options: PushOptions;
  readonly #wake: () => void;
  #line: PushLine | undefined;
  #impossible = false;
  #closed = false;
  #pause = firstPause;
  #cancelNext = (): void => {};

  constructor(options: PushOptions) {
    this.#options = options;
    const { clock, wake } = options;
    const rate = { pause: wakeEvery, burst: wakeBurst, often: wakeOften };
    this.#wake = gathered({ clock, action: wake, ...rate });
    void this.#open();
  }

  connected(): boolean | undefined {
    return this.#impossible ? undefined : this.#line !== undefined;
  }

  close(): void {
    this.#closed = true;
    this.#cancelNext();
    this.#line?.close();
    this.#line = undefined;
  }

  async #open(): Promise<void> {
    let line: PushLine | undefined;
    let gone = false;
    const lost = (): void => {
      gone = true;
      if (line !== undefined && line === this.#line) {
        this.#reopen();
      }
    };
    const opening = this.#options.open({ wake: this.#wake, lost });
    try {
      // 1. Open a line, and prove that it is alive.
      line = await this.#inTime(opening);
      await this.#inTime(line.ping());
      if (gone || this.#closed) {
        throw new Error("the line was lost or closed while it was being opened");
      }
      this.#line = line;
      this.#pause = firstPause;
      // 2. Keep proving it.
      this.#pingLater(line);
      // 3. There were no notifications until now, so an entry may have been missed.
      this.#wake();
    } catch (error) {
      this.#impossible = error instanceof PushImpossible;
      // If the line opens later after all, close it.
      opening.then(
        (late) => late.close(),
        () => {},
      );
      this.#reopen();
    }
  }

  #pingLater(line: PushLine): void {
    this.#cancelNext = this.#options.clock.after(pingEvery, () => {
      this.#inTime(line.ping()).then(
        () => line === this.#line && this.#pingLater(line),
        () => line === this.#line && this.#reopen(),
      );
    });
  }

  /** Opens another line after a pause, with exponential backoff until one is alive. */
  #reopen(): void {
    this.#cancelNext();
    if (this.#line !== undefined) {
      this.#line.close();
      this.#line = undefined;
      // From now on the log is polled more often.
      this.#wake();
    }
    if (!this.#closed && !this.#impossible) {
      // Jitter, so that not all processes connect at once.
      const pause = this.#pause * (0.5 + Math.random());
      this.#pause = Math.min(2 * this.#pause, maxPause);
      this.#cancelNext = this.#options.clock.after(pause, () => void this.#open());
    }
  }

  #inTime<T>(work: Promise<T>): Promise<T> {
    const { clock } = this.#options;
    const late = (): Error => new Error("the database did not answer in time");
    return inTime(work, { clock, ms: patience, late });
  }
}

/** Options of {@link gathered}. */
interface GatheredOptions {
  readonly clock: Clock;
  readonly action: () => void;
  /** Minimum milliseconds between two actions. */
  readonly pause: number;
  /** How many actions may follow each other at that interval. Default 1. */
  readonly burst?: number;
  /** Milliseconds after which another action may follow when those are used up. Default: `pause`. */
  readonly often?: number;
  /** Whether a pending action keeps the process alive. Default false. */
  readonly keepAlive?: boolean;
}

/** Acts once for many calls: now, or as soon as its rate allows. */
export function gathered(options: GatheredOptions): () => void {
  const { clock, action, pause, burst = 1, often = pause, keepAlive } = options;
  let last = Number.NEGATIVE_INFINITY;
  /** When the rate will be used in full; in the past if no action was due for a while. */
  let spentUntil = Number.NEGATIVE_INFINITY;
  let waiting = false;
  const act = (): void => {
    waiting = false;
    last = clock.monotonic();
    spentUntil = Math.max(spentUntil, last) + often;
    action();
  };
  return () => {
    if (waiting) {
      return;
    }
    const now = clock.monotonic();
    const at = Math.max(last + pause, spentUntil - (burst - 1) * often);
    if (at <= now) {
      act();
    } else {
      waiting = true;
      clock.after(at - now, act, keepAlive);
    }
  };
}

/** The listeners behind `SessionStore.onChange`. */
export class ChangeListeners {
  readonly #entries = new Set<{ readonly wake: () => void }>();

  /** @returns a function that removes the listener */
  add(wake: () => void): () => void {
    const entry = { wake };
    this.#entries.add(entry);
    return () => {
      this.#entries.delete(entry);
    };
  }

  /** Calls every listener, and ignores what they throw. */
  readonly call = (): void => {
    for (const { wake } of [...this.#entries]) {
      try {
        wake();
      } catch {
        // The change is committed: a broken listener must not make its writer believe otherwise.
      }
    }
  };
}
