import type { ConnectError } from "@connectrpc/connect";
import type { JsonObject } from "../../base/json.ts";
import type { NoticeEvent, SessionNotice, TokenTransport } from "../../base/wire.ts";
import { decodeNotice, header } from "../../base/wire.ts";
import {
  notify,
  type SessionClientEvent,
  type SessionState,
  type SignedOutBy,
  stateOf,
} from "../events.ts";
import type { ResolvedOptions } from "../options.ts";
import { type Credentials, credentialHeaders, refreshHeaders } from "./credentials.ts";
import { type Hint, hintOf } from "./hint.ts";
import { Lifetime } from "./lifetime.ts";
import {
  type AccessOrder,
  isCurrent,
  isNewer,
  judge,
  type KnownSession,
  type SentSnapshot,
  type SessionSnapshot,
  type Verdict,
} from "./notice-rule.ts";
import { channelName, judgeMessage, type TabMessage, Tabs } from "./tabs.ts";
import { type ClientTokens, type Loaded, TokenKeeper } from "./tokens.ts";

/** Called by {@link LocalSession} where a change concerns refreshes or sign-outs. */
interface SessionHooks {
  /** A notice has replaced or ended the session. */
  readonly onReplaced: () => void;
  /** A response from before the user signed out has set the session's cookies again. */
  readonly onLateCookies: () => void;
  /** The session may have changed unnoticed; a refresh finds out. */
  readonly onDoubt: () => void;
}

/**
 * The session as this client knows it. Everything that changes it goes through this class: notices
 * and hints of the server, the token store, other tabs, and the user's sign-out. Every change is
 * published: to subscribers, to the token store and to other tabs.
 */
export class LocalSession implements KnownSession, Credentials {
  // The facts of KnownSession and Credentials. Other objects read them; only this class writes them.
  readonly transport: TokenTransport;
  readonly isPinned: boolean;
  status: SessionState["status"] = "unknown";
  sessionId: string | undefined;
  realm: string | undefined;
  endedSessionId: string | undefined;
  order: AccessOrder | undefined;
  /** The tokens of a header session. */
  tokens: ClientTokens | undefined;
  /** The anti-CSRF token of a cookie session. */
  csrf: string | undefined;
  userId: string | undefined;
  claims: JsonObject | undefined;
  epoch = 0;
  intent = 0;
  version = 0;
  /** How long the access token is still valid. */
  readonly lifetime: Lifetime;

  readonly #options: ResolvedOptions;
  readonly #hooks: SessionHooks;
  readonly #keeper: TokenKeeper;
  readonly #tabs: Tabs | undefined;
  readonly #subscribers = new Set<(state: SessionState) => void>();
  #state: SessionState;
  /** The sign-ins and sign-outs since the state was published last. */
  #news: SessionClientEvent[] = [];
  /** The tokens that the store holds or is about to hold. */
  #saved: ClientTokens | undefined;
  #loading: Promise<Loaded> | undefined;

