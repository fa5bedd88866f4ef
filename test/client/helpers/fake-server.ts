import { Code, ConnectError, type ConnectRouter, type HandlerContext } from "@connectrpc/connect";
import { NotesService } from "../../../examples/gen/notes/v1/notes_pb.ts";
import { Action, Reason, RefreshHintSchema, Tokens } from "../../../gen/rpcsession/v1/hint_pb.ts";
import { SessionService } from "../../../gen/rpcsession/v1/service_pb.ts";
import { encodeNotice, header, type SessionNotice } from "../../../src/base/wire.ts";
import type { FakeClock } from "./clock.ts";

export const realm = "https://api.test";

/** A call that the server received. */
export interface Seen {
  readonly method: string;
  readonly header: Headers;
}

interface FakeSession {
  readonly id: string;
  readonly user: string;
  readonly transport: string;
  generation: number;
  claimsVersion: number;
  live: boolean;
}

interface Access {
  readonly session: FakeSession;
  readonly expiresAt: number;
  dead?: boolean;
}

/** A server that behaves like rpc-session on the wire, with switches for misbehaviour. */
export class FakeServer {
  readonly seen: Seen[] = [];
  readonly handled: string[] = [];
  readonly sessions: FakeSession[] = [];
  life = 900_000;
  /** The user of the next session. */
  user = "ada";
  /** The issuer, and the older ones that are still accepted. */
  realm: string = realm;
  olderRealms: readonly string[] = [];
  csrf: string | undefined;
  /** The error of every refresh, if set. */
  refreshError: ((session: string) => ConnectError) | undefined;
  /**
   * Promises that delay the response of a method after its decision. `Gate` delays the check of
   * AddNote's tokens instead.
   */
  hold: Partial<Record<"Refresh" | "SignIn" | "SignOut" | "AddNote" | "Gate", Promise<void>>> = {};
  /** Refuses every token, even new ones. */
  refuseAll = false;
  /** Runs before tokens are checked; refuses the call if it returns an error. */
  refuse: ((context: HandlerContext) => ConnectError | undefined) | undefined;
  /** Runs in every handler. */
  onHandler: ((context: HandlerContext) => void | Promise<void>) | undefined;
  /** Answers a refresh with the same generation and no refresh token, as within the overlap. */
  sameGeneration = false;
  /** Ends a stream with this error after its first message. */
  failAfterFirst: (() => ConnectError) | undefined;
  /** Omits the header that announces a hint. */
  noHintHeader = false;
  readonly #clock: FakeClock;
  readonly #access = new Map<string, Access>();

  constructor(clock: FakeClock) {
    this.#clock = clock;
  }

  count(method: string): number {
    return this.seen.filter((call) => call.method === method).length;
  }

  last(method: string): Headers {
    return this.seen.findLast((call) => call.method === method)?.header ?? new Headers();
  }

  /** Makes every access token issued so far unusable, as if it had expired. */
  expireAll(): void {
    for (const access of this.#access.values()) {
      access.dead = true;
    }
  }

  readonly gate = async (context: HandlerContext): Promise<void> => {
    this.seen.push({ method: context.method.name, header: new Headers(context.requestHeader) });
    if (context.method.name === "AddNote") {
      await this.hold.Gate;
    }
    const refused = this.refuse?.(context);
    if (refused) {
      throw refused;
    }
    if (context.service.typeName === SessionService.typeName || context.method.name === "SignIn") {
      return;
    }
    const access = this.#access.get(this.#tokenOf(context, "access") ?? "");
    const refresh = this.#tokenOf(context, "refresh");
    if (access === undefined && refresh === undefined) {
      throw this.hint(context, { action: Action.SIGN_IN, reason: Reason.SESSION_MISSING });
    }
    const session = access?.session ?? this.#sessionOf(refresh ?? "");
    if (session && !session.live) {
      throw this.over(context, session.id);
    }
    if (!access || access.dead || access.expiresAt <= this.#serverNow() || this.refuseAll) {
      throw this.hint(context, { action: Action.REFRESH, session: session?.id ?? "" });
    }
    // Tells a client which session its call belongs to, if it names another one.
    const known = context.requestHeader.get(header.session);
    if (known !== null && known !== access.session.id) {
      this.#tell(context, access);
    }
  };

