import type { JsonObject } from "../../base/json.ts";
import { type AccessOrder, isNewer, type KnownSession, type Verdict } from "./notice-rule.ts";
import { onPageEvent } from "./page.ts";

/**
 * A message between the tabs of one browser. It holds no token. Versions of this package may differ
 * between tabs, so the format of these messages must not change.
 */
export type TabMessage =
  | {
      readonly type: "signedIn";
      readonly session: string;
      readonly user?: string;
      readonly realm: string;
      readonly claims?: JsonObject;
    }
  | { readonly type: "signedOut"; readonly session?: string; readonly realm?: string }
  | {
      readonly type: "refreshed";
      readonly session: string;
      readonly user?: string;
      readonly realm: string;
      readonly order: AccessOrder;
      readonly expiresIn: number;
      readonly claims?: JsonObject;
    };

/**
 * - `follow`: what the message reports is so for this client as well.
 * - `signOut`: this client's session is over.
 * - `ask`: only the service can tell whether the message concerns this client.
 * - `ignore`: the message is about another session or realm, or about an older token.
 */
type TabVerdict = "follow" | "signOut" | "ask" | "ignore";

/**
 * Decides what a message of another tab means for this client. A client that does not know its realm
 * does not learn it from a message, because one page may use two services.
 */
export function judgeMessage(message: TabMessage, known: KnownSession): TabVerdict {
  const { realm, sessionId, status, order } = known;
  if (realm !== undefined && message.realm !== undefined && message.realm !== realm) {
    return "ignore";
  }
  const isOwn = sessionId === message.session;
  switch (message.type) {
    case "signedOut":
      if (sessionId === undefined || isOwn) {
        return "signOut";
      }
      // A tab that never learned its session has signed out.
      return message.session === undefined ? "ask" : "ignore";
    case "signedIn":
      if (realm === undefined) {
        return "ask";
      }
      return isOwn ? "ignore" : "follow";
    case "refreshed": {
      const mayLearn = isOwn || (status === "unknown" && realm !== undefined);
      const isNews = order === undefined || isNewer(message.order, order);
      return mayLearn && isNews ? "follow" : "ignore";
    }
  }
}

/** The facts that a client tells other tabs. */
type ToldFacts = KnownSession & {
  readonly userId: string | undefined;
  readonly claims: JsonObject | undefined;
  readonly lifetime: { readonly rest: number };
};

/** What {@link Tabs} reports. */
interface TabHooks {
  readonly onMessage: (message: TabMessage) => void;
  /**
   * The browser has restored the page from its back-forward cache (HTML Standard, `pageshow` with
   * `persisted`). The page may have missed messages.
   */
  readonly onRestored: () => void;
}

/**
 * The other tabs of the browser, which share this client's cookies. Telling them is a courtesy: no
 * failure of the channel reaches a caller.
 */
export class Tabs {
  #channel: BroadcastChannel | undefined;
  readonly #stopListening: () => void;

  /** Listens on the channel `name`. Does nothing where there is no channel. */
  constructor(name: string, { onMessage, onRestored }: TabHooks) {
    this.#stopListening = onPageEvent("pageshow", ({ persisted }) => {
      if (persisted) {
        onRestored();
      }
    });
    this.#channel = openChannel(name);
    if (this.#channel === undefined) {
      return;
    }
    // On a server runtime an open channel would keep the process alive.
    (this.#channel as { unref?: () => void }).unref?.();
    this.#channel.onmessage = (event: MessageEvent<unknown>) => {
      if (isTabMessage(event.data)) {
        onMessage(event.data);
      }
    };
  }

  /** Reports how a notice of the service was applied. */
  tell(verdict: Verdict, facts: ToldFacts): void {
    const { sessionId, userId, realm, order, claims, lifetime, endedSessionId } = facts;
    if (verdict === "end") {
      if (endedSessionId) {
        this.send({ type: "signedOut", session: endedSessionId, ...(realm && { realm }) });
      }
    } else if (sessionId !== undefined && realm !== undefined) {
      const known = {
        ...{ session: sessionId, realm },
        ...(userId && { user: userId }),
        ...(claims && { claims }),
      };
      if (verdict === "renew" && order !== undefined) {
        this.send({ type: "refreshed", ...known, order, expiresIn: lifetime.rest });
      } else if (verdict === "adopt") {
        this.send({ type: "signedIn", ...known });
      }
    }
  }

  /** Sends a message to every other tab; does nothing once closed. */
  send(message: TabMessage): void {
    try {
      this.#channel?.postMessage(message);
    } catch {
      // The browser has closed the channel.
    }
  }

  close(): void {
    this.#stopListening();
    this.#channel?.close();
    this.#channel = undefined;
  }
}

/** Opens a channel; undefined where it does not exist or is not allowed, as with blocked cookies. */
function openChannel(name: string): BroadcastChannel | undefined {
  try {
    return typeof BroadcastChannel === "undefined" ? undefined : new BroadcastChannel(name);
  } catch {
    return undefined;
  }
}

/** The name that tabs use for their channel and for their lock. */
export function channelName(realm: string | undefined): string {
  return realm === undefined ? "rpc-session" : `rpc-session ${realm}`;
}

function isTabMessage(data: unknown): data is TabMessage {
  if (typeof data !== "object" || data === null) {
    return false;
  }
  const { type, session, user, realm, order, expiresIn, claims } = data as Record<string, unknown>;
  if (typeof (user ?? "") !== "string" || !isJsonObject(claims ?? {})) {
    return false;
  }
  const isNamed = typeof session === "string" && typeof realm === "string";
  const isTimed = typeof order === "object" && order !== null && typeof expiresIn === "number";
  return (
    type === "signedOut" || (isNamed && (type === "signedIn" || (type === "refreshed" && isTimed)))
  );
}

function isJsonObject(value: unknown): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
