import type { HandlerContext } from "@connectrpc/connect";
import { decodeJwt } from "jose";
import type { TestSessions } from "rpc-session/testing";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { SessionService } from "../../gen/rpcsession/v1/service_pb.ts";
import { decodeNotice, type SessionNotice } from "../../src/base/wire.ts";
import { cookieValue, type Presented } from "./exchanges.ts";
import { type WireAnswer, type WireServer, wireServer } from "./wire-server.ts";

const { signIn, addNote, watchNotes } = NotesService.method;

/** The work of a handler. */
type Work<T> = (context: HandlerContext) => T | Promise<T>;

/** A response, and the result of the handler if it ran to its end. */
export interface ApiAnswer<T> extends WireAnswer<unknown> {
  readonly result: T | undefined;
  readonly notice: SessionNotice | undefined;
}

/** A service whose handlers run code of the test, in one call or in many at once. */
export interface Api {
  readonly server: WireServer;
  /** Calls a method that needs no session. */
  open<T>(presented: Presented, work: Work<T>): Promise<ApiAnswer<T>>;
  /** Calls a method that needs a session. */
  call<T>(presented: Presented, work: Work<T>): Promise<ApiAnswer<T>>;
  /** Calls SessionService.Refresh with the refresh token of a session. */
  refresh(transport: "cookie" | "header", refresh: string): Promise<ApiAnswer<undefined>>;
  /** Calls a server-streaming method: work, one message, more work, another message. */
  stream<T>(presented: Presented, work: Work<T>, later?: Work<unknown>): Promise<ApiAnswer<T>>;
}

/** @param sessions with `public: [NotesService.method.signIn]` */
export function apiOf<C extends object, G extends object>(sessions: TestSessions<C, G>): Api {
  const works = new Map<string, { now: Work<unknown>; later: Work<unknown> }>();
  let last = 0;
  const workOf = (context: HandlerContext) => {
    const work = works.get(context.requestHeader.get("x-work") ?? "");
    if (work === undefined) {
      throw new Error("the test did not pass any work to the handler");
    }
    return work;
  };
  const server = wireServer(
    sessions.protect({
      readMaxBytes: 2 ** 20,
      routes: (router) =>
        router.service(NotesService, {
          async signIn(_, context) {
            await workOf(context).now(context);
            return {};
          },
          async addNote(_, context) {
            await workOf(context).now(context);
            return {};
          },
          async *watchNotes(_, context) {
            const { now, later } = workOf(context);
            await now(context);
            yield {};
            await later(context);
            yield {};
          },
        }),
    }),
  );
  const run = async <T>(
    presented: Presented,
    { work, later = () => {} }: { readonly work: Work<T>; readonly later?: Work<unknown> },
    send: (presented: Presented) => Promise<WireAnswer<unknown>>,
  ): Promise<ApiAnswer<T>> => {
    const name = String(++last);
    let result: T | undefined;
    const now: Work<unknown> = async (context) => {
      result = await work(context);
    };
    works.set(name, { now, later });
    const answer = await send({ ...presented, headers: { ...presented.headers, "x-work": name } });
    works.delete(name);
    return { ...answer, result, notice: noticeOf(answer) };
  };
  return {
    server,
    open: (presented, work) => run(presented, { work }, (p) => server.call(signIn, {}, p)),
    call: (presented, work) => run(presented, { work }, (p) => server.call(addNote, {}, p)),
    refresh: async (transport, refresh) => {
      const cookie = transport === "cookie";
      const answer = await server.call(
        SessionService.method.refresh,
        { refreshToken: cookie ? "" : refresh },
        cookie ? { refresh } : {},
      );
      return { ...answer, result: undefined, notice: noticeOf(answer) };
    },
    stream: (presented, work, later = () => {}) =>
      run(presented, { work, later }, (p) => server.stream(watchNotes, {}, p)),
  };
}

function noticeOf({ headers }: { readonly headers: Headers }): SessionNotice | undefined {
  return decodeNotice(headers.get("rpcsession-session"));
}

/** Returns the access token that a response writes, with either transport. */
export function accessOf({ headers }: { readonly headers: Headers }): string | undefined {
  return headers.get("rpcsession-access-token") ?? cookieValue(headers, "access");
}

/** Returns the refresh token that a response writes, with either transport. */
export function refreshOf({ headers }: { readonly headers: Headers }): string | undefined {
  return headers.get("rpcsession-refresh-token") ?? cookieValue(headers, "refresh");
}

/** Decodes an access token without verifying it. */
export function payloadOf(token: string | undefined) {
  return decodeJwt<{
    readonly sid: string;
    readonly gen: number;
    readonly cv: number;
    readonly exp: number;
    readonly iat: number;
    readonly auth_time: number;
    readonly session_exp: number;
    readonly tid?: string;
    readonly [claim: string]: unknown;
  }>(token ?? "");
}

/** Returns a request that presents an access token with a transport. */
export function presentedBy(transport: "cookie" | "header", access: string): Presented {
  return transport === "cookie" ? { access } : { bearer: access };
}
