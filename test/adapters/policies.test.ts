// Every policy has the same effect behind every adapter and in every protocol.
import type { ConnectRouter } from "@connectrpc/connect";
import { type TestSessions, testSessions } from "rpc-session/testing";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { callWire } from "../helpers/wire.ts";
import { adapters, type Running } from "./adapters.ts";

const { listNotes, addNote, signIn, signOut, watchNotes } = NotesService.method;
const prefix = "notes.v1.NotesService";

const methods = {
  [`${prefix}/AddNote`]: { auth: "none" },
  [`${prefix}/SignIn`]: { auth: "optional" },
  [`${prefix}/SignOut`]: { claims: { role: ["admin"] } },
  [`${prefix}/WatchNotes`]: { freshWithin: "5m" },
} as const;

const [yes, signInFirst, denied] = ["ok", "unauthenticated", "permission_denied"];
/** What each caller gets; the columns are the callers. */
const expected = [
  {
    policy: "none of its own",
    method: listNotes,
    codes: [signInFirst, yes, yes, yes, signInFirst],
  },
  { policy: "none", method: addNote, codes: [yes, yes, yes, yes, yes] },
  { policy: "optional", method: signIn, codes: [yes, yes, yes, yes, signInFirst] },
  { policy: "claims", method: signOut, codes: [signInFirst, denied, yes, denied, signInFirst] },
  { policy: "fresh", method: watchNotes, codes: [signInFirst, yes, yes, denied, signInFirst] },
] as const;
const callers = ["nobody", "a reader", "an admin", "a reader of old", "a user who signed out"];

describe.each(adapters)("$name", (adapter) => {
  let sessions: TestSessions;
  let server: Running;
  /** The header of each caller. */
  let headers: readonly Record<string, string>[];
  let handled = 0;

  const count = (): Record<string, never> => {
    handled += 1;
    return {};
  };
  const routes = (router: ConnectRouter): void => {
    const unary = { listNotes: count, addNote: count, signIn: count, signOut: count };
    router.service(NotesService, {
      ...unary,
      async *watchNotes() {
        yield count();
      },
    });
  };

  beforeAll(async () => {
    sessions = testSessions({ methods });
    server = await adapter.start(sessions, routes);
    const issue = async (role: string) => {
      const { session, tokens } = await sessions.issue({ userId: "alice", claims: { role } });
      return { session, header: { authorization: `Bearer ${tokens.accessToken}` } };
    };
    const old = await issue("reader");
    sessions.clock.advance("6m");
    const [reader, admin, over] = [
      await issue("reader"),
      await issue("admin"),
      await issue("admin"),
    ];
    await over.session.revoke();
    headers = [{}, reader.header, admin.header, old.header, over.header];
  });
  afterAll(async () => {
    await server.close();
    await sessions.close();
  });

  it.each(adapter.protocols)("feat:K5 policies admit the same callers: %s", async (protocol) => {
    for (const { policy, method, codes } of expected) {
      handled = 0;
      const found: string[] = [];
      for (const header of headers) {
        const wire = { protocol, http: adapter.http };
        const { code } = await callWire(server, wire, { method, messages: [{}], headers: header });
        found.push(code);
      }
      const shown = (list: readonly string[]) => list.map((code, i) => `${callers[i]}: ${code}`);
      expect([policy, ...shown(found)]).toEqual([policy, ...shown(codes)]);
      expect(handled).toBe(codes.filter((code) => code === "ok").length);
    }
  });
});
