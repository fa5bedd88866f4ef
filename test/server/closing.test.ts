import { Code, type ConnectRouter } from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { healthFallback, healthHandler } from "rpc-session/http";
import { memoryStore } from "rpc-session/stores/memory";
import { type TestSessions, testSessions } from "rpc-session/testing";
import { describe, expect, it } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { exchangeOf } from "../helpers/exchanges.ts";
import { listenForTest } from "../helpers/listen.ts";
import { issueOn } from "../helpers/refreshing.ts";
import { wireServer } from "../helpers/wire-server.ts";

const { addNote, listNotes, signIn } = NotesService.method;

/** A gate in a handler, which the test opens. */
function gate() {
  const { promise, resolve } = Promise.withResolvers<void>();
  return { reached: Promise.withResolvers<void>(), opened: promise, open: resolve };
}

function world() {
  const sessions = testSessions({ public: [signIn] });
  const inside = gate();
  const server = wireServer(
    sessions.protect({
      routes: (router: ConnectRouter) =>
        router.service(NotesService, {
          async signIn({ user }, ctx) {
            inside.reached.resolve();
            await inside.opened;
            await sessions.create(ctx, { userId: user });
            return {};
          },
          async addNote(_, ctx) {
            inside.reached.resolve();
            await inside.opened;
            await sessions.require(ctx).updateClaims({ role: "editor" });
            return {};
          },
          listNotes: () => ({}),
        }),
    }),
  );
  return { sessions, inside, server };
}

describe("feat:O10 close", () => {
  it("waits for the calls under way, and refuses new ones", async () => {
    const { sessions, inside, server } = world();
    const { access, id } = await issueOn(sessions, "header");
    const calls = [
      server.call(signIn, { user: "ada" }),
      server.call(addNote, {}, { bearer: access }),
    ];
    await inside.reached.promise;
    let isClosed = false;
    const closed = sessions.close().then(() => {
      isClosed = true;
    });
    expect(sessions.health().status).toBe("closed");
    const refused = await server.call(listNotes, {}, { bearer: access });
    expect(refused.error?.code).toBe(Code.Unavailable);
    expect(refused.error?.rawMessage).toMatch(/^the server is closing; try again/);
    expect(isClosed).toBe(false);
    inside.open();
    const [signedIn, added] = await Promise.all(calls);
    expect(signedIn?.error).toBeUndefined();
    expect(signedIn?.headers.has("rpcsession-access-token")).toBe(true);
    expect(added?.error).toBeUndefined();
    await closed;
    expect(id).toBeDefined();
  });

  it("waits for operations outside RPCs", async () => {
    const inner = memoryStore();
    const inside = gate();
    const sessions = testSessions({
      store: {
        ...inner,
        async insert(session) {
          inside.reached.resolve();
          await inside.opened;
          return inner.insert(session);
        },
      },
    });
    const issued = sessions.issue({ userId: "ada" });
    await inside.reached.promise;
    const closed = sessions.close();
    inside.open();
    await expect(issued).resolves.toMatchObject({ session: { userId: "ada" } });
    await closed;
    await expect(sessions.issue({ userId: "ada" })).rejects.toMatchObject({ kind: "unavailable" });
  });

  it("waits for the given time at most", async () => {
    const { sessions, inside, server } = world();
    await sessions.ready();
    const call = server.call(signIn, { user: "ada" });
    await inside.reached.promise;
    let isClosed = false;
    const closed = sessions.close({ within: "2s" }).then(() => {
      isClosed = true;
    });
    sessions.clock.advance("1999ms");
    await new Promise((resolve) => setImmediate(resolve));
    expect(isClosed).toBe(false);
    sessions.clock.advance("1ms");
    await closed;
    inside.open();
    expect((await call).error?.code).toBe(Code.Unavailable);
  });

  it("refuses a time that is none", async () => {
    const sessions = testSessions();
    await expect(sessions.close({ within: "soon" as never })).rejects.toThrow(/within/);
    await expect(sessions.getSession(exchangeOf({}), { required: false })).resolves.toBeUndefined();
  });
});

describe("feat:O11 the readiness of a server", () => {
  const statusOf = async (sessions: TestSessions) => {
    const response = await healthHandler(sessions)(new Request("https://x.example/ready"));
    return [response?.status, await response?.json()];
  };

  it("is 200 while it can check calls, and 503 before, without the change log, and while it closes", async () => {
    const inner = memoryStore();
    let isDown = false;
    const sessions = testSessions({
      store: {
        ...inner,
        changes: (...read) => (isDown ? Promise.reject(new Error("down")) : inner.changes(...read)),
      },
    });
    expect(await statusOf(sessions)).toEqual([503, { status: "closed", push: "disconnected" }]);
    await sessions.ready();
    expect(await statusOf(sessions)).toMatchObject([200, { status: "fresh" }]);
    isDown = true;
    sessions.clock.advance("1m");
    expect(await statusOf(sessions)).toMatchObject([503, { status: "stale" }]);
    const closed = sessions.close();
    expect(await statusOf(sessions)).toMatchObject([503, { status: "closed" }]);
    await closed;
  });

  it("is served beside RPCs, at the given path alone", async () => {
    const sessions = testSessions();
    await sessions.ready();
    const url = await listenForTest(
      connectNodeAdapter({
        routes: () => {},
        fallback: healthFallback(sessions, { path: "/healthz" }),
      }),
    );
    const [ready, head, other, post] = await Promise.all([
      fetch(`${url}/healthz`),
      fetch(`${url}/healthz`, { method: "HEAD" }),
      fetch(`${url}/ready`),
      fetch(`${url}/healthz`, { method: "POST" }),
    ]);
    expect([ready.status, head.status, other.status, post.status]).toEqual([200, 200, 404, 405]);
    expect(ready.headers.get("cache-control")).toBe("no-store");
    expect(() => healthHandler(sessions, { path: "ready" })).toThrow(/^path must begin with "\/"/);
  });
});
