import { createSessions, type Sessions, type SessionsOptions } from "rpc-session";
import { expect } from "vitest";
import type { SessionEvent, SessionStore } from "../../src/index.ts";
import { exchangeOf } from "../helpers/exchanges.ts";

/** A server in real time, and its events. */
export interface FeedServer extends Sessions {
  readonly events: SessionEvent[];
}

/** A session and its access token. */
export interface Issued {
  readonly id: string;
  readonly access: string;
}

/** `maxStaleness` in most tests, in milliseconds: long enough to distinguish polling from a push. */
export const bound = 500;
/** Milliseconds that a busy machine may add. */
export const slack = 250;
/** Milliseconds within which a push arrives on a busy machine too. Where this is used, a poll is three times as far away. */
export const promptly = 10_000;

export async function startServer(
  store: SessionStore,
  options: Partial<SessionsOptions> = {},
): Promise<FeedServer> {
  const events: SessionEvent[] = [];
  const sessions = createSessions({
    issuer: "https://api.example.com",
    secret: "a secret of at least 32 bytes, for tests",
    maxStaleness: `${bound}ms`,
    onEvent: (event) => events.push(event),
    ...options,
    store,
  });
  await sessions.ready();
  return { ...sessions, events };
}

export async function issue(server: Sessions): Promise<Issued> {
  const { session, tokens } = await server.issue({ userId: "alice" });
  return { id: session.id, access: tokens.accessToken };
}

/** The result of a call with the session's access token: "accepted", or the reason for refusal. */
export async function ask(server: Sessions, { access }: Issued): Promise<string> {
  return server.getSession(exchangeOf({ bearer: access })).then(
    () => "accepted",
    ({ reason }: { readonly reason: string }) => reason,
  );
}

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/**
 * Calls repeatedly until the session is refused as ended. Resolves to the milliseconds after which it
 * was last accepted, 0 for never. Calls that fail with an outage do not count.
 */
export async function lastAccepted(
  server: Sessions,
  issued: Issued,
  { within = 120_000 }: { readonly within?: number } = {},
): Promise<number> {
  const began = performance.now();
  let last = 0;
  for (;;) {
    const asked = performance.now() - began;
    const answer = await ask(server, issued);
    if (answer === "SESSION_REVOKED") {
      return last;
    }
    if (answer === "accepted") {
      // Measured at the start of the call, because an answer may be late for other reasons.
      last = asked;
    }
    if (asked > within) {
      throw new Error(`after ${within} ms the session is not refused but ${answer}`);
    }
    await pause(2);
  }
}

/** Waits until a server receives entries of other processes by push. */
export async function pushed(...servers: readonly Sessions[]): Promise<void> {
  for (const server of servers) {
    await expect.poll(() => server.health().push).toBe("connected");
  }
}

/** Waits until a server accepts a live session again. */
export async function recovered(server: Sessions, live: Issued): Promise<void> {
  await expect.poll(() => ask(server, live)).toBe("accepted");
}
