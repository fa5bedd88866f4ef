import { base64Decode } from "@bufbuild/protobuf/wire";
import { parseSetCookie } from "cookie";
import type { CookieNames } from "../request/cookie-options.ts";

/** A cookie to set, in the form that the cookie functions of frameworks take. */
export interface CookieToSet {
  readonly name: string;
  /** Empty for a cookie to remove. */
  readonly value: string;
  readonly options: {
    readonly path: string;
    readonly domain?: string;
    /** Seconds; 0 for a cookie to remove. */
    readonly maxAge?: number;
    readonly httpOnly: boolean;
    readonly secure: boolean;
    readonly sameSite?: "lax" | "strict" | "none";
    readonly partitioned?: boolean;
  };
}

type Kind = keyof CookieNames;

/**
 * The default names, with the prefixes that browsers know and the port that localhost adds. A service
 * reads several prefixes while its cookies move from one to another.
 */
const defaultNames = /^(?:__Host-(?:Http-)?|__Secure-)?(rpcsession-(access|refresh)(?:-\d+)?)$/;

/** The share of an access token's life after which it is due for a refresh, as in the client. */
const dueAfter = 0.8;

/**
 * The session cookies of one visitor, while a server acts for this visitor.
 *
 * The refresh cookie is always the one that the browser has sent. One that a response brings goes to the
 * browser alone, because only a request of the browser can show that it has arrived.
 */
export class VisitorCookies {
  readonly #names: CookieNames | undefined;
  /** What the browser would send now, other cookies included, except that refresh cookies never change. */
  #held: (readonly [name: string, value: string])[] = [];
  /** The lines to hand back, by the place where a browser keeps the cookie. */
  readonly #lines = new Map<string, string>();

  /** @param names the option `cookies.names` of the service; undefined for the default */
  constructor(cookieHeader: string | null, names: CookieNames | undefined) {
    this.#names = names;
    for (const pair of cookieHeader?.split(";") ?? []) {
      const [name = "", ...value] = pair.trim().split("=");
      this.#held.push([name, value.join("=")]);
    }
  }

  /** Whether there is no session cookie. */
  get isEmpty(): boolean {
    return this.#held.every(([name]) => this.#kindOf(name) === undefined);
  }

  /** The `Cookie` header with all cookies of the browser. */
  get all(): string {
    return joined(this.#held);
  }

  /** The `Set-Cookie` lines for the browser, in order. */
  get lines(): readonly string[] {
    return [...this.#lines.values()];
  }

  /** The `Cookie` header with the session cookies of these kinds alone. */
  of(...kinds: readonly Kind[]): string {
    return joined(this.#held.filter(([name]) => kinds.some((kind) => kind === this.#kindOf(name))));
  }

  /** Reads the `Set-Cookie` lines of a response. Cookies other than those of the session are left out. */
  receive(headers: Headers): void {
    const set = headers
      .getSetCookie()
      .map((line) => ({ line, ...parsed(line) }))
      .filter(({ name }) => this.#kindOf(name) !== undefined);
    for (const { line, name, value, options } of set) {
      // 1. A line replaces an earlier one for the same place, and comes last.
      const place = [name, options.domain, options.path, options.partitioned].join(" ");
      this.#lines.delete(place);
      this.#lines.set(place, line);
      // 2. Removed: it is gone, unless the same response also sets it, after removing its copies or
      // under another prefix.
      const stem = this.#stemOf(name);
      const isSet = set.some((other) => this.#stemOf(other.name) === stem && other.value !== "");
      if (value === "" && !isSet) {
        this.#held = this.#held.filter(([held]) => held !== name);
      }
      // 3. A new access cookie takes the place of all copies, also of those under another prefix.
      if (value !== "" && this.#kindOf(name) === "access") {
        this.#held = [...this.#held.filter(([held]) => this.#stemOf(held) !== stem), [name, value]];
      }
    }
  }

  /**
   * The cookies to set, one of each name, because the cookie functions of frameworks keep no more. Of
   * several lines the last one counts, but one that removes a partitioned copy only if it is alone.
   */
  toSet(): readonly CookieToSet[] {
    const chosen = new Map<string, CookieToSet>();
    for (const cookie of this.lines.map(parsed)) {
      const removesPartitioned = cookie.value === "" && cookie.options.partitioned === true;
      if (!(removesPartitioned && chosen.has(cookie.name))) {
        chosen.set(cookie.name, cookie);
      }
    }
    return [...chosen.values()];
  }

  /**
   * Whether the access token is due for a refresh: it is missing or unreadable, or most of its life is
   * over. Nothing is verified: whoever changes a cookie can only cause a refresh or prevent one.
   * @param now milliseconds since 1970
   */
  isDue(now: number): boolean {
    const access = this.#held.filter(([name]) => this.#kindOf(name) === "access");
    return access.every(([, token]) => {
      const { iat, exp } = timesOf(token);
      return !(now / 1000 < iat + (exp - iat) * dueAfter);
    });
  }

  /** The name of a cookie without its prefix, if that is one of the default names. */
  #stemOf(name: string): string {
    return this.#names === undefined ? (defaultNames.exec(name)?.[1] ?? name) : name;
  }

  #kindOf(name: string): Kind | undefined {
    if (this.#names === undefined) {
      return defaultNames.exec(name)?.[2] as Kind | undefined;
    }
    const { access, refresh } = this.#names;
    return name === access ? "access" : name === refresh ? "refresh" : undefined;
  }
}

function joined(pairs: readonly (readonly [name: string, value: string])[]): string {
  return pairs.map(([name, value]) => `${name}=${value}`).join("; ");
}

function parsed(line: string): CookieToSet {
  const { name, value = "", ...given } = parseSetCookie(line, { decode: (text) => text });
  const { domain, maxAge, sameSite, partitioned } = given;
  return {
    ...{ name, value },
    options: {
      path: given.path ?? "/",
      httpOnly: given.httpOnly === true,
      secure: given.secure === true,
      ...(domain !== undefined && { domain }),
      ...(maxAge !== undefined && { maxAge }),
      ...(typeof sameSite === "string" && { sameSite }),
      ...(partitioned === true && { partitioned }),
    },
  };
}

/** Reads `iat` and `exp` of an access token (RFC 7519), in seconds; NaN if it has none. */
function timesOf(token: string): { readonly iat: number; readonly exp: number } {
  try {
    const payload = new TextDecoder().decode(base64Decode(token.split(".")[1] ?? ""));
    const { iat, exp } = JSON.parse(payload) as { readonly iat?: unknown; readonly exp?: unknown };
    return { iat: Number(iat), exp: Number(exp) };
  } catch {
    return { iat: Number.NaN, exp: Number.NaN };
  }
}
