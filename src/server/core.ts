import type { Clock } from "../clock.ts";
import type { SessionEventListener } from "../events.ts";
import type { Engine } from "../session/engine.ts";
import type { SessionCookies } from "../tokens/cookie.ts";

/** What every part of the server side shares: the options, checked and resolved, and the engine. */
export interface Core {
  readonly issuer: string;
  readonly cookies: SessionCookies;
  /** Exact origins whose pages may use cookies. */
  readonly origins: ReadonlySet<string>;
  readonly crossSite: "checked" | "unchecked";
  readonly antiCsrf: "off" | "token";
  readonly browserHeaderTransport: boolean;
  readonly clock: Clock;
  readonly emit: SessionEventListener;
  /**
   * The engine, opened on first use.
   * @throws SessionError `unavailable` when it cannot be opened now; the next call tries again
   */
  engine(): Promise<Engine>;
}
