import type { Clock } from "./clock.ts";
import type { SessionEvent, SessionEventListener } from "./events.ts";

/** Events with one cause that are sent in one window; the others are counted. */
const maxPerWindow = 10;
/** Milliseconds. */
const windowLength = 1_000;
/** Causes that are told apart in one window. Further ones share one limit for each type of event. */
const maxCauses = 100;
/** The longest text in an event, in characters. Longer ones come from a request and are cut. */
const maxText = 255;

interface EventWindow {
  readonly of: SessionEvent["type"];
  readonly reason: string | undefined;
  sent: number;
  omitted: number;
  readonly cancel: () => void;
}

/**
 * Limits what requests can write into logs: the number of events that anybody can cause by sending
 * requests, and the length of every text in an event. A window of one second begins with the first
 * event of a cause. At its end, `omitted` reports how many events were left out.
 */
export class EventLimit {
  readonly #listener: SessionEventListener;
  readonly #clock: Clock;
  readonly #windows = new Map<string, EventWindow>();

  constructor(listener: SessionEventListener, clock: Clock) {
    this.#listener = listener;
    this.#clock = clock;
  }

  /** Passes an event on, unless too many with the same cause preceded it in this second. */
  emit(event: SessionEvent): void {
    const cause = causeOf(event);
    if (cause === undefined || this.#mayPass(event.type, cause)) {
      this.#listener(cutTexts(event));
    }
  }

  /** Ends all windows, so that no count is lost when the server stops. */
  flush(): void {
    for (const key of [...this.#windows.keys()]) {
      this.#end(key);
    }
  }

  #mayPass(of: SessionEvent["type"], { reason, key: cause }: Cause): boolean {
    const isKnown = this.#windows.size < maxCauses || this.#windows.has(cause);
    const key = isKnown ? cause : of;
    const window = this.#windows.get(key) ?? {
      of,
      reason: isKnown ? reason : undefined,
      sent: 0,
      omitted: 0,
      cancel: this.#clock.after(windowLength, () => this.#end(key)),
    };
    this.#windows.set(key, window);
    if (window.sent < maxPerWindow) {
      window.sent++;
      return true;
    }
    window.omitted++;
    return false;
  }

  #end(key: string): void {
    const window = this.#windows.get(key);
    this.#windows.delete(key);
    window?.cancel();
    if (window !== undefined && window.omitted > 0) {
      const { of, reason, omitted: count } = window;
      this.#listener({ type: "omitted", of, reason, count });
    }
  }
}

/** What caused an event, as far as the request decides it. */
interface Cause {
  readonly reason: string | undefined;
  readonly key: string;
}

/** Returns the cause of an event that anybody can cause by sending requests; else undefined. */
function causeOf(event: SessionEvent): Cause | undefined {
  if (event.type === "refused") {
    return { reason: event.reason, key: `refused ${event.reason}` };
  }
  if (event.type === "gateThrew") {
    return { reason: event.code, key: `gateThrew ${event.code}` };
  }
  if (event.type === "csrfRefused") {
    return { reason: event.check, key: `csrfRefused ${event.check}` };
  }
  if (event.type === "adoptionRefused") {
    return { reason: event.why, key: `adoptionRefused ${event.why}` };
  }
  if (event.type === "logoutRefused") {
    return { reason: event.why, key: `logoutRefused ${event.why}` };
  }
  if (event.type === "failed") {
    // The message too, so that junk cannot hide an outage. It is a constant of this library.
    const { reason, message } = event.error;
    return { reason, key: `failed ${reason} ${message}` };
  }
  if (event.type === "claimSourceFailed") {
    return { reason: event.claim, key: `claimSourceFailed ${event.claim}` };
  }
  return event.type === "unknownSecret" ? { reason: undefined, key: "unknownSecret" } : undefined;
}

/**
 * Cuts the texts of an event, and replaces their control characters, which could forge a line of a log
 * (CWE-117). Only texts that come from a request can be too long or have such characters.
 */
function cutTexts(event: SessionEvent): SessionEvent {
  const fields = Object.entries(event);
  return fields.some(([, value]) => typeof value === "string" && safeText(value) !== value)
    ? (Object.fromEntries(
        fields.map(([name, value]) => [name, typeof value === "string" ? safeText(value) : value]),
      ) as SessionEvent)
    : event;
}

function safeText(text: string): string {
  const part = text.length > maxText ? `${text.slice(0, maxText)}…` : text;
  return part.replace(/\p{Cc}/gu, "\ufffd");
}
