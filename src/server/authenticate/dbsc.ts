import { SessionService } from "../../../gen/rpcsession/v1/service_pb.ts";
import { SessionError } from "../../base/errors.ts";
import { dbscHeader } from "../../base/wire.ts";
import {
  type ChallengePurpose,
  challengeLife,
  type DbscValues,
  type Place,
} from "../../engine/refresh/dbsc.ts";
import { parseRefreshToken } from "../../engine/refresh/format.ts";
import { proofLaterError } from "../../engine/refresh/refresh.ts";
import type { PresentedRefreshToken } from "../../engine/refresh/token.ts";
import type { SessionRecord } from "../../engine/store.ts";
import { type CookiePlan, isCookiePath } from "../../request/cookie-options.ts";
import { isFromBrowser } from "../../request/origins.ts";
import { ProofCookies } from "../../request/proof-cookie.ts";
import type { Call } from "../call/call.ts";
import { UsedOnce } from "./used-once.ts";

/** The parts of the engine that make and read the proofs of browsers. */
export interface DbscEngine {
  readonly dbsc: DbscValues;
  readonly revocations: { storeNow(): number };
}

interface DbscBindingOptions {
  /** The public base URL of the service, under which browsers call it. Never from `Host`. */
  readonly base: URL;
  readonly cookies: CookiePlan;
  /** The origins of the pages that may use cookies. */
  readonly origins: ReadonlySet<string>;
}

/** Seconds for which a browser remembers that it was asked for a proof. */
const markLife = 86_400;

/** The lineage of a session: its bindings survive `reauthenticate`. */
export function lineageOf({ id, lineage }: Pick<SessionRecord, "id" | "lineage">): string {
  return lineage ?? id;
}

/**
 * Device Bound Session Credentials (DBSC, W3C): sessions in cookies that are bound to a key of the browser.
 *
 * The browser holds each call of `SessionService.Refresh` until it has a proof cookie, and no other call.
 */
export class DbscBinding {
  readonly cookies: ProofCookies;
  readonly #options: DbscBindingOptions;
  readonly #challenges = new UsedOnce();
  /** The public path of the endpoints; undefined while nobody serves them. */
  #path: string | undefined;

