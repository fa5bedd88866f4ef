import type { MessageInitShape } from "@bufbuild/protobuf";
import type { SessionEvent } from "rpc-session";
import {
  Actor,
  Mood,
  type WatchTimelineResponseSchema,
} from "../gen/playground/v1/playground_pb.ts";

type Entry = MessageInitShape<typeof WatchTimelineResponseSchema> & { readonly number: number };

/** Entries that are kept. */
const maxEntries = 500;

/** What happened on the server, in the order in which it happened. */
export class Timeline {
  readonly #now: () => number;
  readonly #entries: Entry[] = [];
  /** Readers that wait for the next entry. */
  readonly #waiting = new Set<() => void>();
  #last = 0;

  constructor(now: () => number) {
    this.#now = now;
  }

  add(actor: Actor, mood: Mood, text: string): void {
    this.#last += 1;
    this.#entries.push({ number: this.#last, time: BigInt(this.#now()), actor, mood, text });
    if (this.#entries.length > maxEntries) {
      this.#entries.shift();
    }
    for (const wake of this.#waiting) {
      wake();
    }
  }

  /** Adds an event of the session engine. */
  addEvent(event: SessionEvent): void {
    const told = tell(event);
    if (told !== undefined) {
      this.add(Actor.SERVER, ...told);
    }
  }

  /** Yields every entry after a number, then each new one, until the signal aborts. */
  async *after(number: number, signal: AbortSignal): AsyncGenerator<Entry> {
    for (let seen = number; !signal.aborted; ) {
      for (const entry of this.#entries.filter((each) => each.number > seen)) {
        seen = entry.number;
        yield entry;
      }
      if (seen >= this.#last) {
        await this.#news(signal);
      }
    }
  }

  /** Resolves with the next entry, or when the signal aborts. */
  async #news(signal: AbortSignal): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#waiting.add(resolve);
    signal.addEventListener("abort", () => resolve());
    await promise;
    this.#waiting.delete(resolve);
  }
}

/** The last characters of a session id: enough to tell the sessions of this page apart. */
export function short(sessionId: string): string {
  return `…${sessionId.slice(-4)}`;
}

function tell(event: SessionEvent): [Mood, string] | undefined {
  switch (event.type) {
    case "created":
      return [Mood.GOOD, `Session ${short(event.sessionId)} began for ${event.userId}.`];
    case "refreshed":
      return [
        Mood.GOOD,
        `Session ${short(event.sessionId)} was refreshed: a new access token, and refresh token number ${event.generation}.`,
      ];
    case "recovered":
      return [
        Mood.GOOD,
        `The response to a refresh of session ${short(event.sessionId)} was lost. The client asked again and got refresh token number ${event.generation} once more.`,
      ];
    case "revoked":
      return [
        Mood.UNSPECIFIED,
        `Session ${short(event.sessionId)} ended: ${reasons[event.endedBy]}.`,
      ];
    case "expired":
      return [Mood.REFUSED, `Session ${short(event.sessionId)} is over: it was idle for too long.`];
    case "theft":
      return [
        Mood.ALARM,
        `Theft: refresh token number ${event.presented} of session ${short(event.sessionId)} was used again, long after number ${event.generation} replaced it. The session ends for everybody who holds it.`,
      ];
    case "proofRefused":
      return [
        Mood.ALARM,
        `Theft: the refresh token of session ${short(event.sessionId)} came without a proof by the key that the session is bound to. The refresh is refused, and the session goes on for its owner.`,
      ];
    case "csrfRefused":
      return [Mood.ALARM, "A request with session cookies from another site was refused."];
    default:
      return undefined;
  }
}

const reasons = {
  signOut: "its user signed out",
  revoked: "it was revoked",
  replaced: "a new sign-in in the same browser replaced it",
  theft: "it was stolen",
  evicted: "its user has too many sessions",
  externalLogout: "its user signed out at the identity provider",
} as const;
