import { parseCookie, parseSetCookie, stringifyCookie } from "cookie";

/** The cookies of one client of one service: as much of RFC 6265 as that takes. */
export class Jar {
  readonly #now: () => number;
  readonly #cookies = new Map<string, { readonly value: string; readonly ends: number }>();

  /**
   * @param now milliseconds, by the clock of the client
   * @param header a `Cookie` header to start with
   */
  constructor(now: () => number, header = "") {
    this.#now = now;
    for (const [name, value = ""] of Object.entries(parseCookie(header))) {
      this.#cookies.set(name, { value, ends: Number.POSITIVE_INFINITY });
    }
  }

  /** The `Cookie` header of the next request; an empty string without cookies. */
  get header(): string {
    const held = [...this.#cookies].filter(([, { ends }]) => ends > this.#now());
    return stringifyCookie(Object.fromEntries(held.map(([name, { value }]) => [name, value])));
  }

  /** Keeps the cookies of a response. A cookie that has expired already deletes its predecessor. */
  keep(response: Headers): void {
    for (const line of response.getSetCookie()) {
      const { name, value = "", maxAge = Number.POSITIVE_INFINITY } = parseSetCookie(line);
      this.#cookies.set(name, { value, ends: this.#now() + maxAge * 1000 });
    }
  }
}
