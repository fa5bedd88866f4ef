// Calls whose caller has set an `authorization` header: they are made for another principal.
import { Code, createClient, createRouterTransport } from "@connectrpc/connect";
import { describe, expect, it } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { Action } from "../../gen/rpcsession/v1/hint_pb.ts";
import { header } from "../../src/base/wire.ts";
import { withRefresh } from "../../src/client/index.ts";
import { type Setup, setup, signedIn, transports, withJar } from "./helpers/setup.ts";

const own = { headers: { authorization: "Bearer key-1" } };

describe.each(transports)("a call with the caller's own authorization header, %s mode", (via) => {
  const clients: Record<string, (made: Setup) => Setup["notes"]> = {
    "on session.transport": ({ notes }) => notes,
    "with withRefresh around it": ({ notes, session }) => withRefresh(notes, session),
    "with withRefresh around a plain client": ({ server, jar, session }) => {
      const options = {
        router: { requestGate: server.gate },
        transport: { interceptors: [withJar(jar)] },
      };
      const plain = createRouterTransport(server.routes, options);
      return withRefresh(createClient(NotesService, plain), session);
    },
  };

  it.each(Object.keys(clients))(
    "feat:P15 keeps the header, and names no session of ours, %s",
    async (name) => {
      const made = await signedIn(via);
      const { server } = made;
      server.refuse = () => undefined;
      const notes = clients[name]?.(made);
      await notes?.addNote({}, own).catch(() => {});
      expect(server.last("AddNote").get("authorization")).toBe("Bearer key-1");
      expect(server.last("AddNote").has(header.session)).toBe(false);
      await notes?.addNote({});
      const token = server.last("AddNote").get("authorization");
      expect(token?.startsWith("Bearer at.s1") ?? false).toBe(via === "header");
    },
  );

  it.each(Object.keys(clients))(
    "feat:P15 is neither refreshed nor sent again, %s",
    async (name) => {
      const made = await signedIn(via);
      const { server, session } = made;
      const notes = clients[name]?.(made);
      server.refuse = (context) => server.hint(context, { action: Action.REFRESH, session: "s1" });
      await expect(notes?.addNote({}, own)).rejects.toMatchObject({ code: Code.Unauthenticated });
      server.refuse = (context) => server.over(context, "s1");
      await expect(notes?.addNote({}, own)).rejects.toMatchObject({ code: Code.Unauthenticated });
      const stream = notes?.watchNotes({}, own)[Symbol.asyncIterator]();
      await expect(stream?.next()).rejects.toMatchObject({ code: Code.Unauthenticated });
      expect([
        server.count("AddNote"),
        server.count("WatchNotes"),
        server.count("Refresh"),
      ]).toEqual([...[2, 1, 0]]);
      expect(session.state).toMatchObject({ status: "signedIn", sessionId: "s1" });
    },
  );

  it("feat:P15 does not wait for a refresh of ours that is due", async () => {
    const { server, notes, clock } = await signedIn(via);
    server.refuse = () => undefined;
    clock.advance(10_000_000);
    await notes.addNote({}, own).catch(() => {});
    expect(server.count("Refresh")).toBe(0);
  });

  it("feat:P15 may sign in, with the token of an identity provider", async () => {
    const { notes, session } = setup(via);
    await notes.signIn({}, own);
    expect(session.state).toMatchObject({ status: "signedIn", sessionId: "s1" });
  });
});
