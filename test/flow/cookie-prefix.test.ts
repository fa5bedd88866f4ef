// The default names move from `__Host-` to `__Host-Http-`, and back, while sessions go on.
import { Code, ConnectError } from "@connectrpc/connect";
import { memoryStore } from "rpc-session/stores/memory";
import { createFakeClock, type TestSessions } from "rpc-session/testing";
import { verifySessions } from "rpc-session/verify";
import type { CookieJar } from "tough-cookie";
import { describe, expect, onTestFinished, test } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { SessionService } from "../../gen/rpcsession/v1/service_pb.ts";
import { callFromPage, newJar } from "../helpers/jar.ts";
import { sameOrigin } from "../helpers/presented.ts";
import { startNotes, type TestSessionsOptions } from "../helpers/server.ts";
import { callWire, type WireCall } from "../helpers/wire.ts";

const issuer = "https://api.test.example";
const { signIn, addNote } = NotesService.method;
const { refresh, signOut } = SessionService.method;

type Cookies = NonNullable<TestSessionsOptions["cookies"]>;

const httpOnly = ["__Host-Http-rpcsession-access", "__Host-Http-rpcsession-refresh"];
const plain = ["__Host-rpcsession-access", "__Host-rpcsession-refresh"];

/** What version 0.1 writes and reads. */
const earlier: Cookies = { prefix: "host", otherPrefix: "ignore" };

/** Servers of one service, which share their store and clock. */
function service() {
  const shared = { issuer, store: memoryStore(), clock: createFakeClock() };
  const start = async (
    cookies: Cookies,
    { adapt }: { readonly adapt?: (sessions: TestSessions) => object } = {},
  ) => {
    const server = await startNotes({
      sessions: { ...shared, cookies },
      ...(adapt && {
        adapt: (sessions, routes) => ({ ...sessions.protect({ routes }), ...adapt(sessions) }),
      }),
    });
    onTestFinished(() => server.close());
    return {
      server,
      call: (jar: CookieJar, method: WireCall["method"]) =>
        callFromPage(server, { jar, issuer }, method),
    };
  };
  return { clock: shared.clock, start };
}

type Running = Awaited<ReturnType<ReturnType<typeof service>["start"]>>;

async function namesIn(jar: CookieJar): Promise<string[]> {
  return (await jar.getCookies(`${issuer}/`)).map(({ key }) => key).sort();
}

/** Sets the cookies of another session, as a script of the page may. */
async function plant(
  { server }: Running,
  jar: CookieJar,
  [access = "", refreshName = ""]: readonly string[] = plain,
): Promise<void> {
  const { tokens } = await server.sessions.issue({ userId: "mallory", transport: "cookie" });
  await jar.setCookie(`${access}=${tokens.accessToken}; Secure; Path=/`, issuer);
  await jar.setCookie(`${refreshName}=${tokens.refreshToken}; Secure; Path=/`, issuer);
}

async function whoIs({ server }: Running, jar: CookieJar): Promise<string | undefined> {
  const requestHeader = new Headers({ ...sameOrigin, cookie: await jar.getCookieString(issuer) });
  const exchange = { requestHeader, responseHeader: new Headers(), requestMethod: "POST" };
  return (await server.sessions.getSession(exchange, { required: false }))?.userId;
}

