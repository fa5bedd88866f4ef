import {
  Code,
  ConnectError,
  type ConnectRouter,
  createClient,
  createRouterTransport,
} from "@connectrpc/connect";
import type { AuthorizeOptions, Decision } from "rpc-session";
import { signedIn, type TestSessionsOptions, testSessions } from "rpc-session/testing";
import { describe, expect, it } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { PolicyViolationsSchema } from "../../gen/rpcsession/v1/hint_pb.ts";
import { wireServer } from "../helpers/wire-server.ts";

const { addNote, listNotes } = NotesService.method;

function serve(authorize: Partial<AuthorizeOptions> = {}, more: TestSessionsOptions = {}) {
  const asked: string[] = [];
  const point = { decision: "allow" as Decision, answers: Promise.resolve() as Promise<unknown> };
  const sessions = testSessions({
    authorize: {
      async decide({ userId }, procedure) {
        asked.push(`${userId} ${procedure}`);
        await point.answers;
        return point.decision;
      },
      ...authorize,
    },
    ...more,
  });
  const routes = (router: ConnectRouter) => {
    router.service(NotesService, {
      addNote: () => ({}),
      listNotes: () => ({}),
      async *syncNotes(messages) {
        for await (const _message of messages) {
          yield {};
        }
      },
    });
  };
  const server = wireServer(sessions.protect({ routes }));
  const signIn = async () => (await sessions.issue({ userId: "alice" })).tokens.accessToken;
  return { sessions, server, routes, signIn, point, asked };
}

describe("feat:L9 a decision point elsewhere", () => {
  it("feat:L9 is asked once for a session, its claims and a procedure, for a stated time", async () => {
    const { sessions, server, signIn, asked } = serve({ cacheFor: "30s" });
    const bearer = await signIn();
    const call = async (method: typeof addNote | typeof listNotes = addNote) =>
      (await server.call(method as typeof addNote, {}, { bearer })).error;
    await Promise.all([call(), call(), call()]);
    expect(await call()).toBeUndefined();
    expect(asked).toEqual(["alice notes.v1.NotesService/AddNote"]);
    expect(await call(listNotes)).toBeUndefined();
    expect(asked).toHaveLength(2);
    sessions.clock.advance("30s");
    expect(await call()).toBeUndefined();
    expect(asked).toHaveLength(3);
    const [session] = (await sessions.list({ userId: "alice" })).sessions;
    await sessions.updateClaims(session?.id ?? "", { role: "x" });
    expect(await call()).toBeUndefined();
    expect(asked).toHaveLength(4);
  });

  it("feat:L9 refuses with its reason, also from what is kept", async () => {
    const { server, signIn, point, asked } = serve();
    point.decision = { deny: "the project is archived" };
    const bearer = await signIn();
    for (let i = 0; i < 2; i++) {
      const { error } = await server.call(addNote, {}, { bearer });
      expect(error?.code).toBe(Code.PermissionDenied);
      expect(error?.findDetails(PolicyViolationsSchema)[0]?.violations).toMatchObject([
        { rule: "authorize", requirement: "the project is archived" },
      ]);
    }
    expect(asked).toHaveLength(1);
  });

  it("sec:A06 feat:L9 that fails or is late makes the call Unavailable, and is asked again", async () => {
    let isDown = true;
    const { server, signIn } = serve({
      async decide() {
        if (isDown) {
          throw new Error("secret of the outage");
        }
        return "allow";
      },
    });
    const bearer = await signIn();
    const { error, body } = await server.call(addNote, {}, { bearer });
    expect(error?.code).toBe(Code.Unavailable);
    expect(body).not.toContain("secret of the outage");
    isDown = false;
    expect((await server.call(addNote, {}, { bearer })).error).toBeUndefined();

    const late = serve();
    late.point.answers = new Promise(() => {});
    const token = await late.signIn();
    const waiting = late.server.call(addNote, {}, { bearer: token });
    await expect.poll(() => late.asked).toHaveLength(1);
    late.sessions.clock.advance("1s");
    expect((await waiting).error?.code).toBe(Code.Unavailable);
  });

  it.each([true, false, undefined, {}, { allow: true }])(
    "sec:A06 feat:L9 that says %j does not allow the call",
    async (said) => {
      const { server, signIn } = serve({ decide: async () => said as never });
      const { error } = await server.call(addNote, {}, { bearer: await signIn() });
      expect(error?.code).toBe(Code.Internal);
    },
  );

  it("feat:L9 may read every message, and is not asked where there is no session", async () => {
    const texts: unknown[] = [];
    const { sessions, server, routes } = serve(
      {
        readsRequest: true,
        async decide(_session, _procedure, { request }) {
          const text = (request as unknown as { note?: { text: string } }).note?.text;
          texts.push(text);
          return text === "secret" ? { deny: "secrets stay" } : "allow";
        },
      },
      { public: [listNotes] },
    );
    expect((await server.call(listNotes, {}, {})).error).toBeUndefined();
    const { routes: guarded, ...router } = sessions.protect({ routes });
    const interceptors = [await signedIn(sessions, { userId: "alice" })];
    const transport = createRouterTransport(guarded, { router, transport: { interceptors } });
    const client = createClient(NotesService, transport);
    await client.addNote({ note: { text: "milk" } });
    async function* notes() {
      for (const text of ["milk", "secret", "tea"]) {
        yield { note: { text } };
      }
    }
    let answers = 0;
    const run = async () => {
      for await (const _answer of client.syncNotes(notes())) {
        answers += 1;
      }
    };
    const error = ConnectError.from(await run().catch((thrown: unknown) => thrown));
    expect(error.code).toBe(Code.PermissionDenied);
    expect(answers).toBe(1);
    expect(texts).toEqual(["milk", "milk", "secret"]);
  });

  it.each<readonly [object, string]>([
    [{}, "must have a function decide"],
    [{ decide: () => {}, readsRequest: true, cacheFor: "1s" }, "cannot be kept"],
    [{ decide: () => {}, cacheFor: "1h" }, "cacheFor"],
    [{ decide: () => {}, within: "1h" }, "within"],
    [{ decide: () => {}, ttl: "1s" }, "ttl"],
  ])("feat:L9 %j is refused at the start", (authorize, message) => {
    expect(() => testSessions({ authorize: authorize as never })).toThrow(message);
  });
});
