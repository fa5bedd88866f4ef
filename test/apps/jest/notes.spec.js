/** @jest-environment ./environment.js */
import { createClient, createRouterTransport } from "@connectrpc/connect";
import { expect, test } from "@jest/globals";
import { createSessionClient, memoryTokens } from "rpc-session/client";
import { testSessions } from "rpc-session/testing";
import { NotesService } from "./gen/notes/v1/notes_pb.js";

const sessions = testSessions({ public: [NotesService.method.signIn] });
const { routes, ...router } = sessions.protect({
  routes: (r) =>
    r.service(NotesService, {
      async signIn({ user }, ctx) {
        await sessions.create(ctx, { userId: user });
        return {};
      },
      listNotes: (_request, ctx) => ({ notes: [{ text: sessions.require(ctx).userId }] }),
    }),
});

test("a component reads notes before and after the access token expires", async () => {
  const session = createSessionClient({
    transport: ({ interceptors }) =>
      createRouterTransport(routes, { router, transport: { interceptors } }),
    clock: sessions.clock,
    tokens: memoryTokens(), // a router has no cookies
  });
  const notes = createClient(NotesService, session.transport);
  await expect(notes.listNotes({})).rejects.toThrow("sign in first");
  await notes.signIn({ user: "ada" });
  document.body.textContent = (await notes.listNotes({})).notes[0].text;
  expect(document.body.textContent).toBe("ada");
  sessions.clock.advance("20m");
  expect((await notes.listNotes({})).notes).toHaveLength(1);
  await session.signOut();
  expect(session.state.status).toBe("signedOut");
});