describe("feat:I9 the prefix of the default names changes", () => {
  const changes: readonly (readonly [string, Cookies, Cookies, readonly string[]])[] = [
    ["from __Host- to __Host-Http-", earlier, {}, httpOnly],
    ["from __Host-Http- to __Host-", {}, { prefix: "host" }, plain],
  ];

  test.each(changes)(
    "feat:I9 %s: sessions go on, and a refresh moves both cookies in one answer",
    async (_, before, after, names) => {
      const { clock, start } = service();
      const old = await start(before);
      const jar = newJar();
      await old.call(jar, signIn);
      const former = await namesIn(jar);
      expect(former).not.toEqual(names);

      const now = await start(after);
      expect((await now.call(jar, addNote)).code).toBe("ok");
      expect(now.server.seen.cookie).toBeNull();
      expect(await namesIn(jar)).toEqual(former);
      clock.advance("16m");
      expect((await now.call(jar, addNote)).code).toBe("unauthenticated");
      expect((await now.call(jar, refresh)).code).toBe("ok");
      expect(await namesIn(jar)).toEqual(names);
      for (let round = 0; round < 3; round++) {
        expect((await now.call(jar, addNote)).code).toBe("ok");
        clock.advance("16m");
        const moved = await now.call(jar, refresh);
        // Nothing is left to expire, so answers are as short as before.
        expect(moved.setCookie.filter((cookie) => cookie.includes("Max-Age=0"))).toEqual([]);
      }
      expect((await now.call(jar, signOut)).code).toBe("ok");
      expect(await namesIn(jar)).toEqual([]);
    },
  );

  test.each(changes)(
    "feat:I9 %s: a sign-in ends the former session and leaves one pair of cookies",
    async (_, before, after, names) => {
      const { start } = service();
      const old = await start(before);
      const jar = newJar();
      await old.call(jar, signIn);
      const now = await start(after);
      expect((await now.call(jar, signIn)).code).toBe("ok");
      expect(await namesIn(jar)).toEqual(names);
      const { sessions } = await now.server.sessions.list({ userId: "alice" });
      expect(sessions).toHaveLength(1);
    },
  );

  test.each(changes)(
    "feat:I9 %s: a sign-out expires both pairs and ends the session",
    async (_, before, after) => {
      const { start } = service();
      const old = await start(before);
      const jar = newJar();
      await old.call(jar, signIn);
      const now = await start(after);
      expect((await now.call(jar, signOut)).code).toBe("ok");
      expect(await namesIn(jar)).toEqual([]);
      expect((await now.server.sessions.list({ userId: "alice" })).sessions).toEqual([]);
    },
  );

  test("feat:I9 new claims move the access cookie alone, and the refresh cookie moves later", async () => {
    const { clock, start } = service();
    const old = await start(earlier);
    const jar = newJar();
    await old.call(jar, signIn);
    const now = await start({});
    const [session] = (await now.server.sessions.list({ userId: "alice" })).sessions;
    await now.server.sessions.updateClaims(session?.id ?? "", { role: "admin" });
    expect((await now.call(jar, addNote)).code).toBe("ok");
    expect(await namesIn(jar)).toEqual([httpOnly[0], plain[1]]);
    expect((await now.call(jar, addNote)).code).toBe("ok");
    clock.advance("16m");
    expect((await now.call(jar, refresh)).code).toBe("ok");
    expect(await namesIn(jar)).toEqual(httpOnly);
    expect((await now.call(jar, addNote)).code).toBe("ok");
  });

  test("feat:I9 an answer that takes the new tokens back leaves the former cookies in place", async () => {
    const { clock, start } = service();
    const old = await start(earlier);
    const jar = newJar();
    await old.call(jar, signIn);
    let fails = true;
    const failing = await start(
      {},
      {
        adapt: (sessions) => ({
          interceptors: [
            sessions.interceptor,
            (next: (request: never) => Promise<unknown>) => async (request: never) => {
              const answer = await next(request);
              if (fails) {
                throw new ConnectError("this user is banned", Code.PermissionDenied);
              }
              return answer;
            },
          ],
        }),
      },
    );
    clock.advance("16m");
    const refused = await failing.call(jar, refresh);
    expect([refused.code, refused.setCookie]).toEqual(["permission_denied", []]);
    expect(await namesIn(jar)).toEqual(plain);
    fails = false;
    expect((await failing.call(jar, refresh)).code).toBe("ok");
    expect(await namesIn(jar)).toEqual(httpOnly);
  });

  test("feat:I9 a service that only verifies reads both names", async () => {
    const { clock, start } = service();
    const old = await start(earlier);
    const jar = newJar();
    await old.call(jar, signIn);
    const verifying = verifySessions({ issuer, clock, jwks: await old.server.sessions.jwks() });
    const read = async () =>
      (
        await verifying.getSession({
          requestHeader: new Headers({ ...sameOrigin, cookie: await jar.getCookieString(issuer) }),
          responseHeader: new Headers(),
          requestMethod: "POST",
        })
      ).userId;
    expect(await read()).toBe("alice");
    const now = await start({});
    await now.call(jar, refresh);
    expect(await namesIn(jar)).toEqual(httpOnly);
    expect(await read()).toBe("alice");
  });

  test('feat:I9 with otherPrefix: "ignore", cookies under the other names are not read', async () => {
    const { start } = service();
    const old = await start(earlier);
    const jar = newJar();
    await old.call(jar, signIn);
    const now = await start({ otherPrefix: "ignore" });
    const refused = await now.call(jar, addNote);
    expect([refused.code, refused.setCookie]).toEqual(["unauthenticated", []]);
  });
});

