import type { ResolvedOptions } from "../options.ts";

/**
 * The lifetime of an access token, measured with the client's own clock from when the token arrived.
 * All values are milliseconds.
 */
export class Lifetime {
  readonly #options: Pick<ResolvedOptions, "clock" | "earlyRefresh">;
  /** When the lifetime began by both clocks, and how long it is; undefined if not known. */
  #token:
    | { readonly monotonic: number; readonly wall: number; readonly length: number }
    | undefined;
  #isRefused = false;

  constructor(options: Pick<ResolvedOptions, "clock" | "earlyRefresh">) {
    this.#options = options;
  }

  /**
   * Starts the lifetime of a new token.
   *
   * @param age how old the token is already
   */
  start(length: number, age: number): void {
    const { clock } = this.#options;
    this.#token = { monotonic: clock.monotonic() - age, wall: clock.now() - age, length };
    this.#isRefused = false;
  }

  /** Nothing is known of a token from now on. */
  end(): void {
    this.#token = undefined;
    this.#isRefused = false;
  }

  /** Records that the server has refused the token, and that a refresh is to replace it. */
  refuse(): void {
    this.#isRefused = true;
  }

  /** The time until an early refresh is due, negative if it is overdue; undefined if not known. */
  get dueIn(): number | undefined {
    return this.#token && this.#token.length * this.#options.earlyRefresh - this.#age;
  }

  /** The rest of the lifetime; 0 if not known. */
  get rest(): number {
    return Math.max(0, (this.#token?.length ?? 0) - this.#age);
  }

  /**
   * Where the token is in its lifetime: `due` means due for an early refresh, by its age or because
   * the server has refused it. A token whose lifetime is not known counts as fresh until then.
   */
  get phase(): "fresh" | "due" | "expired" {
    const dueIn = this.dueIn ?? 1;
    if (dueIn <= 0 && this.rest === 0) {
      return "expired";
    }
    return dueIn <= 0 || this.#isRefused ? "due" : "fresh";
  }

  /**
   * How old the token is. Some monotonic clocks stand still while the machine sleeps, and the wall
   * clock may be set back, so the later of the two counts.
   */
  get #age(): number {
    const { clock } = this.#options;
    const { monotonic, wall } = this.#token ?? { monotonic: 0, wall: 0 };
    return Math.max(clock.monotonic() - monotonic, clock.now() - wall);
  }
}
