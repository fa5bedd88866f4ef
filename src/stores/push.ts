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
/**
 * Milliseconds between two wake-ups while entries keep arriving: after the first, and at most. Without
 * a maximum above the first, 300 servers would read the log 15,000 times per second.
 */
const [firstWakePause, maxWakePause] = [20, 100];

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
    this.#wake = gathered({ clock, action: wake, pause: firstWakePause, maxPause: maxWakePause });
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
  /** Milliseconds between the first two actions. */
  readonly pause: number;
  /** Milliseconds to which the pause grows while calls keep coming. Default: it does not grow. */
  readonly maxPause?: number;
  /** Whether a pending action keeps the process alive. Default false. */
  readonly keepAlive?: boolean;
}

/**
 * Acts once for many calls. The first call acts immediately. All calls during the pause that follows
 * act together at its end; then comes a pause twice as long. A pause without a call resets its length.
 */
export function gathered(options: GatheredOptions): () => void {
  const { clock, action, pause, maxPause = pause, keepAlive } = options;
  let next = pause;
  let resting = false;
  let calledAgain = false;
  const call = (): void => {
    if (resting) {
      calledAgain = true;
      return;
    }
    resting = true;
    action();
    clock.after(next, wakeUp, keepAlive);
    next = Math.min(2 * next, maxPause);
  };
  const wakeUp = (): void => {
    resting = false;
    if (calledAgain) {
      calledAgain = false;
      call();
    } else {
      next = pause;
    }
  };
  return call;
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
