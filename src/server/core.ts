import type { SessionEventListener } from "../events.ts";
import type { Engine } from "../session/engine.ts";
import type { SessionCookies } from "../tokens/cookie.ts";

/** What authentication needs of an engine: all that a service that only verifies has. */
export type Authenticator = Pick<
  Engine,
  | "verify"
  | "revocations"
  | "feed"
  | "storeNow"
  | "load"
  | "loadUnsure"
  | "reissue"
  | "reissueFrom"
  | "used"
  | "revoke"
> & {
  readonly antiCsrf: Pick<Engine["antiCsrf"], "verify">;
};

/** What the parts that read sessions share: the options, checked and resolved, and the engine. */
export interface VerifyingCore {
  readonly issuer: string;
  readonly cookies: SessionCookies;
  /** Exact origins whose pages may use cookies. */
  readonly origins: ReadonlySet<string>;
  readonly crossSite: "checked" | "unchecked";
  readonly antiCsrf: "off" | "token";
  readonly emit: SessionEventListener;
  /**
   * The engine, opened on first use; without a promise once it is open.
   * @throws SessionError `unavailable` when it cannot be opened now; the next call tries again
   */
  engine(): Authenticator | Promise<Authenticator>;
}

/** What every part of the server side shares, those that begin, refresh and end sessions included. */
export interface Core extends VerifyingCore {
  readonly browserHeaderTransport: boolean;
  engine(): Engine | Promise<Engine>;
}
