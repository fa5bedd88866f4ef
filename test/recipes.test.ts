import { Code, ConnectError, createClient, createRouterTransport } from "@connectrpc/connect";
import { createSessionClient } from "rpc-session/client";
import { signedIn, testSessions } from "rpc-session/testing";
import { expect, it } from "vitest";
import { AuthService } from "./gen/auth/v1/auth_pb.ts";

// What docs/recipes.md promises, on the service that its recipes are written for.

it("a sign-in with an OAuth code replaces the session that came with the request", async () => {
  await using world = newWorld();
  const { sessions, newClient } = world;
  const { auth, session } = newClient();
  await auth.completeSignIn({ code: "ada", codeVerifier: "v" });
  const first = session.state.sessionId ?? "";
  await auth.completeSignIn({ code: "ada", codeVerifier: "v" });

  expect(session.state).toMatchObject({ status: "signedIn" });
  expect(session.state.sessionId).not.toBe(first);
  expect(await sessions.find(first)).toBeUndefined();
  expect((await sessions.list({ userId: "ada" })).sessions).toHaveLength(1);
});

it("a password reset ends every session of the user, and no session of other users", async () => {
  await using world = newWorld();
  const { newClient } = world;
  const [laptop, phone, other] = [newClient(), newClient(), newClient()];
  await laptop.auth.completeSignIn({ code: "ada", codeVerifier: "v" });
  await phone.auth.completeSignIn({ code: "ada", codeVerifier: "v" });
  await other.auth.completeSignIn({ code: "bob", codeVerifier: "v" });
  await newClient().auth.resetPassword({ token: "ada", password: "new" });

  for (const { auth, session } of [laptop, phone]) {
    expect(await codeOf(auth.deleteAccount({}))).toBe(Code.Unauthenticated);
    expect(session.state.status).toBe("signedOut");
  }
  expect(await codeOf(other.auth.deleteAccount({}))).toBeUndefined();
});

it("a sign-in revokes its new session if the password changed during the sign-in", async () => {
  await using world = newWorld({ passwordChangesDuringSignIn: true });
  const { auth, session } = world.newClient();
  await auth.completeSignIn({ code: "ada", codeVerifier: "v" });

  expect(session.state.status).not.toBe("signedIn");
  expect((await world.sessions.list({ userId: "ada" })).sessions).toEqual([]);
});

it("deleting an account ends its sessions and erases their private data at once", async () => {
  await using world = newWorld();
  const { sessions, newClient } = world;
  const { session: open } = await sessions.issue({ userId: "ada", data: { cart: [1] } });
  const { auth, session } = newClient();
  await auth.completeSignIn({ code: "ada", codeVerifier: "v" });
  await auth.deleteAccount({});

  expect(world.emptied).toContain(open.id);
  expect(session.state.status).toBe("signedOut");
  expect((await sessions.list({ userId: "ada" })).sessions).toEqual([]);
});

it("deleting an account requires a recent sign-in", async () => {
  await using world = newWorld();
  const { sessions, router } = world;
  const interceptor = await signedIn(sessions, { userId: "ada" });
  const transport = { interceptors: [interceptor] };
  const { routes, ...options } = router;
  const auth = createClient(
    AuthService,
    createRouterTransport(routes, { router: options, transport }),
  );
  sessions.clock.advance("11m");
  expect(await codeOf(auth.deleteAccount({}))).toBe(Code.PermissionDenied);
});

function newWorld({ passwordChangesDuringSignIn = false } = {}) {
  const sessions = testSessions();
  const emptied: string[] = [];
  const router = sessions.protect({
    routes: (router) =>
      router.service(AuthService, {
        async completeSignIn({ code }, ctx) {
          const session = await sessions.create(ctx, { userId: code });
          if (passwordChangesDuringSignIn) {
            await session.revoke();
          }
          return {};
        },
        async resetPassword({ token }) {
          await sessions.revokeAll({ userId: token });
          return {};
        },
        async deleteAccount(_request, ctx) {
          const session = sessions.require(ctx);
          const { userId } = session;
          let pageToken: string | undefined;
          do {
            const page = await sessions.list({ userId, ...(pageToken && { pageToken }) });
            for (const { id } of page.sessions) {
              const data = await sessions.updateData(id, () => ({}));
              if (data !== undefined && Object.keys(data).length === 0) {
                emptied.push(id);
              }
            }
            pageToken = page.nextPageToken;
          } while (pageToken !== undefined);
          await session.revoke();
          await sessions.revokeAll({ userId });
          return {};
        },
      }),
  });
  const newClient = () => {
    const { routes, ...options } = router;
    const session = createSessionClient({
      clock: sessions.clock,
      transport: (transport) => createRouterTransport(routes, { router: options, transport }),
    });
    return { session, auth: createClient(AuthService, session.transport) };
  };
  return {
    sessions,
    router,
    emptied,
    newClient,
    [Symbol.asyncDispose]: () => sessions.close(),
  };
}

/** The code of a call that fails; undefined for one that succeeds. */
async function codeOf(call: Promise<unknown>): Promise<Code | undefined> {
  return call.then(
    () => undefined,
    (error) => ConnectError.from(error).code,
  );
}
