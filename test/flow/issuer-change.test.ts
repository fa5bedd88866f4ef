import { createClient, createRouterTransport } from "@connectrpc/connect";
import { createSessionClient } from "rpc-session/client";
import { memoryStore } from "rpc-session/stores/memory";
import { createFakeClock, testSessions } from "rpc-session/testing";
import { describe, expect, it, onTestFinished } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { notesApp } from "../helpers/notes.ts";

const older = "https://old.example";
const issuer = "https://new.example";

/** A service that starts under one issuer and goes on under another, and its client. */
async function renamed(olderIssuers: readonly string[], realm?: string) {
  const store = memoryStore();
  const clock = createFakeClock();
  const serve = (options: object) => {
    const sessions = testSessions({
      ...{ store, clock, secret: "a secret of at least thirty-two characters" },
      public: [NotesService.method.signIn],
      ...options,
    } as Parameters<typeof testSessions>[0]);
    onTestFinished(() => sessions.close());
    return sessions.protect({ routes: notesApp(sessions).routes });
  };
  let served = serve({ issuer: older });
  const session = createSessionClient({
    clock,
    ...(realm !== undefined && { realm }),
    transport: (parts) => {
      const current = () => {
        const { routes, ...router } = served;
        return createRouterTransport(routes, { router, transport: parts });
      };
      void parts.interceptors;
      return {
        unary: (...call) => current().unary(...call),
        stream: (...call) => current().stream(...call),
      };
    },
  });
  const notes = createClient(NotesService, session.transport);
  await notes.signIn({ user: "ada" });
  const { sessionId } = session.state;
  served = serve({ issuer, olderIssuers });
  return { clock, session, notes, sessionId };
}

describe("the client of a service whose issuer changes", () => {
  it("keeps its session while the service accepts the older issuer", async () => {
    const { clock, session, notes, sessionId } = await renamed([older]);
    await notes.listNotes({});
    expect(session.state).toMatchObject({ sessionId, realm: older });
    clock.advance("15m");
    await notes.listNotes({});
    expect(session.state).toMatchObject({ sessionId, realm: issuer });
  });

  it("keeps its session with a pinned realm while the service accepts it", async () => {
    const { clock, session, notes, sessionId } = await renamed([older], older);
    for (let round = 0; round < 3; round++) {
      clock.advance("15m");
      await notes.listNotes({});
      expect(session.state).toMatchObject({ sessionId, realm: older });
    }
  });

  it("can sign in again if the service does not accept the older issuer", async () => {
    const { clock, session, notes, sessionId } = await renamed([]);
    clock.advance("15m");
    await expect(notes.listNotes({})).rejects.toThrow();
    await notes.signIn({ user: "ada" });
    expect(session.state).toMatchObject({ status: "signedIn", realm: issuer });
    expect(session.state.sessionId).not.toBe(sessionId);
    await notes.listNotes({});
  });
});
