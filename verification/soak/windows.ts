/** A time in which something was broken on purpose. */
export interface Window {
  readonly name: string;
  readonly from: number;
  /** Infinity while it lasts. */
  to: number;
}

/** The times in which something was broken. */
export interface Windows {
  /** Returns a function that ends the window. */
  open(name: string): () => void;
  /** The window that overlaps a span of time. */
  during(from: number, to: number): Window | undefined;
  readonly all: readonly Window[];
}

/** @param grace milliseconds after its end in which a window may still be felt */
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
