import { stringifySetCookie } from "cookie";
import type { CookiePlan } from "./cookie-options.ts";
import { readCookie } from "./tokens.ts";

/** Copies of the cookie that are looked at. Nobody has honestly come by more. */
const maxRead = 4;

/**
 * The two cookies of Device Bound Session Credentials. They go along with `SessionService.Refresh` alone,
 * so the browser holds no other call until it has made a proof.
 *
 * - The proof stands for a proof of possession, for a few minutes.
 * - The mark remembers that the browser was asked for a proof once. It names the session.
 *
 * Chromium refuses the prefix `__Host-Http-` for the credential of a binding, and accepts `__Http-`.
 */
export class ProofCookies {
  readonly name: string;
  /** The attributes of the proof, as the browser must find them when it is set. */
  readonly attributes: string;
  readonly #mark: string;
  readonly #plan: CookiePlan;
  readonly #path: string;

  /** @param path the public path of `SessionService.Refresh` */
  constructor(plan: CookiePlan, path: string) {
    // Another service on the host has other names for its session cookies, and so for these.
    const own = plan.names.refresh.replace(/^__(?:Host-Http|Host|Http|Secure)-/, "");
    const name = /-refresh\b/.test(own) ? own.replace(/-refresh\b/, "-proof") : `${own}-proof`;
    this.name = `${plan.secure ? "__Http-" : ""}${name}`;
    this.#mark = `${this.name}-asked`;
    this.#plan = plan;
    this.#path = path;
    const [, ...attributes] = this.#set(this.name, "", undefined).split("; ");
    this.attributes = attributes.join("; ");
  }

  /** Returns the copies of the proof in a Cookie header. */
  read(cookieHeader: string | null): readonly string[] {
    return readCookie(cookieHeader, this.name, maxRead);
  }

  /** Whether the Cookie header has the mark of a session. */
  isMarked(cookieHeader: string | null, session: string): boolean {
    return readCookie(cookieHeader, this.#mark, maxRead).includes(session);
  }

  /** Returns the Set-Cookie value that sets the proof. @param maxAge seconds */
  set(value: string, maxAge: number): string {
    return this.#set(this.name, value, maxAge);
  }

  /** Returns the Set-Cookie value that marks a session. @param maxAge seconds */
  mark(session: string, maxAge: number): string {
    return this.#set(this.#mark, session, maxAge);
  }

  /** Returns the Set-Cookie values that expire those of the cookies that a Cookie header has. */
  expire(cookieHeader: string | null): readonly string[] {
    return [this.name, this.#mark].flatMap((name) =>
      readCookie(cookieHeader, name, 1).length === 0 ? [] : [this.#set(name, "", 0)],
    );
  }

  #set(name: string, value: string, maxAge: number | undefined): string {
    const { secure, sameSite } = this.#plan;
    const lived = maxAge === undefined ? {} : { maxAge };
    return stringifySetCookie({
      ...{ name, value, path: this.#path, httpOnly: true, secure, sameSite, ...lived },
    });
  }
}