  constructor(options: DbscBindingOptions) {
    this.#options = options;
    this.cookies = new ProofCookies(options.cookies, this.#refreshPath);
  }

  /** Whether sign-ins offer a binding. Browsers bind only sessions of https services. */
  get isOffered(): boolean {
    return this.#path !== undefined && this.#options.base.protocol === "https:";
  }

  get origin(): string {
    return this.#options.base.origin;
  }

  /**
   * Offers a binding at each sign-in from now on.
   * @param path the path under which the endpoints are served
   * @returns the paths under which requests for them may arrive
   * @throws TypeError if browsers would not keep to it
   */
  serve(path: string): readonly string[] {
    const { base, cookies } = this.#options;
    if (typeof path !== "string" || !/^(\/[\w.~-]+)+$/.test(path)) {
      throw new TypeError(
        `dbscHandler: path must be segments of letters, digits, ".", "_", "~" and "-" such as "/dbsc", got ${JSON.stringify(path)}`,
      );
    }
    if (cookies.partitioned) {
      throw new TypeError(
        "dbscHandler: browsers refuse to bind sessions with partitioned cookies; remove cookies.partitioned, or do not use dbscHandler",
      );
    }
    const visible = `${this.#prefix}${path}`;
    const above = cookies.path.replace(/\/$/, "");
    if (!visible.startsWith(`${above}/`) || !isCookiePath(visible)) {
      throw new TypeError(
        `dbscHandler: browsers send the session cookies only below cookies.path, which is ${cookies.path}, and so not to ${visible}; choose a path below it`,
      );
    }
    if (this.#path !== undefined && this.#path !== visible) {
      throw new TypeError(
        `dbscHandler: these sessions are served under ${this.#path} already; use one path, because browsers keep it`,
      );
    }
    this.#path = visible;
    return base.pathname === "/" ? [path] : [path, visible];
  }

  /** Asks the browser of a sign-in to register a key for its session. */
  async offer(
    engine: DbscEngine,
    { requestHeader, responseHeader }: Pick<Call, "requestHeader" | "responseHeader">,
    record: SessionRecord,
  ): Promise<void> {
    // Tokens of format 1 cannot carry the key.
    if (!this.isOffered || record.rootHash === null || !isFromBrowser(requestHeader)) {
      return;
    }
    const challenge = await this.challenge(engine, "register", lineageOf(record));
    responseHeader.set(
      dbscHeader.registration,
      `(ES256 RS256);path="${this.#path}/register";challenge="${challenge}"`,
    );
  }

  challenge(engine: DbscEngine, purpose: ChallengePurpose, lineage: string): Promise<string> {
    return engine.dbsc.challenge(purpose, this.#place(lineage), engine.revocations.storeNow());
  }

  /** Whether a challenge is a recent one of the service, and was not used on this server before. */
  async takeChallenge(
    engine: DbscEngine,
    purpose: ChallengePurpose,
    { lineage, jti }: { readonly lineage: string; readonly jti: string },
  ): Promise<boolean> {
    const now = engine.revocations.storeNow();
    return (
      (await engine.dbsc.isChallenge(jti, purpose, this.#place(lineage), now)) &&
      this.#challenges.isFirst(jti, now, challengeLife.register)
    );
  }

  /** The session instructions: what the browser must know of a binding. */
  instructions(identifier: string): string {
    const { origins } = this.#options;
    const pages = [...origins].filter((page) => page !== this.origin && /^https?:/.test(page));
    return JSON.stringify({
      session_identifier: identifier,
      refresh_url: `${this.#path}/refresh`,
      scope: {
        origin: this.origin,
        include_site: false,
        // The last rule that matches counts.
        scope_specification: [
          { type: "exclude", domain: "*", path: "/" },
          { type: "include", domain: "*", path: this.#refreshPath },
        ],
      },
      credentials: [
        { type: "cookie", name: this.cookies.name, attributes: this.cookies.attributes },
      ],
      allowed_refresh_initiators: [...new Set(pages.map((page) => new URL(page).hostname))],
    });
  }

  /** Reads what a call proves of the key for its refresh token. */
  async proofOn(
    { dbsc, revocations }: DbscEngine,
    { requestHeader }: Pick<Call, "requestHeader">,
    token: string,
  ): Promise<Pick<PresentedRefreshToken, "provenKey" | "unproven">> {
    const proofs = this.cookies.read(requestHeader.get("cookie"));
    const admitted = parseRefreshToken(token);
    for (const proof of admitted === undefined ? [] : proofs) {
      const provenKey = await dbsc.provenBy(
        proof,
        admitted as NonNullable<typeof admitted>,
        revocations.storeNow(),
      );
      if (provenKey !== undefined) {
        return { provenKey };
      }
    }
    if (proofs.length > 0) {
      return { unproven: "stale" };
    }
    return { unproven: requestHeader.has(dbscHeader.skipped) ? "skipped" : "missing" };
  }

  /**
   * Turns a refusal for want of a proof into what the browser can act on: at first it is asked to try
   * again, and only then to sign in.
   *
   * @returns the error of the call, and the cookies to write
   */
  refusalOf(
    { requestHeader }: Pick<Call, "requestHeader">,
    error: unknown,
  ): { readonly error: unknown; readonly cookies: readonly string[] } {
    const isWanting =
      error instanceof SessionError &&
      error.kind === "unauthorized" &&
      error.reason === "PROOF_REQUIRED";
    if (!isWanting || error.sessionId === undefined) {
      return { error, cookies: [] };
    }
    const { sessionId } = error;
    if (!this.cookies.isMarked(requestHeader.get("cookie"), sessionId)) {
      return {
        error: proofLaterError(sessionId),
        cookies: [this.cookies.mark(sessionId, markLife)],
      };
    }
    const message =
      "the session is bound to a key that this browser does not have, or has lost; sign in again";
    return {
      error: new SessionError("unauthorized", "PROOF_REQUIRED", {
        ...{ message, sessionId, clearTokens: true },
      }),
      cookies: [],
    };
  }

  #place(lineage: string): Place {
    return { lineage, origin: this.origin };
  }

  get #prefix(): string {
    return this.#options.base.pathname.replace(/\/$/, "");
  }

  get #refreshPath(): string {
    return `${this.#prefix}/${SessionService.typeName}/${SessionService.method.refresh.name}`;
  }
}