  constructor(options: ResolvedOptions, hooks: SessionHooks) {
    this.transport = options.tokens.transport;
    this.realm = options.realm;
    this.isPinned = options.realm !== undefined;
    this.#options = options;
    this.#hooks = hooks;
    this.lifetime = new Lifetime(options);
    this.#state = stateOf(this);
    this.#keeper = new TokenKeeper(options.tokens, {
      ...{ clock: options.clock, ms: options.refreshTimeoutMs },
      emit: (event) => this.emit(event),
    });
    // Tabs share a session only if they share its cookies.
    if (this.transport === "cookie" && !options.tokens.isAlone) {
      this.#tabs = new Tabs(channelName(options.realm), {
        onMessage: (message) => this.#follow(message),
        onRestored: () => this.#catchUp(),
      });
    }
    void this.ready();
  }

  /** The public state: the same object until something changes. */
  get state(): SessionState {
    return this.#state;
  }

  /** Calls `listener` with every new state. Returns a function that ends the subscription. */
  subscribe(listener: (state: SessionState) => void): () => void {
    // A new function, so that subscribing one listener twice makes two subscriptions.
    const own = (state: SessionState): void => listener(state);
    this.#subscribers.add(own);
    return () => {
      this.#subscribers.delete(own);
    };
  }

  emit(event: SessionClientEvent): void {
    notify(this.#options.onEvent, event);
  }

  /** Stops exchanging messages with other tabs. */
  close(): void {
    this.#tabs?.close();
  }

  // --- Reading ---------------------------------------------------------------------------------

  /**
   * Writes the credentials into the headers of a request. Send the request immediately afterwards.
   *
   * @param hasOwnToken whether the caller has set an `authorization` header, which stays
   * @returns the facts that the call must remember
   */
  attach(headers: Headers, hasOwnToken = false): SentSnapshot {
    // First, because a store that failed before may now return the tokens at once.
    void this.ready();
    // The application may reuse its headers, so remove the token of an earlier call.
    headers.delete(header.csrf);
    const credentials = hasOwnToken ? refreshHeaders(this) : credentialHeaders(this);
    for (const [name, value] of Object.entries(credentials)) {
      headers.set(name, value);
    }
    if (this.transport === "cookie" && !hasOwnToken) {
      // The server answers with a notice if the cookies hold another session than this client knows.
      headers.set(header.session, this.sessionId ?? this.status);
    }
    const { epoch, intent, version, isLoaded } = this;
    return { epoch, intent, version, wasLoaded: isLoaded };
  }

  // --- The token store -------------------------------------------------------------------------

  /** Whether the token store has been read. Cookies need no reading. */
  get isLoaded(): boolean {
    return this.transport === "cookie" || this.status !== "unknown";
  }

  /**
   * Loads the tokens if that is still to be done. Returns undefined if there is nothing to wait for.
   * The promise resolves to what the store held and never rejects; after a failure the next call
   * tries again.
   */
  ready(): Promise<Loaded> | undefined {
    if (this.#loading !== undefined || this.isLoaded) {
      return this.#loading;
    }
    const loaded = this.#keeper.load();
    if (loaded instanceof Promise) {
      this.#loading = loaded.then((later) => {
        this.#loading = undefined;
        return this.#start(later);
      });
      return this.#loading;
    }
    this.#start(loaded);
    return undefined;
  }

  /** Takes newer tokens of the same session that another client has put into the store. */
  async reload(): Promise<void> {
    const loaded = await this.#keeper.load();
    const tokens = loaded === "failed" ? undefined : loaded.tokens;
    if (
      tokens !== undefined &&
      tokens.session === this.sessionId &&
      (this.order === undefined || isNewer(tokens, this.order))
    ) {
      this.#restore(tokens);
    }
  }

  /** Resolves when the token store has saved everything. */
  saved(): Promise<void> {
    return this.#keeper.idle();
  }

  /** Starts with the tokens that the store held. Returns only those of the right realm. */
  #start(loaded: Loaded): Loaded {
    if (loaded === "failed") {
      return loaded;
    }
    const { realm } = this.#options;
    const isOwnRealm = realm === undefined || loaded.tokens?.realm === realm;
    const tokens = isOwnRealm ? loaded.tokens : undefined;
    // A sign-in or sign-out during the load is newer than the tokens in the store.
    if (this.status === "unknown") {
      if (tokens === undefined) {
        this.status = "signedOut";
      } else {
        this.#restore(tokens);
      }
      this.#publish();
    }
    return { tokens };
  }

  #restore(tokens: ClientTokens): void {
    this.realm = this.#options.realm ?? tokens.realm;
    this.status = "signedIn";
    this.sessionId = tokens.session;
    this.tokens = tokens;
    this.#show(tokens);
    this.#saved = tokens;
    // Only the client's own wall clock survives a restart. If it was set back, count the age as 0.
    const age = Math.max(0, this.#options.clock.now() - tokens.receivedAt);
    this.renewed(tokens, age);
  }

  // --- The server ------------------------------------------------------------------------------

  /**
   * Applies the notice in the headers of a response; see {@link judge}.
   *
   * @param sent the snapshot from when the call was sent
   * @param own whether the response answers this client's own refresh
   * @returns the event of the notice; undefined if there is none
   */
  receive(headers: Headers, sent: SessionSnapshot, own = false): NoticeEvent | "other" | undefined {
    // 1. Most responses carry no notice. They may still bring an anti-CSRF token, and the response
    //    to a refresh sets cookies in any case.
    const value = headers.get(header.session);
    const notice = value === null ? undefined : decodeNotice(value);
    if (notice === undefined) {
      if (sent.epoch === this.epoch && this.status !== "signedOut") {
        this.#takeCsrf(headers);
      }
      if (own) {
        this.#checkLateCookies(sent);
      }
      return undefined;
    }

    // 2. Decide, and apply the decision.
    let verdict = judge(notice, this, { sent, own });
    if (verdict === "adopt" || verdict === "renew") {
      verdict = this.#take(notice, headers, { verdict, own });
    } else if (verdict === "end") {
      this.#signedOut("server", notice.session);
    } else if (verdict === "missing") {
      this.lostCookies({ isMissing: true }, sent);
    } else if (verdict === "stale" || verdict === "foreign") {
      this.emit({ type: "answerDropped", sessionId: notice.session, why: verdict });
      this.#checkLateCookies(sent);
    }

    // 3. Inform the rest of the client.
    if (verdict === "adopt" || verdict === "end") {
      this.#hooks.onReplaced();
    }
    this.#publish();
    this.#tabs?.tell(verdict, this);
    const isOther = notice.event === "current" && notice.session !== this.sessionId;
    return isOther ? "other" : notice.event;
  }

  /**
   * Reads the notice and the hint of a refused call, and signs out if the hint declares this
   * client's session over.
   *
   * @param sent the snapshot from when the call was sent; omit it if the notice needs no reading
   */
  obey(error: ConnectError, sent?: SessionSnapshot): Hint | undefined {
    if (sent !== undefined) {
      this.receive(error.metadata, sent);
    }
    // The caller may log the error, so remove the tokens.
    for (const name of [header.accessToken, header.refreshToken, header.csrf]) {
      error.metadata.delete(name);
    }
    const hint = hintOf(error, this.realm);
    if (hint?.clear && this.status !== "signedOut" && isCurrent(hint.sessionId, this)) {
      this.end("server", hint.sessionId || undefined);
    }
    return hint;
  }

  /** Signs out locally and publishes it. */
  end(by: "signOut" | "server", sessionId: string | undefined = this.sessionId): void {
    this.#signedOut(by, sessionId);
    if (this.transport === "header") {
      // Even if nothing was loaded yet, because the store may hold tokens.
      this.#saved = undefined;
      this.#keeper.save(undefined);
    }
    this.#publish();
    this.#tabs?.tell("end", this);
  }

  /**
   * Records a renewed access token.
   *
   * @param token undefined if a refresh succeeded but its response was not readable
   * @param age how old the token is already, in milliseconds
   */
  renewed(token?: AccessOrder & { readonly expiresIn: number }, age = 0): void {
    this.version += 1;
    if (token === undefined) {
      this.lifetime.end();
    } else {
      this.#measure(token, age);
    }
  }

  #measure(token: AccessOrder & { readonly expiresIn: number }, age = 0): void {
    const { generation, claimsVersion, expiresAt, expiresIn } = token;
    this.order = { generation, claimsVersion, expiresAt };
    this.lifetime.start(expiresIn, age);
  }

  /** Applies a notice that comes with a token. Returns the verdict that was carried out. */
  #take(
    notice: SessionNotice,
    headers: Headers,
    { verdict, own }: { readonly verdict: "adopt" | "renew"; readonly own: boolean },
  ): Verdict {
    const accessToken = headers.get(header.accessToken);
    if (this.transport === "header" && accessToken === null) {
      this.emit({ type: "answerDropped", sessionId: notice.session, why: "unreadable" });
      return "ignore";
    }
    // The realm follows a change of the issuer only on a sign-in and on this client's own refresh.
    const mayMove = !this.isPinned && (notice.event === "created" || own);
    const realm = mayMove ? notice.realm : (this.realm ?? notice.realm);
    this.realm = realm;
    const keptRefreshToken = verdict === "renew" ? this.tokens?.refreshToken : undefined;
    // The cookies held this session already; the client only learns its id. That is not a sign-in, so
    // calls in flight stay valid.
    const isLearned = notice.event !== "created" && this.status === "unknown";
    if (isLearned) {
      this.status = "signedIn";
      this.sessionId = notice.session;
    } else if (verdict === "adopt") {
      this.intent += this.transport === "header" ? 1 : 0;
      this.#signedIn(notice.session, realm);
    }
    if (notice.event === "current") {
      // Not renewed: a call that was refused meanwhile still has to refresh.
      this.#measure(notice);
    } else {
      this.renewed(notice);
    }
    this.#show(notice);
    this.#takeCsrf(headers);
    if (this.transport === "header" && accessToken !== null) {
      const { event: _event, olderRealms: _older, ...facts } = notice;
      this.tokens = {
        ...facts,
        realm,
        accessToken,
        refreshToken: headers.get(header.refreshToken) ?? keptRefreshToken,
        receivedAt: this.#options.clock.now(),
      };
    }
    return isLearned ? "renew" : verdict;
  }

  /** Reacts if the user signed out after the call was sent: the browser has stored its cookies anyway. */
  #checkLateCookies(sent: SessionSnapshot): void {
    if (this.transport === "cookie" && sent.intent !== this.intent) {
      this.#hooks.onLateCookies();
    }
  }

  #takeCsrf(headers: Headers): void {
    if (this.transport === "cookie") {
      this.csrf = headers.get(header.csrf) ?? this.csrf;
    }
  }

  // --- Other tabs ------------------------------------------------------------------------------

  /** Follows a change that another tab made; see {@link judgeMessage}. */
  #follow(message: TabMessage): void {
    const verdict = judgeMessage(message, this);
    if (verdict === "signOut") {
      this.#signedOut("otherTab", message.session);
    } else if (verdict === "ask") {
      this.#ask(message.type === "signedIn");
    } else if (verdict === "follow" && message.type === "refreshed") {
      this.status = "signedIn";
      this.sessionId = message.session;
      this.renewed({ ...message.order, expiresIn: message.expiresIn });
      this.#show(message);
    } else if (verdict === "follow" && message.type === "signedIn") {
      this.#signedIn(message.session, message.realm);
      this.renewed();
      this.#show(message);
    }
    this.#publish();
  }

  /** After the page was frozen: another tab may have signed in or out meanwhile. */
  #catchUp(): void {
    this.#ask(this.status === "signedOut");
    this.#publish();
  }

  /** @param isUnknown whether nothing is known until the service has answered */
  #ask(isUnknown: boolean): void {
    if (isUnknown) {
      this.#withoutSession("unknown");
    }
    this.#hooks.onDoubt();
  }

  /**
   * Reads the response to this client's own sign-out. It names the session, which a client that has
   * just loaded its page did not know. Such a client tells the other tabs only now.
   */
  signedOutOnServer(headers: Headers): void {
    const notice = decodeNotice(headers.get(header.session));
    const session = notice?.event === "ended" ? notice.session : this.endedSessionId;
    if (!this.endedSessionId || session !== this.endedSessionId) {
      this.endedSessionId = session ?? "";
      this.#tabs?.send({
        type: "signedOut",
        ...(session && { session }),
        ...(notice && { realm: notice.realm }),
      });
    }
  }

  /**
   * Reads that a call carried no session cookie: there is no session. Returns whether this client was
   * signed in. The browser then did not keep the cookies, or they were deleted.
   */
  lostCookies(hint: Pick<Hint, "isMissing"> | undefined, sent: SessionSnapshot): boolean {
    const { sessionId, status, transport } = this;
    const isMissing = hint?.isMissing && transport === "cookie" && sent.epoch === this.epoch;
    if (!isMissing || status === "signedOut") {
      return false;
    }
    if (sessionId === undefined) {
      this.endedSessionId ??= "";
      this.#signedOut("server");
      this.#publish();
      return false;
    }
    this.emit({ type: "cookiesMissing", sessionId });
    this.end("server");
    return true;
  }

  // --- Changes ---------------------------------------------------------------------------------

  /** A different session is the current one from now on. */
  #signedIn(sessionId: string, realm: string): void {
    this.epoch += 1;
    this.status = "signedIn";
    this.sessionId = sessionId;
    this.#dropContents();
    this.#news.push({ type: "signedIn", sessionId, realm });
  }

  /** There is no session from now on. */
  #signedOut(by: SignedOutBy, sessionId: string | undefined = this.sessionId): void {
    this.intent += by === "signOut" ? 1 : 0;
    this.endedSessionId = sessionId ?? this.endedSessionId;
    if (this.status !== "signedOut") {
      this.#news.push({ type: "signedOut", sessionId, by });
    }
    this.#withoutSession("signedOut");
  }

  /** Unknown: another tab signed in, perhaps to this service, so the cookies may hold a session again. */
  #withoutSession(status: "signedOut" | "unknown"): void {
    this.epoch += 1;
    this.status = status;
    this.sessionId = undefined;
    this.#dropContents();
    this.order = undefined;
    this.lifetime.end();
  }

  /** Drops everything that belongs to one session and must not pass to the next. */
  #dropContents(): void {
    this.tokens = undefined;
    this.csrf = undefined;
    this.#show({});
  }

  /** Takes what the service shows of its session. */
  #show({ user, claims }: Partial<Pick<ClientTokens, "user" | "claims">>): void {
    this.userId = user;
    this.claims = claims;
  }

  /**
   * Saves the tokens and publishes the state, each only if it has changed. Listeners may use the
   * session at once, so this comes after every change.
   */
  #publish(): void {
    if (this.tokens !== this.#saved) {
      this.#saved = this.tokens;
      this.#keeper.save(this.tokens);
    }
    const state = stateOf(this);
    if (JSON.stringify(state) !== JSON.stringify(this.#state)) {
      this.#state = state;
      for (const subscriber of this.#subscribers) {
        notify(subscriber, state);
      }
    }
    for (const event of this.#news.splice(0)) {
      this.emit(event);
    }
  }
}