describe("feat:I9 servers of two releases serve one browser in turn", () => {
  /** Uses the servers in turn for some hours, and counts the calls that were refused. */
  async function inTurn(
    jar: CookieJar,
    clock: ReturnType<typeof createFakeClock>,
    servers: readonly Running[],
  ): Promise<number> {
    let refused = 0;
    const count = async (work: ReturnType<Running["call"]>) => {
      refused += (await work).code === "ok" ? 0 : 1;
    };
    for (let round = 0; round < 12; round++) {
      for (const one of servers) {
        await count(one.call(jar, addNote));
      }
      clock.advance("16m");
      await count((servers[round % servers.length] as Running).call(jar, refresh));
    }
    return refused;
  }

  test('feat:I9 with prefix: "host" on the new servers, version 0.1 beside them refuses nothing', async () => {
    const { clock, start } = service();
    const jar = newJar();
    const servers = [await start(earlier), await start({ prefix: "host" })];
    await servers[1]?.call(jar, signIn);
    expect(await inTurn(jar, clock, servers)).toBe(0);
    expect(await namesIn(jar)).toEqual(plain);
  });

  test("feat:I9 while the option is removed server by server, nobody is signed out", async () => {
    const { clock, start } = service();
    const jar = newJar();
    const servers = [await start({}), await start({ prefix: "host" })];
    await servers[0]?.call(jar, signIn);
    expect(await inTurn(jar, clock, servers)).toBe(0);
    expect(await namesIn(jar)).toHaveLength(2);
  });

  test("feat:I9 without the option, a browser that has moved is signed out at version 0.1 only, and loses no cookie", async () => {
    const { clock, start } = service();
    const jar = newJar();
    const [old, now] = [await start(earlier), await start({})];
    await now.call(jar, signIn);
    const refused = await old.call(jar, addNote);
    expect([refused.code, refused.setCookie]).toEqual(["unauthenticated", []]);
    expect((await old.call(jar, refresh)).setCookie).toEqual([]);
    clock.advance("16m");
    expect((await now.call(jar, refresh)).code).toBe("ok");
    expect((await now.call(jar, addNote)).code).toBe("ok");
  });
});

describe("sec:C28 a script in the page plants cookies under __Host- beside those under __Host-Http-", () => {
  async function victim() {
    const { clock, start } = service();
    const running = await start({});
    const jar = newJar();
    await running.call(jar, signIn);
    return { clock, running, jar };
  }

  test("sec:C28 those of another session neither win nor lock the user out, and are expired", async () => {
    const { clock, running, jar } = await victim();
    await plant(running, jar);
    expect(await namesIn(jar)).toHaveLength(4);
    expect(await whoIs(running, jar)).toBe("alice");
    expect((await running.call(jar, addNote)).code).toBe("ok");
    // The planted access token is still valid when that of the user has expired.
    clock.advance("16m");
    await plant(running, jar);
    expect((await running.call(jar, addNote)).code).toBe("unauthenticated");
    expect((await running.call(jar, refresh)).code).toBe("ok");
    expect(await whoIs(running, jar)).toBe("alice");
    expect(await namesIn(jar)).toEqual(httpOnly);
  });

  test("sec:C28 a refresh that answers with the present refresh token expires them too", async () => {
    const { running, jar } = await victim();
    await plant(running, jar);
    expect((await running.call(jar, refresh)).code).toBe("ok");
    expect(await namesIn(jar)).toEqual(httpOnly);
    expect(await whoIs(running, jar)).toBe("alice");
  });

  test("sec:C28 junk and any number of copies change nothing", async () => {
    const { running, jar } = await victim();
    const copies = plain.flatMap((name) =>
      Array.from({ length: 20 }, (_, n) => `${name}=junk${n}`),
    );
    const cookie = [...copies, await jar.getCookieString(issuer)].join("; ");
    for (const method of [addNote, refresh]) {
      const result = await callWire(
        running.server,
        { protocol: "connect-json", http: "h1" },
        { method, messages: [{}], headers: { ...sameOrigin, cookie } },
      );
      expect(result.code).toBe("ok");
    }
    expect(running.server.seen.cookie).toBeNull();
  });

  test("sec:C28 a sign-out expires them with the others", async () => {
    const { running, jar } = await victim();
    await plant(running, jar);
    await running.call(jar, signOut);
    expect(await namesIn(jar)).toEqual([]);
  });

  test("sec:C28 the cookies of another service under these names stay", async () => {
    const { running, jar } = await victim();
    const other = await startNotes({ sessions: { issuer: "https://other.example" } });
    onTestFinished(() => other.close());
    const { tokens } = await other.sessions.issue({ userId: "bob", transport: "cookie" });
    await jar.setCookie(`${plain[0]}=${tokens.accessToken}; Secure; Path=/`, issuer);
    await jar.setCookie(`${plain[1]}=${tokens.refreshToken}; Secure; Path=/`, issuer);
    expect((await running.call(jar, refresh)).code).toBe("ok");
    expect(await whoIs(running, jar)).toBe("alice");
    await running.call(jar, signOut);
    expect(await namesIn(jar)).toEqual(plain);
  });
});