  readonly routes = (router: ConnectRouter): void => {
    const failure = (): ConnectError | undefined => this.failAfterFirst?.();
    const handle = async (context: HandlerContext): Promise<void> => {
      this.handled.push(context.method.name);
      await this.onHandler?.(context);
      await this.hold[context.method.name as "AddNote"];
    };
    router.service(NotesService, {
      signIn: async (_req, context) => {
        await handle(context);
        this.create(context);
        return {};
      },
      signOut: async (_req, context) => {
        await handle(context);
        const session = this.#access.get(this.#tokenOf(context, "access") ?? "")?.session;
        if (session) {
          this.#end(context, session);
        }
        return {};
      },
      listNotes: async (_req, context) => {
        await handle(context);
        return { notes: [{ text: "a" }] };
      },
      addNote: async (_req, context) => {
        await handle(context);
        return {};
      },
      async *watchNotes(_req, context) {
        await handle(context);
        yield { note: { text: "a" } };
        const error = failure();
        if (error) {
          throw error;
        }
        yield { note: { text: "b" } };
      },
      importNotes: async (requests, context) => {
        await handle(context);
        let imported = 0;
        for await (const _ of requests) {
          imported += 1;
        }
        return { imported };
      },
      async *syncNotes(requests, context) {
        await handle(context);
        let number = 0;
        for await (const _ of requests) {
          number += 1;
          yield { number };
        }
      },
    });
    router.service(SessionService, {
      refresh: (req, context) => {
        const access = this.#access.get(this.#tokenOf(context, "access") ?? "");
        const isValid =
          access?.session.live &&
          !access.dead &&
          !this.refuseAll &&
          access.expiresAt > this.#serverNow();
        if (req.onlyIfNeeded && isValid) {
          return this.#current(context, access);
        }
        const hasCookies = context.requestHeader.get("cookie")?.includes("refresh=");
        if (req.onlyIfNeeded && !hasCookies && req.refreshToken === "" && !this.refreshError) {
          return this.#current(context, undefined);
        }
        return this.#refresh(req.refreshToken, context);
      },
      signOut: async (req, context) => {
        const token = req.refreshToken || this.#tokenOf(context, "refresh");
        const session =
          this.#sessionOf(token ?? "") ??
          this.#access.get(this.#tokenOf(context, "access") ?? "")?.session;
        await this.hold.SignOut;
        if (session) {
          this.#end(context, session);
        }
        return {};
      },
    });
  };

  /** Creates a session and writes its tokens into the response. */
  create(context: HandlerContext): FakeSession {
    const transport = context.requestHeader.get(header.transport) ?? "header";
    const id = `s${this.sessions.length + 1}`;
    const { user } = this;
    const session = { id, user, transport, generation: 1, claimsVersion: 1, live: true };
    this.sessions.push(session);
    this.write(context.responseHeader, session, "created");
    return session;
  }

  /** Issues an access token and writes it into the headers, with its notice. */
  write(headers: Headers, session: FakeSession, event: SessionNotice["event"]): void {
    const expiresAt = this.#serverNow() + this.life;
    const access = `at.${session.id}.${session.generation}.${this.#access.size}`;
    this.#access.set(access, { session, expiresAt });
    const refresh = `rt.${session.id}.${session.generation}`;
    const cookie = (name: string, value: string): void =>
      headers.append("set-cookie", `${name}=${value}`);
    if (session.transport === "cookie") {
      cookie("access", access);
      cookie("refresh", refresh);
      if (this.csrf) {
        headers.set(header.csrf, this.csrf);
      }
    } else {
      headers.set(header.accessToken, access);
      headers.set(header.refreshToken, refresh);
    }
    headers.set(header.session, this.notice(session, event, expiresAt));
  }

