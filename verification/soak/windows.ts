/** A span of time with an injected fault. */
export interface Window {
  readonly name: string;
  readonly from: number;
  /** Infinity while the fault lasts. */
  to: number;
}

/** The spans of time with injected faults. */
export interface Windows {
  /** Opens a window and returns a function that closes it. */
  open(name: string): () => void;
  /** Returns a window that overlaps a span of time. */
  during(from: number, to: number): Window | undefined;
  readonly all: readonly Window[];
}

/** @param grace milliseconds for which a fault may have effects after it has ended */
export function createWindows(now: () => number, grace: number): Windows {
  const all: Window[] = [];
  return {
    open(name) {
      const window: Window = { name, from: now(), to: Number.POSITIVE_INFINITY };
      all.push(window);
      return () => {
        window.to = now();
      };
    },
    during: (from, to) => all.find((window) => window.from <= to && from <= window.to + grace),
    all,
  };
}

export function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
