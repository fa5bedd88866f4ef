/** The listeners behind `SessionStore.onChange`. */
export interface Wakes {
  /** @returns a function that ends it */
  add(wake: () => void): () => void;
  /** Calls every listener; what they throw is ignored. */
  call(): void;
}

/** A set of listeners without any. */
export function createWakes(): Wakes {
  const entries = new Set<{ readonly wake: () => void }>();
  return {
    add(wake) {
      const entry = { wake };
      entries.add(entry);
      return () => {
        entries.delete(entry);
      };
    },
    call() {
      for (const { wake } of [...entries]) {
        try {
          wake();
        } catch {
          // The change is committed: a broken listener must not make its writer believe otherwise.
        }
      }
    },
  };
}
