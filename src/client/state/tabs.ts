import type { JsonObject } from "../../base/json.ts";
import type { AccessOrder } from "./notice-rule.ts";
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
  const { type, session, realm, order, expiresIn, claims } = data as Record<string, unknown>;
  if (claims !== undefined && !isJsonObject(claims)) {
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
