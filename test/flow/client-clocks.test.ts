import { createClient, createRouterTransport } from "@connectrpc/connect";
import type { Duration } from "rpc-session";
import { createSessionClient } from "rpc-session/client";
import { createFakeClock, testSessions } from "rpc-session/testing";
import { describe, expect, it } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { notesApp } from "../helpers/notes.ts";

describe("feat:P7 a client whose clock is wrong", () => {
  it.each([
    ["decades slow", Date.UTC(1990, 0, 1)],
    ["decades fast", Date.UTC(2090, 0, 1)],
  ])("refreshes on time, and not before: %s", async (_, start) => {
    const { notes, session, clock, refreshes, pass } = await signedInAt(start);
    pass("11m");
    await notes.listNotes({});
    expect(refreshes()).toBe(0);
    clock.setNow(start - 86_400_000);
    await notes.listNotes({});
    expect(refreshes()).toBe(0);
    pass("5m");
    await notes.listNotes({});
    expect(refreshes()).toBe(1);
    // A clock that was set ahead looks like a machine that slept, and costs one refresh.
    clock.setNow(start + 86_400_000);
    await notes.listNotes({});
    expect(refreshes()).toBe(2);
    pass("11m");
    await notes.listNotes({});
    expect(refreshes()).toBe(2);
    expect(session.state.status).toBe("signedIn");
  });
});

async function signedInAt(start: number) {
  let refused = 0;
  let refreshed = 0;
  const sessions = testSessions({
    public: [NotesService.method.signIn],
    onEvent: ({ type }) => {
      refreshed += type === "refreshed" ? 1 : 0;
    },
  });
  const { routes, ...router } = sessions.protect({ routes: notesApp(sessions).routes });
  const clock = createFakeClock(start);
  const session = createSessionClient({
    clock,
    transport: ({ interceptors }) =>
      createRouterTransport(routes, {
        router,
        transport: {
          interceptors: [
            ...interceptors,
            (next) => (request) =>
              next(request).catch((error: unknown) => {
                refused++;
                throw error;
              }),
          ],
        },
      }),
  });
  const notes = createClient(NotesService, session.transport);
  await notes.signIn({ user: "alice" });
  return {
    ...{ notes, session, clock },
    /** Returns the number of refreshes. Checks that no call was refused, which would mean a late refresh. */
    refreshes: () => {
      expect(refused).toBe(0);
      return refreshed;
    },
    pass: (span: Duration) => {
      clock.advance(span);
      sessions.clock.advance(span);
    },
  };
}
