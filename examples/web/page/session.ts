import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { useSyncExternalStore } from "react";
import { createSessionClient } from "rpc-session/client";
import { type SessionInfo, SessionService } from "rpc-session/gen/rpcsession/v1/service_pb.js";
import { PlaygroundService } from "../../gen/playground/v1/playground_pb.ts";
import { network } from "./network.ts";

/** Created once, in a module of its own: every component uses the same session. */
export const session = createSessionClient({
  transport: network.connect,
  refreshTimeout: "3s",
  onEvent({ type }) {
    if (type === "signedIn" || type === "refreshed" || type === "signedOut") {
      void visitor.load();
    }
  },
});
export const playground = createClient(PlaygroundService, session.transport);
export const own = createClient(SessionService, session.transport);

/** The person in front of the page. */
export interface Visitor {
  /** Null if nobody is signed in; undefined while that is not known. */
  readonly info: SessionInfo | null | undefined;
  /** When the access token expires, by the clock of `performance.now()`. */
  readonly tokenEnds: number;
  /** How long the access token lives from its receipt, in milliseconds. */
  readonly tokenLife: number;
}

/** Asks the service who is signed in. The cookies cannot be read by scripts, so only it knows. */
class VisitorStore {
  #visitor: Visitor = { info: undefined, tokenEnds: 0, tokenLife: 1 };
  #asked = 0;
  readonly #listeners = new Set<() => void>();

  readonly read = (): Visitor => this.#visitor;

  readonly subscribe = (listener: () => void): (() => void) => {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  };

  async load(): Promise<void> {
    this.#asked += 1;
    const asked = this.#asked;
    const info = session.state.status === "signedOut" ? null : await currentSession();
    if (asked !== this.#asked) {
      return; // a later question has been asked
    }
    const { seconds = 0n, nanos = 0 } = info?.accessExpiresIn ?? {};
    const tokenLife = Math.max(1, Number(seconds) * 1000 + nanos / 1e6);
    this.#visitor = { info, tokenEnds: performance.now() + tokenLife, tokenLife };
    for (const listener of this.#listeners) {
      listener();
    }
  }
}

async function currentSession(): Promise<SessionInfo | null | undefined> {
  try {
    return (await own.getSession({})).session ?? null;
  } catch (error) {
    return ConnectError.from(error).code === Code.Unauthenticated ? null : undefined;
  }
}

export const visitor = new VisitorStore();

export function useVisitor(): Visitor {
  return useSyncExternalStore(visitor.subscribe, visitor.read);
}
