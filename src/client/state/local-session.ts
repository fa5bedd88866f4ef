import type { Clock } from "../../base/clock.ts";
import type { JsonObject } from "../../base/json.ts";
import { decodeNotice, header, type SessionNotice, type TokenTransport } from "../../base/wire.ts";
import type { SessionClientEvent, SessionState, SignedOutBy } from "../events.ts";
import {
  type AccessOrder,
  judge,
  type NoticeContext,
  type SentMark,
  type Verdict,
} from "./notice-rule.ts";
import type { ClientTokens } from "./tokens.ts";

/** What one client knows of its session, and the only place that changes it. Does no I/O. */
export class LocalSession implements NoticeContext {
  readonly transport: TokenTransport;
  status: SessionState["status"] = "unknown";
  session: string | undefined;
  realm: string | undefined;
  ended: string | undefined;
  order: AccessOrder | undefined;
  /** The tokens of a header session. */
  tokens: ClientTokens | undefined;
  /** The anti-CSRF token of a cookie session. */
  csrf: string | undefined;
  claims: JsonObject | undefined;
  epoch = 0;
  intent = 0;
  version = 0;
  readonly #clock: Clock;
  readonly #emit: (event: SessionClientEvent) => void;
  #life: { readonly from: number; readonly length: number } | undefined;

  constructor(options: {
    readonly transport: TokenTransport;
    readonly realm: string | undefined;
    readonly clock: Clock;
    readonly emit: (event: SessionClientEvent) => void;
  }) {
    this.transport = options.transport;
    this.realm = options.realm;
    this.#clock = options.clock;
    this.#emit = options.emit;
  }

  /** What a call that is sent now must remember. */
  mark(): SentMark {
    return { epoch: this.epoch, intent: this.intent, version: this.version };
  }

  /** How much longer the access token is good, in milliseconds; 0 where that is not known. */
  get expiresIn(): number {
    const age = this.#clock.monotonic() - (this.#life?.from ?? 0);
    return Math.max(0, (this.#life?.length ?? age) - age);
  }

  /**
   * Milliseconds until the access token counts as `due`, negative when it does; undefined where its
   * life is not known.
   */
  dueIn(early: number): number | undefined {
    return this.#life && this.#life.from + this.#life.length * early - this.#clock.monotonic();
  }

  /** Where the access token is in its life; `early` is the share after which it counts as `due`. */
  phase(early: number): "unknown" | "fresh" | "due" | "over" {
    if (this.#life === undefined) {
      return "unknown";
    }
    const age = this.#clock.monotonic() - this.#life.from;
    if (age >= this.#life.length) {
      return "over";
    }
    return age >= this.#life.length * early ? "due" : "fresh";
  }

  /**
   * Takes what the headers of an answer say about the session.
   *
   * @param sent what was true when the call was sent
   * @param own whether it answers this client's own refresh
   */
  receive(headers: Headers, sent: SentMark, own = false): Verdict | "none" {
    const notice = decodeNotice(headers.get(header.session));
    if (notice === undefined) {
      if (sent.epoch === this.epoch && this.status !== "signedOut") {
        this.#takeCsrf(headers);
      }
      return "none";
    }
    const verdict = judge(notice, this, { sent, own });
    if (verdict === "stale") {
      this.#emit({ type: "answerDropped", sessionId: notice.session, why: "stale" });
    } else if (verdict === "end") {
      this.end("server", notice.session);
    } else if (verdict !== "ignore") {
      return this.#take(notice, headers, verdict);
    }
    return verdict;
  }

  /** Begins with tokens that a store held. */
  restore(tokens: ClientTokens): void {
    this.realm ??= tokens.realm;
    this.status = "signedIn";
    this.session = tokens.session;
    // Only the client's own wall clock outlives a process; where it went back nothing has passed.
    const age = Math.max(0, this.#clock.now() - tokens.receivedAt);
    this.tokens = tokens;
    this.claims = tokens.claims;
    this.learn(tokens, age);
  }

  /** A renewed access token, or a refresh without a readable answer. */
  learn(life?: AccessOrder & { readonly expiresIn: number }, age = 0): void {
    this.version += 1;
    if (life !== undefined) {
      const { generation, claimsVersion, expiresAt, expiresIn } = life;
      this.order = { generation, claimsVersion, expiresAt };
      this.#life = { from: this.#clock.monotonic() - age, length: expiresIn };
    } else {
      this.#life = undefined;
    }
  }

  /** Another session than before is the present one. */
  become(session: string, realm: string): void {
    this.epoch += 1;
    this.status = "signedIn";
    this.session = session;
    this.realm ??= realm;
    this.#drop();
    this.#emit({ type: "signedIn", sessionId: session, realm });
  }

  /** There is no session any more. */
  end(by: SignedOutBy, session: string | undefined = this.session): void {
    const before = this.status;
    this.epoch += 1;
    this.intent += by === "signOut" ? 1 : 0;
    this.ended = session ?? this.ended;
    this.status = "signedOut";
    this.session = undefined;
    this.#drop();
    this.order = undefined;
    this.#life = undefined;
    if (before !== "signedOut") {
      this.#emit({ type: "signedOut", sessionId: session, by });
    }
  }

  /** Another tab signed in to a session that this client cannot tell to be its own. */
  forget(): void {
    this.epoch += 1;
    this.status = "unknown";
    this.session = undefined;
    this.claims = undefined;
    this.order = undefined;
    this.#life = undefined;
  }

  /** What belongs to one session, and not to the next. */
  #drop(): void {
    this.tokens = undefined;
    this.csrf = undefined;
    this.claims = undefined;
  }

  #take(notice: SessionNotice, headers: Headers, verdict: "adopt" | "renew"): Verdict {
    const access = headers.get(header.accessToken);
    if (this.transport === "header" && access === null) {
      this.#emit({ type: "answerDropped", sessionId: notice.session, why: "unreadable" });
      return "ignore";
    }
    const kept = verdict === "renew" ? this.tokens?.refreshToken : undefined;
    // The cookies held this session all along: nobody signed in, calls on their way stay good.
    const learned = notice.event !== "created" && this.status === "unknown";
    if (learned) {
      this.status = "signedIn";
      this.session = notice.session;
      this.realm ??= notice.realm;
    } else if (verdict === "adopt") {
      this.intent += this.transport === "header" ? 1 : 0;
      this.become(notice.session, notice.realm);
    }
    this.learn(notice);
    this.claims = notice.claims;
    this.#takeCsrf(headers);
    if (this.transport === "header" && access !== null) {
      const { event: _, ...facts } = notice;
      this.tokens = {
        ...facts,
        accessToken: access,
        refreshToken: headers.get(header.refreshToken) ?? kept,
        receivedAt: this.#clock.now(),
      };
    }
    return learned ? "renew" : verdict;
  }

  #takeCsrf(headers: Headers): void {
    if (this.transport === "cookie") {
      this.csrf = headers.get(header.csrf) ?? this.csrf;
    }
  }
}
