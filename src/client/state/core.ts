import type { ConnectError } from "@connectrpc/connect";
import type { JsonObject } from "../../base/json.ts";
import { notify, type SessionClientEvent, type SessionState } from "../events.ts";
import { makeTransport, type ResolvedOptions } from "../options.ts";
import { type Hint, hintOf } from "../refresh/hint.ts";
import { Refresher } from "../refresh/refresher.ts";
import { type SessionCallOptions, SessionRpc } from "../refresh/rpc.ts";
import { SignOuts } from "../refresh/sign-out.ts";
import type { SessionContext } from "./context.ts";
import { LocalSession } from "./local-session.ts";
import { isCurrent, isGreater, type SentMark, type Verdict } from "./notice-rule.ts";
import { channelName, follow, newsOf, openTabs, type Tabs } from "./tabs.ts";
import { type ClientTokens, TokenKeeper } from "./tokens.ts";

/** The parts of one session client, and what passes between them. */
export class SessionCore implements SessionContext {
  readonly options: ResolvedOptions;
  readonly local: LocalSession;
  readonly keeper: TokenKeeper;
  readonly refresher: Refresher;
  readonly rpc: SessionRpc;
  readonly listeners: Set<(state: SessionState) => void> = new Set();
  readonly #signOuts: SignOuts;
  readonly #tabs: Tabs | undefined;
  #state: SessionState;
  #published: SessionState;
  #saved: ClientTokens | undefined;
  #loading: Promise<ClientTokens | undefined> | undefined;

  constructor(options: ResolvedOptions) {
    this.options = options;
    const emit = (event: SessionClientEvent): void => this.emit(event);
    const { clock, realm, tokens } = options;
    this.local = new LocalSession({ transport: tokens.transport, realm, clock, emit });
    this.#state = stateOf(this.local);
    this.#published = this.#state;
    this.keeper = new TokenKeeper(tokens, emit);
    this.rpc = new SessionRpc(makeTransport(options, []), clock);
    this.refresher = new Refresher(this);
    this.#signOuts = new SignOuts(this);
    // Tabs share a session only where they share its cookies.
    this.#tabs =
      tokens.transport === "cookie"
        ? openTabs(channelName(realm), (message) => {
            follow(this.local, message);
            this.changed();
          })
        : undefined;
    void this.ready();
  }

  /** The same object until something changes. */
  get state(): SessionState {
    const { status, sessionId: session, realm, claims } = this.#state;
    const { local } = this;
    if (
      status !== local.status ||
      session !== local.session ||
      realm !== local.realm ||
      !isSame(claims, local.claims)
    ) {
      this.#state = stateOf(local);
    }
    return this.#state;
  }

  emit(event: SessionClientEvent): void {
    notify([this.options.onEvent], event);
  }

  ready(): Promise<ClientTokens | undefined> | undefined {
    const { local } = this;
    if (this.#loading !== undefined) {
      return this.#loading;
    }
    if (local.transport === "cookie" || local.status !== "unknown") {
      return undefined;
    }
    let found: ClientTokens | undefined;
    const loading = this.keeper.load((loaded) => {
      this.#loading = undefined;
      if (loaded !== "failed") {
        const tokens = loaded.tokens;
        found = isOfRealm(tokens, this.options.realm) ? tokens : undefined;
        this.#begin(found);
      }
    });
    this.#loading = loading?.then(() => found);
    return this.#loading;
  }

  async reload(): Promise<void> {
    const { local } = this;
    await this.keeper.load((loaded) => {
      const tokens = loaded === "failed" ? undefined : loaded.tokens;
      if (
        tokens !== undefined &&
        tokens.session === local.session &&
        (local.order === undefined || isGreater(tokens, local.order))
      ) {
        local.restore(tokens);
        this.#saved = tokens;
      }
    });
  }

  receive(headers: Headers, sent: SentMark, own = false): Verdict | "none" {
    const { local } = this;
    const verdict = local.receive(headers, sent, own);
    if (verdict === "adopt" || verdict === "end") {
      this.refresher.reset();
    }
    // The browser stored the cookies of this answer although the user has signed out.
    if (verdict === "stale" && local.transport === "cookie" && sent.intent !== local.intent) {
      this.clearLateCookies();
    }
    this.changed();
    this.#tellTabs(verdict);
    return verdict;
  }

  obey(error: ConnectError): Hint | undefined {
    const hint = hintOf(error, this.local.realm);
    if (hint?.clear && this.local.status !== "signedOut" && isCurrent(hint.session, this.local)) {
      this.end("server", hint.session || undefined);
    }
    return hint;
  }

  end(by: "signOut" | "server", session: string | undefined = this.local.session): void {
    this.local.end(by, session);
    if (this.local.transport === "header") {
      // Also when nothing was loaded yet: the store may hold tokens.
      this.#saved = undefined;
      this.keeper.save(undefined);
    }
    this.changed();
    this.#tellTabs("end");
  }

  /** Publishes the state and saves the tokens where they changed. */
  changed(): void {
    const { local } = this;
    if (local.tokens !== this.#saved) {
      this.#saved = local.tokens;
      this.keeper.save(local.tokens);
    }
    if (this.state !== this.#published) {
      this.#published = this.#state;
      notify(this.listeners, this.#published);
    }
  }

  clearLateCookies(): void {
    this.#signOuts.again();
  }

  /** @throws ConnectError when the server could not be told */
  signOut(options: SessionCallOptions): Promise<void> {
    return this.#signOuts.run(options, this.refresher.running);
  }

  close(): void {
    this.#tabs?.close();
  }

  #begin(found: ClientTokens | undefined): void {
    // A sign-in or sign-out while the store was loading is newer than what it held.
    if (this.local.status === "unknown") {
      if (found === undefined) {
        this.local.status = "signedOut";
      } else {
        this.local.restore(found);
        this.#saved = found;
      }
      this.changed();
    }
  }

  #tellTabs(verdict: Verdict | "none"): void {
    const news = this.#tabs && newsOf(this.local, verdict);
    if (news !== undefined) {
      this.#tabs?.tell(news);
    }
  }
}

function isSame(a: JsonObject | undefined, b: JsonObject | undefined): boolean {
  return a === b || JSON.stringify(a) === JSON.stringify(b);
}

function stateOf({ status, session, realm, claims }: LocalSession): SessionState {
  return Object.freeze({
    status,
    ...(session !== undefined && { sessionId: session }),
    ...(realm !== undefined && { realm }),
    ...(claims !== undefined && { claims }),
  });
}

function isOfRealm(tokens: ClientTokens | undefined, realm: string | undefined): boolean {
  return tokens !== undefined && (realm === undefined || tokens.realm === realm);
}
