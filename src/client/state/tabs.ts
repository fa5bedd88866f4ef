import type { Clock } from "../../base/clock.ts";
import type { JsonObject } from "../../base/json.ts";
import type { LocalSession } from "./local-session.ts";
import { type AccessOrder, isGreater, type Verdict } from "./notice-rule.ts";

/**
 * Runs `work` while this tab holds the lock `name` of the browser, so that tabs refresh one after
 * the other. Only saves requests: where there are no locks, or the lock is not free within `ms`,
 * the work runs without it.
 */
export async function withLock<T>(
  lock: { readonly name: string; readonly ms: number; readonly clock: Clock },
  work: () => Promise<T>,
): Promise<T> {
  const locks = globalThis.navigator?.locks;
  if (locks === undefined) {
    return work();
  }
  const giveUp = new AbortController();
  const cancel = lock.clock.after(lock.ms, () => giveUp.abort());
  let running: Promise<T> | undefined;
  const once = (): Promise<T> => {
    cancel();
    running ??= work();
    return running;
  };
  try {
    return await locks.request(lock.name, { signal: giveUp.signal }, once);
  } catch {
    // Not granted (in time, or not to this kind of page): go on alone. Or the work itself failed.
    return await once();
  }
}

/** What tabs of one browser tell each other. Holds no token. */
export type TabMessage =
  | {
      readonly type: "signedIn";
      readonly session: string;
      readonly realm: string;
      readonly claims?: JsonObject;
    }
  | { readonly type: "signedOut"; readonly session?: string; readonly realm?: string }
  | {
      readonly type: "refreshed";
      readonly session: string;
      readonly realm: string;
      readonly order: AccessOrder;
      readonly expiresIn: number;
      readonly claims?: JsonObject;
    };

/** The other tabs of the browser that share our cookies. */
export interface Tabs {
  /** Tells all of them. */
  tell(message: TabMessage): void;
  close(): void;
}

/** The name of the lock and of the channel that tabs share. */
export function channelName(realm: string | undefined): string {
  return realm === undefined ? "rpc-session" : `rpc-session ${realm}`;
}

/** Opens the channel `name`; undefined where there are no channels. */
export function openTabs(name: string, onMessage: (message: TabMessage) => void): Tabs | undefined {
  if (typeof BroadcastChannel === "undefined") {
    return undefined;
  }
  const channel = new BroadcastChannel(name);
  // On a server runtime an open channel would keep the process alive.
  (channel as { unref?: () => void }).unref?.();
  channel.onmessage = (event: MessageEvent<unknown>) => {
    if (isTabMessage(event.data)) {
      onMessage(event.data);
    }
  };
  return { tell: (message) => channel.postMessage(message), close: () => channel.close() };
}

/** What other tabs must know of what an answer did to the session; undefined when nothing. */
export function newsOf(local: LocalSession, verdict: Verdict | "none"): TabMessage | undefined {
  const { session, realm, order, ended, expiresIn, claims } = local;
  if (verdict === "end") {
    return { type: "signedOut", ...(ended && { session: ended }), ...(realm && { realm }) };
  }
  if (session === undefined || realm === undefined) {
    return undefined;
  }
  const known = { session, realm, ...(claims && { claims }) };
  if (verdict === "renew" && order !== undefined) {
    return { type: "refreshed", ...known, order, expiresIn };
  }
  return verdict === "adopt" ? { type: "signedIn", ...known } : undefined;
}

/**
 * Follows what another tab did. Messages of another realm are of no concern. A client that does
 * not know its realm yet learns none from a message: two services may share the page.
 */
export function follow(local: LocalSession, message: TabMessage): void {
  if (local.realm !== undefined && message.realm !== undefined && message.realm !== local.realm) {
    return;
  }
  switch (message.type) {
    case "signedOut":
      if (local.session === undefined || local.session === message.session) {
        local.end("otherTab", message.session);
      }
      return;
    case "signedIn":
      if (local.realm === undefined) {
        if (local.status === "signedOut") {
          local.forget();
        }
      } else if (local.session !== message.session) {
        local.become(message.session, message.realm);
        local.learn();
        local.claims = message.claims;
      }
      return;
    case "refreshed":
      if (
        local.session === message.session &&
        (!local.order || isGreater(message.order, local.order))
      ) {
        local.learn({ ...message.order, expiresIn: message.expiresIn });
        local.claims = message.claims;
      }
  }
}

function isTabMessage(data: unknown): data is TabMessage {
  if (typeof data !== "object" || data === null) {
    return false;
  }
  const { type, session, realm, order, expiresIn, claims } = data as Record<string, unknown>;
  if (claims !== undefined && !isJsonObject(claims)) {
    return false;
  }
  const named = typeof session === "string" && typeof realm === "string";
  const timed = typeof order === "object" && order !== null && typeof expiresIn === "number";
  return (
    type === "signedOut" || (named && (type === "signedIn" || (type === "refreshed" && timed)))
  );
}

function isJsonObject(value: unknown): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