  notice(session: FakeSession, event: SessionNotice["event"], expiresAt = 0): string {
    const { id, user, generation, claimsVersion } = session;
    const expiresIn = Math.max(0, expiresAt - this.#serverNow());
    return encodeNotice({
      ...{ event, session: id, user, realm: this.realm, generation, claimsVersion, expiresIn },
      expiresAt: Math.floor(expiresAt / 1000),
      ...(this.olderRealms.length > 0 && { olderRealms: this.olderRealms }),
    });
  }

  /** Returns a refusal in the form that the gate writes. */
  hint(
    context: HandlerContext | undefined,
    fields: { action: number; reason?: Reason; tokens?: number; session?: string; realm?: string },
  ): ConnectError {
    const names: Record<number, string> = { 1: "refresh", 2: "sign-in", 3: "step-up" };
    if (!this.noHintHeader) {
      context?.responseHeader.set(header.hint, names[fields.action] ?? "");
    }
    const realms = { realm: this.realm, olderRealms: [...this.olderRealms] };
    const value = { tokens: Tokens.KEEP, ...realms, ...fields } as { action: Action };
    const details = [{ desc: RefreshHintSchema, value }];
    return new ConnectError("refused", Code.Unauthenticated, undefined, details);
  }

  /** Returns the refusal for a session that is over. */
  over(context: HandlerContext | undefined, session: string): ConnectError {
    const reason = Reason.SESSION_REVOKED;
    return this.hint(context, { action: Action.SIGN_IN, reason, tokens: Tokens.CLEAR, session });
  }

  async #refresh(presented: string, context: HandlerContext) {
    const token = presented || (this.#tokenOf(context, "refresh") ?? "");
    const session = this.#sessionOf(token);
    const error = this.refreshError?.(session?.id ?? "");
    if (error || !session) {
      await this.hold.Refresh;
      throw error ?? this.hint(context, { action: Action.SIGN_IN, reason: Reason.SESSION_MISSING });
    }
    if (!session.live) {
      throw this.over(context, session.id);
    }
    session.generation += this.sameGeneration ? 0 : 1;
    this.write(context.responseHeader, session, "refreshed");
    if (this.sameGeneration) {
      context.responseHeader.delete(header.refreshToken);
    }
    await this.hold.Refresh;
    return {};
  }

  /** Answers a refresh that is not needed. */
  async #current(context: HandlerContext, access: Access | undefined) {
    this.#tell(context, access);
    if (this.csrf && access) {
      context.responseHeader.set(header.csrf, this.csrf);
    }
    await this.hold.Refresh;
    return {};
  }

  #tell({ responseHeader }: HandlerContext, access: Access | undefined): void {
    const none = {
      id: "",
      user: "",
      generation: 0,
      claimsVersion: 0,
      transport: "cookie",
      live: false,
    };
    responseHeader.set(
      header.session,
      access ? this.notice(access.session, "current", access.expiresAt) : this.notice(none, "none"),
    );
  }

  #end(context: HandlerContext, session: FakeSession): void {
    session.live = false;
    context.responseHeader.set(header.session, this.notice(session, "ended"));
    if (session.transport === "cookie") {
      context.responseHeader.append("set-cookie", "access=");
      context.responseHeader.append("set-cookie", "refresh=");
    }
  }

  #sessionOf(refreshToken: string): FakeSession | undefined {
    return this.sessions.find((session) => refreshToken.startsWith(`rt.${session.id}.`));
  }

  #tokenOf(context: HandlerContext, name: "access" | "refresh"): string | undefined {
    const bearer = context.requestHeader.get("authorization")?.replace("Bearer ", "");
    const cookie = new RegExp(`${name}=([^; ]+)`).exec(context.requestHeader.get("cookie") ?? "");
    return cookie?.[1] ?? (name === "access" ? bearer : undefined);
  }

  /** One hour ahead of the clients, because they may use only differences of server times. */
  #serverNow(): number {
    return this.#clock.now() + 3_600_000;
  }
}
