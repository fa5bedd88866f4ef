// Cookies without `__Host-`: other names, domains of several hosts, and cookies planted by siblings.

import { connectNodeAdapter } from "@connectrpc/connect-node";
import { memoryStore } from "rpc-session/stores/memory";
import { createFakeClock, testSessions } from "rpc-session/testing";
import { verifySessions } from "rpc-session/verify";
import type { CookieJar } from "tough-cookie";
import { describe, expect, onTestFinished, test } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { SessionService } from "../../gen/rpcsession/v1/service_pb.ts";
import { callFromPage, newJar } from "../helpers/jar.ts";
import { listenForTest } from "../helpers/listen.ts";
import { notesApp } from "../helpers/notes.ts";
import { sameOrigin } from "../helpers/presented.ts";
import { type NotesServer, startNotes, type TestSessionsOptions } from "../helpers/server.ts";
import type { WireCall, WireResult } from "../helpers/wire.ts";

const issuer = "https://api.test.example";
const names = { access: "__Secure-rpcsession-access", refresh: "__Secure-rpcsession-refresh" };
const { signIn, addNote } = NotesService.method;
const { refresh, signOut } = SessionService.method;

async function inJar(jar: CookieJar) {
  const cookies = await jar.getCookies(`${issuer}/`);
  return cookies
    .map(({ key, domain, hostOnly }) => `${key} of ${hostOnly ? "the host" : domain}`)
    .sort();
}

/** A server, and calls to it from one of its own pages with the cookies of the jar. */
async function serve(cookies: NonNullable<TestSessionsOptions["cookies"]>, shared = {}) {
  const server = await startNotes({ sessions: { issuer, cookies, ...shared } });
  onTestFinished(() => server.close());
  return {
    server,
    call: (jar: CookieJar, method: WireCall["method"]) => call(server, jar, method),
  };
}

function call(
  server: NotesServer,
  jar: CookieJar,
  method: WireCall["method"],
): Promise<WireResult> {
  return callFromPage(server, { jar, issuer }, method);
}

test("feat:I5 custom names: a session works from sign-in to sign-out, and handlers do not see its cookies", async () => {
  const own = { access: "__Host-app-a", refresh: "__Host-app-r" };
  const { server, call } = await serve({ names: own });
  const jar = newJar();
  expect((await call(jar, signIn)).code).toBe("ok");
  expect(await inJar(jar)).toEqual(["__Host-app-a of the host", "__Host-app-r of the host"]);
  expect((await call(jar, addNote)).code).toBe("ok");
  expect(server.seen.cookie).toBeNull();
  server.sessions.clock.advance("16m");
  expect((await call(jar, addNote)).code).toBe("unauthenticated");
  expect((await call(jar, refresh)).code).toBe("ok");
  expect((await call(jar, addNote)).code).toBe("ok");
  expect((await call(jar, signOut)).code).toBe("ok");
  expect(await inJar(jar)).toEqual([]);
});

test("feat:I2 a domain: all its hosts receive the cookies, and one sign-out removes them from all", async () => {
  const { call } = await serve({ domain: "test.example" });
  const jar = newJar();
  await call(jar, signIn);
  expect(await inJar(jar)).toEqual([
    `${names.access} of test.example`,
    `${names.refresh} of test.example`,
  ]);
  expect(await jar.getCookieString("https://app.test.example/")).toContain(names.access);
  expect(await jar.getCookieString("https://other.example/")).toBe("");
  await call(jar, signOut);
  expect(await jar.getCookieString("https://app.test.example/")).toBe("");
});

test("feat:I2 a domain: a verify-only service on another host reads the cookies", async () => {
  const cookies = { domain: "test.example" };
  const { server, call } = await serve(cookies);
  const jar = newJar();
  await call(jar, signIn);
  const verifying = verifySessions({
    ...{ issuer, cookies, clock: server.sessions.clock },
    jwks: await server.sessions.jwks(),
  });
  const cookie = await jar.getCookieString("https://notes.test.example/");
  const exchange = {
    requestHeader: new Headers({ ...sameOrigin, cookie }),
    responseHeader: new Headers(),
    requestMethod: "POST",
  };
  expect((await verifying.getSession(exchange)).userId).toBe("alice");
});

test("feat:I2 a path: only requests under it receive the cookies", async () => {
  const sessions = testSessions({
    ...{ issuer, cookies: { path: "/api" } },
    public: [signIn],
  });
  const { routes } = notesApp(sessions);
  const handler = connectNodeAdapter(sessions.protect({ routes, requestPathPrefix: "/api" }));
  const base = await listenForTest(handler);
  onTestFinished(() => sessions.close());
  const jar = newJar();
  const post = async (method: string, body: object): Promise<number> => {
    const path = `/api/${method}`;
    const cookie = await jar.getCookieString(`${issuer}${path}`);
    const response = await fetch(`${base}${path}`, {
      method: "POST",
      headers: { "content-type": "application/json", ...sameOrigin, cookie },
      body: JSON.stringify(body),
    });
    for (const one of response.headers.getSetCookie()) {
      await jar.setCookie(one, `${issuer}${path}`);
    }
    return response.status;
  };
  expect(await post("notes.v1.NotesService/SignIn", { user: "alice" })).toBe(200);
  expect(await jar.getCookieString(`${issuer}/shop`)).toBe("");
  sessions.clock.advance("16m");
  expect(await post("rpcsession.v1.SessionService/Refresh", {})).toBe(200);
  expect(await post("notes.v1.NotesService/AddNote", {})).toBe(200);
  expect(await post("rpcsession.v1.SessionService/SignOut", {})).toBe(200);
  expect(await jar.getCookies(`${issuer}/api`)).toEqual([]);
});

