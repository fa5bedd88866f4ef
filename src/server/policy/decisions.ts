import type { DescMethod, Message } from "@bufbuild/protobuf";
import { SessionService } from "../../../gen/rpcsession/v1/service_pb.ts";
import { assertMembers, type Duration, durationMs } from "../../base/checks.ts";
import { type Clock, inTime } from "../../base/clock.ts";
import { SessionError, unavailable } from "../../base/errors.ts";
import type { JsonObject } from "../../base/json.ts";
import type { VerifiedSession } from "../../engine/session.ts";
import type { Call } from "../call/call.ts";
import { procedureOf } from "./in-code.ts";

/** What a decision point says of a call. The reason goes to the client. */
export type Decision = "allow" | { readonly deny: string };

/** A point elsewhere that decides on calls, such as an AuthZEN service. */
export interface AuthorizeOptions<Claims extends object = JsonObject> {
  /**
   * Decides on a call that has a session and meets its policy. What it throws, and an answer that comes too
   * late, makes the call `Unavailable`.
   *
   * @param procedure for example "notes.v1.NotesService/ListNotes"
   * @param more the signal aborts when the time is over; `request` is there with `readsRequest`
   */
  decide(
    session: VerifiedSession<Claims>,
    procedure: string,
    more: { readonly signal: AbortSignal; readonly request?: Message },
  ): Promise<Decision>;
  /**
   * Whether it needs the request. It is asked after parsing then, for every message of a stream, whose
   * handler starts when the first one is allowed. No answer is kept. Default false: it is asked before the body is read.
   */
  readonly readsRequest?: boolean;
  /**
   * How long an answer counts for the same session, version of its claims and procedure. Default "10s";
   * from "0s" to "10m". Must be absent with `readsRequest`.
   */
  readonly cacheFor?: Duration;
  /** How long a call waits for an answer. Default "1s"; from "50ms" to "30s". */
  readonly within?: Duration;
}

/** Answers that are kept. */
const maxKept = 10_000;

interface Kept {
  readonly decision: Decision;
  /** Monotonic milliseconds. */
  readonly until: number;
}

/** Asks a decision point. */
export class Decisions {
  readonly #decide: AuthorizeOptions["decide"];
  /** See {@link AuthorizeOptions.readsRequest}. */
  readonly readsRequest: boolean;
  readonly #cacheFor: number;
  readonly #within: number;
  readonly #clock: Clock;
  readonly #kept = new Map<string, Kept>();
  readonly #running = new Map<string, Promise<Decision>>();

  /** @throws TypeError if an option is not valid */
  constructor(options: AuthorizeOptions<never>, clock: Clock) {
    assertMembers("authorize", options, { decide: 0, readsRequest: 0, cacheFor: 0, within: 0 });
    const { readsRequest = false, cacheFor, within = "1s" } = options;
    if (typeof options.decide !== "function" || typeof readsRequest !== "boolean") {
      throw new TypeError(
        "authorize must have a function decide, such as { decide: async (session, procedure) => … }, and readsRequest must be true or false",
      );
    }
    if (readsRequest && cacheFor !== undefined) {
      throw new TypeError(
        "authorize: an answer that depends on the request cannot be kept; remove cacheFor or readsRequest",
      );
    }
    this.#decide = (session, ...more) => options.decide(session as never, ...more);
    this.readsRequest = readsRequest;
    this.#cacheFor = durationMs("authorize.cacheFor", cacheFor ?? "10s", { min: 0, max: 600_000 });
    this.#within = durationMs("authorize.within", within, { min: 50, max: 30_000 });
    this.#clock = clock;
  }

  /**
   * Decides on a call before its body is read. Returns undefined if an answer is kept that allows it.
   * @throws SessionError `forbidden` `unavailable`
   */
  before(call: Call, method: DescMethod): Promise<void> | undefined {
    const { session, token } = call;
    if (this.readsRequest || session === undefined || token === undefined || isOwn(method)) {
      return undefined;
    }
    const procedure = procedureOf(method);
    const key = `${token.sid} ${token.cv} ${procedure}`;
    const kept = this.#kept.get(key);
    if (kept !== undefined && this.#clock.monotonic() < kept.until) {
      assertAllows(kept.decision, session);
      return undefined;
    }
    return this.#once(key, session, procedure);
  }

  /**
   * Decides on a message, if answers depend on it.
   * @throws SessionError `forbidden` `unavailable`
   */
  onMessage(call: Call, method: DescMethod, request: Message): Promise<void> | undefined {
    const { session } = call;
    return !this.readsRequest || session === undefined || isOwn(method)
      ? undefined
      : this.#ask(session, procedureOf(method), request).then((decision) =>
          assertAllows(decision, session),
        );
  }

  /** All calls that wait for the same answer ask once. */
  async #once(key: string, session: VerifiedSession, procedure: string): Promise<void> {
    let running = this.#running.get(key);
    if (running === undefined) {
      running = this.#ask(session, procedure, undefined).finally(() => this.#running.delete(key));
      this.#running.set(key, running);
    }
    const decision = await running;
    this.#keep(key, { decision, until: this.#clock.monotonic() + this.#cacheFor });
    assertAllows(decision, session);
  }

  async #ask(
    session: VerifiedSession,
    procedure: string,
    request: Message | undefined,
  ): Promise<Decision> {
    const controller = new AbortController();
    const { signal } = controller;
    const late = () => {
      controller.abort();
      return new Error(`the decision point has not answered within ${this.#within} ms`);
    };
    const limit = { clock: this.#clock, ms: this.#within, keepAlive: true, late };
    let decision: unknown;
    try {
      const more = request === undefined ? { signal } : { signal, request };
      decision = await inTime((async () => this.#decide(session, procedure, more))(), limit);
    } catch (cause) {
      throw unavailable("the decision point for this call is not available; try again", cause);
    }
    if (!isDecision(decision)) {
      throw new SessionError("general", "INTERNAL", {
        message: 'authorize.decide must resolve to "allow", or to { deny: "the reason" }',
      });
    }
    return decision;
  }

  #keep(key: string, kept: Kept): void {
    this.#kept.delete(key);
    this.#kept.set(key, kept);
    for (const oldest of this.#kept.keys()) {
      if (this.#kept.size <= maxKept) {
        break;
      }
      this.#kept.delete(oldest);
    }
  }
}

/** The methods of SessionService list and end the caller's own sessions. Nothing elsewhere decides on it. */
function isOwn({ parent }: DescMethod): boolean {
  return parent.typeName === SessionService.typeName;
}

function isDecision(value: unknown): value is Decision {
  return value === "allow" || typeof (value as { deny?: unknown } | null)?.deny === "string";
}

function assertAllows(decision: Decision, { id }: VerifiedSession): void {
  if (decision !== "allow") {
    const message = "the decision point does not allow this call";
    throw new SessionError("forbidden", "CLAIM_REJECTED", {
      message: `${message}; its violation has the reason`,
      sessionId: id,
      violations: [{ claim: "authorize", requirement: decision.deny, message, rule: "authorize" }],
    });
  }
}
