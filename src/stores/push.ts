import type { Clock } from "../base/clock.ts";
import { inTime } from "../base/promises.ts";

/** A connection on which the store tells of what others append. */
export interface PushLine {
  /** Sends something that the store must tell back on this line; resolves when it has. */
  beat(): Promise<void>;
  close(): void;
}

/** What a line reports. */
export interface PushEvents {
  /** Something may have been appended. */
  readonly wake: () => void;
  /** The connection is gone. */
  readonly lost: () => void;
}

/** Opens a line. */
export type OpenPushLine = (events: PushEvents) => Promise<PushLine>;

/** Hears of what other processes append. */
export interface Push {
  /** Whether it does at this moment. */
  connected(): boolean;
  close(): void;
}

/** What a {@link keepPush} is made of. */
export interface PushOptions {
  readonly clock: Clock;
  readonly open: OpenPushLine;
  /** Called for what was appended, and whenever something may have been missed. */
  readonly wake: () => void;
}

/** Milliseconds between two proofs that a line is alive: one that is cut silently looks like a quiet one. */
const beatEvery = 5_000;
/** Milliseconds that opening a line, and a proof, may take. */
const patience = 5_000;
/** Milliseconds after which a lost line is opened again: at first, and after many failures. */
const [soon, late] = [100, 30_000];
/** Milliseconds between two wake-ups at least. */
const wakeEvery = 20;

/** Keeps a line open for as long as it can: opens another one when it is lost, or falls silent. */
export function keepPush(options: PushOptions): Push {
  return new KeptPush(options);
}

class KeptPush implements Push {
  readonly #options: PushOptions;
  readonly #wake: () => void;
  #line: PushLine | undefined;
  #closed = false;
  #pause = soon;
  #cancelNext = (): void => {};

  constructor(options: PushOptions) {
    this.#options = options;
    this.#wake = spaced(options);
    void this.#open();
  }

  connected(): boolean {
    return this.#line !== undefined;
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
        this.#again();
      }
    };
    const opening = this.#options.open({ wake: this.#wake, lost });
    try {
      line = await this.#inTime(opening);
      await this.#inTime(line.beat());
      if (gone || this.#closed) {
        throw new Error("lost or closed meanwhile");
      }
      this.#line = line;
      this.#pause = soon;
      this.#beatLater(line);
      // What was appended before is told to nobody.
      this.#wake();
    } catch {
      // Also where it opens after all.
      opening.then(
        (late) => late.close(),
        () => {},
      );
      this.#again();
    }
  }

  #beatLater(line: PushLine): void {
    this.#cancelNext = this.#options.clock.after(beatEvery, () => {
      this.#inTime(line.beat()).then(
        () => line === this.#line && this.#beatLater(line),
        () => line === this.#line && this.#again(),
      );
    });
  }

  /** Opens another line after a pause, which grows until one is alive. */
  #again(): void {
    this.#cancelNext();
    this.#line?.close();
    this.#line = undefined;
    if (!this.#closed) {
      // Not all processes at once.
      const pause = this.#pause * (0.5 + Math.random());
      this.#pause = Math.min(2 * this.#pause, late);
      this.#cancelNext = this.#options.clock.after(pause, () => void this.#open());
    }
  }

  #inTime<T>(work: Promise<T>): Promise<T> {
    const { clock } = this.#options;
    return inTime(work, { clock, ms: patience, late: () => new Error("no answer in time") });
  }
}

/** The first wake-up at once; of those that follow soon, one for all. */
function spaced({ clock, wake }: PushOptions): () => void {
  let resting = false;
  let again = false;
  const call = (): void => {
    if (resting) {
      again = true;
      return;
    }
    resting = true;
    wake();
    clock.after(wakeEvery, () => {
      resting = false;
      if (again) {
        again = false;
        call();
      }
    });
  };
  return call;
}