describe("feat:I4 the domain of the cookies changes", () => {
  const changes = [
    {
      change: "from a domain to the host alone",
      before: { domain: "test.example" },
      after: { names, olderDomain: "test.example" },
      place: "the host",
    },
    {
      change: "from the host alone to a domain",
      before: { names },
      after: { domain: "test.example", olderDomain: null },
      place: "test.example",
    },
    {
      change: "from one domain to another",
      before: { domain: "api.test.example" },
      after: { domain: "test.example", olderDomain: "api.test.example" },
      place: "test.example",
    },
  ];
  const moved = (place: string): string[] => [
    `${names.access} of ${place}`,
    `${names.refresh} of ${place}`,
  ];

  test.each(changes)(
    "feat:I4 $change: nobody is signed out, and no older cookie remains",
    async (row) => {
      const shared = { store: memoryStore(), clock: createFakeClock() };
      const old = await serve(row.before, shared);
      const jar = newJar();
      await call(old.server, jar, signIn);
      const session = await jar.getCookieString(`${issuer}/`);

      const { server, call: callNew } = await serve(row.after, shared);
      expect((await callNew(jar, addNote)).code).toBe("ok");
      for (let round = 0; round < 2; round++) {
        server.sessions.clock.advance("16m");
        expect((await callNew(jar, refresh)).code).toBe("ok");
        expect((await callNew(jar, addNote)).code).toBe("ok");
      }
      expect(await inJar(jar)).toEqual(moved(row.place));
      expect(await jar.getCookieString(`${issuer}/`)).not.toBe(session);
    },
  );

  test.each(changes)(
    "feat:I4 $change: signing in again leaves one pair of cookies",
    async (row) => {
      const shared = { store: memoryStore(), clock: createFakeClock() };
      const old = await serve(row.before, shared);
      const jar = newJar();
      await call(old.server, jar, signIn);
      const { call: callNew } = await serve(row.after, shared);
      expect((await callNew(jar, signIn)).code).toBe("ok");
      expect(await inJar(jar)).toEqual(moved(row.place));
      expect((await callNew(jar, addNote)).code).toBe("ok");
    },
  );

  test.each(changes)("feat:I4 $change: signing out leaves no cookies", async (row) => {
    const shared = { store: memoryStore(), clock: createFakeClock() };
    const old = await serve(row.before, shared);
    const jar = newJar();
    await call(old.server, jar, signIn);
    const { call: callNew } = await serve(row.after, shared);
    expect((await callNew(jar, signOut)).code).toBe("ok");
    expect(await inJar(jar)).toEqual([]);
  });
});

describe("feat:I5 a sibling host that plants cookies of the attacker's session", () => {
  async function planted(cookies: NonNullable<TestSessionsOptions["cookies"]>) {
    const { server, call } = await serve(cookies);
    const jar = newJar();
    await call(jar, signIn);
    const { tokens } = await server.sessions.issue({ userId: "mallory", transport: "cookie" });
    const of = cookies.names ?? {
      access: "__Host-Http-rpcsession-access",
      refresh: "__Host-Http-rpcsession-refresh",
    };
    for (const [name, token] of [
      [of.access, tokens.accessToken],
      [of.refresh, tokens.refreshToken],
    ]) {
      const cookie = `${name}=${token}; Domain=test.example; Path=/; Secure; HttpOnly`;
      await jar.setCookie(cookie, "https://evil.test.example/", { ignoreError: true });
    }
    return { jar, call };
  }

  test("feat:I5 is stopped by the prefix __Host-", async () => {
    const { jar, call } = await planted({});
    expect(await inJar(jar)).toHaveLength(2);
    expect((await call(jar, refresh)).code).toBe("ok");
    expect((await call(jar, addNote)).code).toBe("ok");
  });

  test("feat:I5 cannot sign a visitor in without the prefix either: the cookies are refused and expired", async () => {
    const { jar, call } = await planted({ names });
    expect(await inJar(jar)).toHaveLength(4);
    const refused = await call(jar, refresh);
    expect(refused.code).toBe("unauthenticated");
    expect(await inJar(jar)).toEqual([]);
    expect((await call(jar, signIn)).code).toBe("ok");
    expect((await call(jar, addNote)).code).toBe("ok");
  });
});
