import { createClient, createRouterTransport } from "@connectrpc/connect";
import { createSessions } from "rpc-session";
import { createSessionClient } from "rpc-session/client";
import { memoryStore } from "rpc-session/stores/memory";
import { describe, expect, it } from "vitest";
import { z } from "zod";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";

const Role = z.enum(["admin", "user"]);

describe("feat:L7 claims in the client", () => {
  it("are the typed claims that clientClaims returns, available after sign-in", async () => {
    const { session, notes, plan } = setup({ role: Role });
    expect(session.claims).toBeUndefined();
    await notes.signIn({ user: "alice" });
    const role: "admin" | "user" | undefined = session.claims?.role;
    expect(role).toBe("admin");
    expect(session.claims).toEqual({ role: "admin" });
    expect(plan()).toBe("gold");
  });

  it("follow changes, notify subscribers, and are undefined after sign-out", async () => {
    const { session, notes } = setup({ role: Role });
    await notes.signIn({ user: "alice" });
    const told: unknown[] = [];
    session.subscribe(() => told.push(session.claims));
    await notes.addNote({});
    expect(session.claims).toEqual({ role: "user" });
    await session.signOut();
    expect(session.claims).toBeUndefined();
    expect(told).toEqual([{ role: "user" }, undefined]);
  });

  it("are undefined if they do not match the client's schema", async () => {
    const { session, notes } = setup({ role: z.literal("owner") });
    await notes.signIn({ user: "alice" });
    expect(session.state.claims).toEqual({ role: "admin" });
    expect(session.claims).toBeUndefined();
  });
});

/** A service whose users are admins until they add a note, and a client of it. */
function setup<Shape extends z.ZodRawShape>(expected: Shape) {
  const sessions = createSessions({
    issuer: "https://test.example",
    store: memoryStore(),
    public: [NotesService.method.signIn],
    claims: z.object({ role: Role, plan: z.string() }),
    clientClaims: ({ role }) => ({ role }),
  });
  let plan: string | undefined;
  const { routes, ...router } = sessions.protect({
    routes: (r) =>
      r.service(NotesService, {
        async signIn({ user }, context) {
          const claims = { role: "admin", plan: "gold" } as const;
          plan = (await sessions.create(context, { userId: user, claims })).claims.plan;
          return {};
        },
        async addNote(_request, context) {
          await sessions.require(context).updateClaims({ role: "user" });
          return {};
        },
      }),
  });
  const session = createSessionClient({
    claims: z.object(expected),
    transport: ({ interceptors }) =>
      createRouterTransport(routes, { router, transport: { interceptors } }),
  });
  const notes = createClient(NotesService, session.transport);
  return { session, notes, plan: () => plan };
}
