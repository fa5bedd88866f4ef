import type { HandlerContext } from "@connectrpc/connect";
import { type TestSessions, testSessions } from "rpc-session/testing";
import { describe, expect, it } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { decodeNotice } from "../../src/base/wire.ts";
import { accessOf, payloadOf } from "../helpers/api.ts";
import { clearsCookies, cookieEffects } from "../helpers/exchanges.ts";
import { issueOn } from "../helpers/refreshing.ts";
import { wireServer } from "../helpers/wire-server.ts";

type Work = (sessions: TestSessions, context: HandlerContext) => unknown;

/** A call whose token is reissued before its handler runs, with the interceptor alone. */
async function callWithOldClaims(transport: "cookie" | "header", work: Work) {
  const sessions = testSessions();
  const server = wireServer({
    interceptors: [sessions.interceptor],
    routes: (router) =>
      router.service(NotesService, {
        async addNote(_, context) {
          await work(sessions, context);
          return {};
        },
        async *watchNotes(_, context) {
          await work(sessions, context);
          yield {};
        },
      }),
  });
  const { id, access, refresh } = await issueOn(sessions, transport);
  await sessions.updateClaims(id, { role: "admin" });
  const presented = transport === "cookie" ? { access, refresh } : { bearer: access };
  const { addNote, watchNotes } = NotesService.method;
  const answers = [
    await server.call(addNote, {}, presented),
    await server.stream(watchNotes, {}, presented),
  ];
  return answers.map(({ headers, error }) => ({
    id,
    error,
    headers,
    notice: decodeNotice(headers.get("rpcsession-session")),
  }));
}

describe("with the interceptor alone, a token that was reissued before the handler ran", () => {
  it.each(["cookie", "header"] as const)("reaches the client, by %s", async (transport) => {
    for (const work of [() => {}, (sessions, context) => sessions.require(context)] as Work[]) {
      for (const { id, notice, headers } of await callWithOldClaims(transport, work)) {
        expect(notice).toMatchObject({ event: "reissued", session: id, claimsVersion: 1 });
        expect(payloadOf(accessOf({ headers }))).toMatchObject({ sid: id, role: "admin" });
        expect(headers.get("cache-control")).toBe("no-store");
      }
    }
  });

  it.each(["cookie", "header"] as const)("is replaced by a sign-in, by %s", async (transport) => {
    const [unary] = await callWithOldClaims(transport, (sessions, context) =>
      sessions.create(context, { userId: "bob" }),
    );
    expect(unary?.notice?.event).toBe("created");
    expect(unary?.notice?.session).not.toBe(unary?.id);
    // A browser keeps the last cookie of a name.
    const { headers = new Headers() } = unary ?? {};
    expect(payloadOf(accessOf({ headers }))).toMatchObject({
      sub: "bob",
      sid: unary?.notice?.session,
    });
    expect(cookieEffects(headers)).toEqual(
      transport === "cookie" ? ["access set", "refresh set"] : [],
    );
  });

  it.each(["cookie", "header"] as const)(
    "is removed with its session, by %s",
    async (transport) => {
      const [unary] = await callWithOldClaims(transport, (sessions, context) =>
        sessions.require(context).revoke(),
      );
      expect(unary?.notice).toMatchObject({ event: "ended", session: unary?.id });
      const { headers = new Headers() } = unary ?? {};
      expect(accessOf({ headers })).toBeUndefined();
      expect(cookieEffects(headers)).toEqual(transport === "cookie" ? clearsCookies : []);
    },
  );

  it("is replaced by newer claims", async () => {
    const [unary] = await callWithOldClaims("header", (sessions, context) =>
      sessions.require(context).updateClaims({ role: "owner" }),
    );
    expect(unary?.notice).toMatchObject({ event: "reissued", claimsVersion: 2 });
    expect(payloadOf(accessOf({ headers: unary?.headers ?? new Headers() }))).toMatchObject({
      role: "owner",
    });
  });
});
