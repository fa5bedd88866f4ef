import type { ConnectError } from "@connectrpc/connect";
import type { SessionClientEvent } from "../events.ts";
import type { ResolvedOptions } from "../options.ts";
import type { Hint } from "../refresh/hint.ts";
import type { SessionRpc } from "../refresh/rpc.ts";
import type { LocalSession } from "./local-session.ts";
import type { SentMark, Verdict } from "./notice-rule.ts";
import type { ClientTokens, TokenKeeper } from "./tokens.ts";

/** What the parts of a session client see of each other. */
export interface SessionContext {
  readonly options: ResolvedOptions;
  readonly local: LocalSession;
  readonly keeper: TokenKeeper;
  readonly rpc: SessionRpc;
  emit(event: SessionClientEvent): void;
  /**
   * Loads the tokens if that is still to be done; undefined when nothing is to be waited for.
   * Resolves with what the store held, and never rejects: after a failure the next call tries again.
   */
  ready(): Promise<ClientTokens | undefined> | undefined;
  /** Looks whether another client of the same store has refreshed meanwhile. */
  reload(): Promise<void>;
  /** Takes what an answer says about the session. See {@link LocalSession.receive}. */
  receive(headers: Headers, sent: SentMark, own?: boolean): Verdict | "none";
  /** Reads the hint of a refused call, and signs out where it says that our session is over. */
  obey(error: ConnectError): Hint | undefined;
  /** Signs out locally, and tells everybody. */
  end(by: "signOut" | "server", session?: string): void;
  /** An answer set cookies after the user signed out: signs out at the server once more. */
  clearLateCookies(): void;
}
