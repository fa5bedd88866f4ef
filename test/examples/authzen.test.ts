import type { IncomingMessage, ServerResponse } from "node:http";
import { text } from "node:stream/consumers";
import { Code, ConnectError, type ConnectRouter, createClient } from "@connectrpc/connect";
import { connectNodeAdapter, createConnectTransport } from "@connectrpc/connect-node";
import type { SessionEvent } from "rpc-session";
import { testSessions } from "rpc-session/testing";
import { describe, expect, it } from "vitest";
import { authZen } from "../../examples/authzen/authorize.ts";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { PolicyViolationsSchema } from "../../gen/rpcsession/v1/hint_pb.ts";
import { listenForTest } from "../helpers/listen.ts";

/** A decision point of AuthZEN 1.0, over HTTP. */
async function startDecisionPoint() {
  const point = {
    asked: [] as unknown[],
    /** What it answers; undefined for nothing at all. */
    answer: { status: 200, body: '{"decision":true}' } as
      | { readonly status: number; readonly body: string }
      | undefined,
    /** Resolves when the connection of a question that gets no answer has ended. */
    givenUp: Promise.resolve() as Promise<unknown>,
    url: "",
  };
  point.url = await listenForTest(async (request: IncomingMessage, response: ServerResponse) => {
    const { method, url, headers } = request;
    const body = await text(request);
    if (method !== "POST" || url !== "/access/v1/evaluation") {
      response.writeHead(404).end();
      return;
    }
    if (headers["content-type"] !== "application/json") {
      response.writeHead(415).end();
      return;
    }
    point.asked.push(JSON.parse(body));
    if (point.answer === undefined) {
      point.givenUp = new Promise((resolve) => response.once("close", resolve));
      return;
    }
    response.writeHead(point.answer.status, { "content-type": "application/json" });
    response.end(point.answer.body);
  });
  return point;
}

async function serve() {
  const point = await startDecisionPoint();
  const events: SessionEvent[] = [];
  const sessions = testSessions({
    authorize: authZen(point.url),
    onEvent: (event) => void events.push(event),
  });
  const routes = (router: ConnectRouter) =>
    router.service(NotesService, { addNote: () => ({}), listNotes: () => ({}) });
  const options = sessions.protect({ routes, readMaxBytes: 1024 });
  const baseUrl = await listenForTest(connectNodeAdapter(options));
  const signIn = async (userId: string) => {
    const { session, tokens } = await sessions.issue({ userId });
    const transport = createConnectTransport({
      ...{ baseUrl, httpVersion: "1.1" },
      interceptors: [
        (next) => (request) => {
          request.header.set("authorization", `Bearer ${tokens.accessToken}`);
          return next(request);
        },
      ],
    });
    const { addNote, listNotes } = createClient(NotesService, transport);
    return { id: session.id, addNote: () => addNote({}), listNotes: () => listNotes({}) };
  };
  return { point, sessions, events, signIn };
}

async function errorOf(call: Promise<unknown>): Promise<ConnectError | undefined> {
  return call.then(
    () => undefined,
    (thrown: unknown) => ConnectError.from(thrown),
  );
}

describe("feat:L9 the example asks an AuthZEN decision point over HTTP", () => {
  it("feat:L9 who does what on what, once for a session, its claims and a procedure, for 30 seconds", async () => {
    const { point, sessions, signIn } = await serve();
    const alice = await signIn("alice");
    await Promise.all([alice.addNote(), alice.addNote(), alice.addNote()]);
    await alice.addNote();
    expect(point.asked).toEqual([
      {
        subject: { type: "user", id: "alice" },
        action: { name: "AddNote" },
        resource: { type: "service", id: "notes.v1.NotesService" },
      },
    ]);
    // Another procedure, and another session of the same user.
    await alice.listNotes();
    await (await signIn("alice")).addNote();
    expect(point.asked).toHaveLength(3);
    // The time is over.
    sessions.clock.advance("29s");
    await alice.addNote();
    expect(point.asked).toHaveLength(3);
    sessions.clock.advance("1s");
    await alice.addNote();
    expect(point.asked).toHaveLength(4);
    // The claims have changed.
    await sessions.updateClaims(alice.id, { role: "reader" });
    await alice.addNote();
    expect(point.asked).toHaveLength(5);
  });

  it.each<readonly [string, string]>([
    ['{"decision":false}', "the decision point does not permit it"],
    [
      '{"decision":false,"context":{"reason_user":{"en-403":"The project is archived."},"reason_admin":{"en":"rule 7 of the vault"}}}',
      "The project is archived.",
    ],
  ])("feat:L9 a denial reaches the client with its reason: %s", async (body, requirement) => {
    const { point, signIn } = await serve();
    point.answer = { status: 200, body };
    const error = await errorOf((await signIn("alice")).addNote());
    expect(error?.code).toBe(Code.PermissionDenied);
    expect(error?.findDetails(PolicyViolationsSchema)[0]?.violations).toMatchObject([
      { rule: "authorize", requirement },
    ]);
    expect(JSON.stringify(error?.details)).not.toContain("vault");
  });

  it.each<readonly [number, string]>([
    [500, "secret of the outage"],
    [401, '{"decision":true}'],
    [200, "<html>secret of the outage</html>"],
    [200, "{}"],
    [200, '{"decision":"true"}'],
  ])(
    "sec:A06 feat:L9 the answer %i %s is an outage: Unavailable, nothing kept",
    async (status, body) => {
      const { point, sessions, signIn } = await serve();
      point.answer = { status, body };
      const alice = await signIn("alice");
      const error = await errorOf(alice.addNote());
      expect(error?.code).toBe(Code.Unavailable);
      expect(error?.message).not.toContain("secret of the outage");
      point.answer = { status: 200, body: '{"decision":true}' };
      await alice.addNote();
      expect(await sessions.find(alice.id)).toBeDefined();
    },
  );

  it("feat:L9 no answer within a second is Unavailable, the question ends, and nobody is signed out", async () => {
    const { point, sessions, events, signIn } = await serve();
    const alice = await signIn("alice");
    point.answer = undefined;
    const waiting = errorOf(alice.addNote());
    await expect.poll(() => point.asked.length).toBe(1);
    sessions.clock.advance("1s");
    expect((await waiting)?.code).toBe(Code.Unavailable);
    await point.givenUp;
    expect(events.filter(({ type }) => type === "failed")).toHaveLength(1);
    expect(await sessions.find(alice.id)).toBeDefined();
  });
});
