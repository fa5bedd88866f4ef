// One face over three browser engines: Chromium, Firefox and WebKit.
import { findChromium } from "./engines/chromium.ts";
import { findFirefox } from "./engines/firefox.ts";
import { findWebKit } from "./engines/webkit.ts";

/** A function that runs in a page. It is sent as text, so it can use its arguments and globals only. */
export type InPage<A extends unknown[], R> = (...args: A) => R | Promise<R>;

/** A tab of a browser. */
export interface Tab {
  /** Runs `work` in the page. The arguments and the result pass as JSON. */
  evaluate<A extends unknown[], R>(work: InPage<A, R>, ...args: A): Promise<R>;
  /** Loads `url` and waits for its `load` event. */
  goto(url: string): Promise<void>;
  reload(): Promise<void>;
  back(): Promise<void>;
  close(): Promise<void>;
}

export interface BrowserCookie {
  readonly name: string;
  readonly value: string;
  readonly domain: string;
  readonly path: string;
  readonly httpOnly: boolean;
  readonly secure: boolean;
  /** Such as "Lax". */
  readonly sameSite: string | undefined;
}

/** A browser without history: no cookie, no storage. */
export interface Visitor {
  /** Opens an empty tab. */
  newTab(): Promise<Tab>;
  /** Makes a page open `url` in a window with the name "popup". */
  popup(opener: Tab, url: string): Promise<Tab>;
  /** The cookies of the host of `url`, HttpOnly ones included. */
  cookies(url: string): Promise<BrowserCookie[]>;
  close(): Promise<void>;
}

/** Settings that a user may have changed. */
export interface VisitorSettings {
  /** Which cookies the browser keeps: `all` includes those of other sites. Default: the engine's own. */
  readonly cookies?: "all" | "none";
}

/** A running browser engine. */
export interface RunningEngine {
  visitor(settings?: VisitorSettings): Promise<Visitor>;
  close(): Promise<void>;
}

/** What differs between the engines and does not concern sessions. */
export interface Traits {
  /** Whether `Secure` cookies of http://localhost are kept. */
  readonly secureOnLocalhost: boolean;
  /** Whether the prefix `__Host-` keeps a sibling host from setting a cookie (RFC 6265bis). */
  readonly prefixes: boolean;
  /** Whether cookies with `Partitioned` are kept in a jar for each embedding site. */
  readonly partitioned: boolean;
  /** Whether {@link VisitorSettings} can be set. */
  readonly settings: boolean;
  /** Whether {@link Visitor.popup} works. */
  readonly popups: boolean;
}

export interface Engine {
  readonly name: "Chromium" | "Firefox" | "WebKit";
  readonly traits: Traits;
  /** Absent if the engine is not installed. */
  readonly launch?: () => Promise<RunningEngine>;
  /** How to install it; empty if it is installed. */
  readonly missing: string;
}

/** Hosts that resolve to this machine in every engine, besides `localhost`. */
export const hosts: readonly string[] = [
  ...["evil.test", "partner.test", "plain.test"],
  ...["app.example.com", "api.example.com", "evil.example.com"],
];

export const engines: readonly Engine[] = [
  await findChromium(hosts),
  findFirefox(hosts),
  findWebKit(),
];

for (const { name, missing } of engines) {
  if (missing !== "") {
    console.warn(`The tests in ${name} are skipped, because it is missing: ${missing}.`);
  }
}

/** Waits until `condition` holds in the page. */
export async function waitFor<A extends unknown[]>(
  tab: Tab,
  condition: InPage<A, boolean>,
  ...args: A
): Promise<void> {
  await until(
    () => tab.evaluate(condition, ...args).catch(() => false),
    `in the page: ${String(condition)}`,
  );
}

/**
 * Asks again until `question` answers true. Gives up after 30 s, which is generous. A question without an
 * answer for 5 s is asked again: a browser may forget one that arrives while it replaces the page.
 */
export async function until(
  question: () => boolean | Promise<boolean>,
  what: string,
): Promise<void> {
  const end = performance.now() + 30_000;
  const ask = async (): Promise<boolean> => {
    const { promise: noAnswer, resolve } = Promise.withResolvers<boolean>();
    const limit = setTimeout(() => resolve(false), 5_000);
    return Promise.race([question(), noAnswer]).finally(() => clearTimeout(limit));
  };
  while (!(await ask())) {
    if (performance.now() > end) {
      throw new Error(`This did not become true within 30 s: ${what}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
}
