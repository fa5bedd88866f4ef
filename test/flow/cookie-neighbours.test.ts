// Cookies under the same names that this service did not set for this visitor: those of other services
// on the same host or domain, those of earlier paths, and planted ones.

import { memoryStore } from "rpc-session/stores/memory";
import { createFakeClock, testSessions } from "rpc-session/testing";
import type { CookieJar } from "tough-cookie";
import { describe, expect, onTestFinished, test } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { SessionService } from "../../gen/rpcsession/v1/service_pb.ts";
import { callFromPage, newJar } from "../helpers/jar.ts";
import { startNotes, type TestSessionsOptions } from "../helpers/server.ts";
import type { WireCall, WireResult } from "../helpers/wire.ts";

const { signIn, addNote } = NotesService.method;
const { refresh, signOut } = SessionService.method;
const names = { access: "__Secure-rpcsession-access", refresh: "__Secure-rpcsession-refresh" };
const issuer = "https://api.test.example";

/** A service, and calls from its own pages. */
async function serve(options: TestSessionsOptions & { readonly issuer: string }) {
  const server = await startNotes({ sessions: options });
  onTestFinished(() => server.close());
  const at = options.issuer;
  return {
    sessions: server.sessions,
    call: (jar: CookieJar, method: WireCall["method"]): Promise<WireResult> =>
      callFromPage(server, { jar, issuer: at }, method),
  };
}

type Service = Awaited<ReturnType<typeof serve>>;

const codeOf = async (work: Promise<WireResult>): Promise<string> => (await work).code;

/** Domain and path of every cookie that a host can receive. */
async function placesIn(jar: CookieJar, host = issuer): Promise<string[]> {
  const cookies = await jar.getCookies(`${host}/`, { allPaths: true });
  return cookies.map(({ domain, path }) => `${domain}${path}`).sort();
}

/** Plants the cookies of another live session, as a host that shares the domain can. */
async function plant(
  jar: CookieJar,
  { sessions }: Service,
  attributes: string,
  at = issuer,
): Promise<void> {
  const { tokens } = await sessions.issue({ userId: "mallory", transport: "cookie" });
  for (const [name, token] of [
    [names.access, tokens.accessToken],
    [names.refresh, tokens.refreshToken],
  ]) {
    await jar.setCookie(`${name}=${token}; Secure; ${attributes}`, `${at}/`, {
      ignoreError: true,
    });
  }
}

describe("feat:D11 two services whose cookies have the same names", () => {
  const both = { cookies: { names } };

  test.each([
    ["the secrets of their stores", {}, {}],
    ["secrets of their own", { secret: "p".repeat(32) }, { secret: "s".repeat(32) }],
  ])(
    "feat:D11 production on the parent domain and staging below it, with %s: neither disturbs the other",
    async (_, ofProduction, ofStaging) => {
      const clock = createFakeClock();
      const production = await serve({
        issuer: "https://shop.example",
        clock,
        cookies: { domain: "shop.example" },
        ...ofProduction,
      });
      const staging = await serve({
        issuer: "https://staging.shop.example",
        clock,
        ...both,
        ...ofStaging,
      });
      const jar = newJar();
      expect(await codeOf(production.call(jar, signIn))).toBe("ok");
      expect(await codeOf(staging.call(jar, signIn))).toBe("ok");
      for (let round = 0; round < 3; round++) {
        for (const service of [production, staging]) {
          expect(await codeOf(service.call(jar, addNote))).toBe("ok");
          expect(await codeOf(service.call(jar, refresh))).toBe("ok");
        }
        clock.advance("16m");
        expect(await codeOf(staging.call(jar, refresh))).toBe("ok");
        expect(await codeOf(production.call(jar, refresh))).toBe("ok");
      }
      expect(await codeOf(staging.call(jar, signOut))).toBe("ok");
      const left = await placesIn(jar, "https://staging.shop.example");
      expect(left).toEqual(["shop.example/", "shop.example/"]);
      expect(await codeOf(production.call(jar, addNote))).toBe("ok");
    },
  );

  test("feat:D11 a visitor who is only signed in at production is nobody at staging, and keeps those cookies", async () => {
    const production = await serve({
      issuer: "https://shop.example",
      cookies: { domain: "shop.example" },
    });
    const staging = await serve({
      issuer: "https://staging.shop.example",
      ...both,
      methods: { "notes.v1.NotesService/ListNotes": { auth: "optional" } },
    });
    const jar = newJar();
    await production.call(jar, signIn);
    expect(await codeOf(staging.call(jar, NotesService.method.listNotes))).not.toBe("unavailable");
    for (const method of [addNote, refresh]) {
      const refused = await staging.call(jar, method);
      expect([refused.code, refused.setCookie]).toEqual(["unauthenticated", []]);
      expect(refused.headers.get("rpcsession-hint")).toBe("sign-in");
    }
    expect((await staging.call(jar, signOut)).setCookie).toEqual([]);
    expect(await codeOf(production.call(jar, addNote))).toBe("ok");
  });

  test("feat:D11 a sign-out ends the own session whose access cookie another service has overwritten", async () => {
    const clock = createFakeClock();
    const service = await serve({ issuer, clock, ...both });
    const other = await serve({ issuer: "https://other.example", clock, ...both });
    const jar = newJar();
    await service.call(jar, signIn);
    const { tokens } = await other.sessions.issue({ userId: "bob", transport: "cookie" });
    await jar.setCookie(`${names.access}=${tokens.accessToken}; Secure; Path=/`, `${issuer}/`);
    const out = await service.call(jar, signOut);
    expect([out.code, out.headers.get("rpcsession-session")]).toEqual(["ok", expect.any(String)]);
    expect(await placesIn(jar)).toEqual([]);
    expect((await service.sessions.list({ userId: "alice" })).sessions).toEqual([]);
  });

  test("feat:D11 two ports of localhost have names of their own, so one browser is signed in at both", async () => {
    const jar = newJar();
    const [one, two] = [
      await serve({ issuer: "http://localhost:8080" }),
      await serve({ issuer: "http://localhost:8081" }),
    ];
    await one.call(jar, signIn);
    await two.call(jar, signIn);
    expect(await codeOf(one.call(jar, addNote))).toBe("ok");
    expect(await codeOf(two.call(jar, addNote))).toBe("ok");
    await two.call(jar, signOut);
    expect(await codeOf(one.call(jar, refresh))).toBe("ok");
    expect(await codeOf(two.call(jar, addNote))).toBe("unauthenticated");
  });

  test("feat:D11 one name for two ports: the second sign-in replaces the first, and the refusal says what to do", async () => {
    const own = { access: "__Host-a", refresh: "__Host-r" };
    const jar = newJar();
    const [one, two] = [
      await serve({ issuer: "http://localhost:8080", cookies: { names: own } }),
      await serve({ issuer: "http://localhost:8081", cookies: { names: own } }),
    ];
    await one.call(jar, signIn);
    await two.call(jar, signIn);
    const refused = await one.call(jar, addNote);
    expect([refused.code, refused.setCookie]).toEqual(["unauthenticated", []]);
    expect(refused.afterHeaders).toContain("give each its own cookies.names");
    expect(await codeOf(two.call(jar, addNote))).toBe("ok");
  });
});

describe("feat:I4 the path of the cookies changes", () => {
  const changes = [
    { change: "to a shorter one", before: "/notes.v1.NotesService", after: "/" },
    { change: "to a longer one", before: "/", after: "/notes.v1.NotesService" },
  ];
  const cookiesAt = (path: string) => ({ names, ...(path !== "/" && { path }) });

  test.each(changes)(
    "feat:I4 $change: who signs out and in again is not refused",
    async ({ before, after }) => {
      const shared = { issuer, store: memoryStore(), clock: createFakeClock() };
      const old = await serve({ ...shared, cookies: cookiesAt(before) });
      const jar = newJar();
      await old.call(jar, signIn);
      const now = await serve({ ...shared, cookies: cookiesAt(after) });
      // Refresh and SignOut may lie outside the old or the new path, so they do not see every copy.
      expect(await codeOf(now.call(jar, signOut))).toBe("ok");
      expect(await codeOf(now.call(jar, signIn))).toBe("ok");
      expect(await codeOf(now.call(jar, addNote))).toBe("ok");
      shared.clock.advance("16m");
      await now.call(jar, signIn);
      expect(await codeOf(now.call(jar, addNote))).toBe("ok");
    },
  );

  test.each(changes)(
    "feat:I4 $change, with olderPath: every write removes the former cookie",
    async ({ before, after }) => {
      const shared = { issuer, store: memoryStore(), clock: createFakeClock() };
      const old = await serve({ ...shared, cookies: cookiesAt(before) });
      const jar = newJar();
      await old.call(jar, signIn);
      const now = await serve({ ...shared, cookies: { ...cookiesAt(after), olderPath: before } });
      await now.call(jar, signIn);
      const place = `api.test.example${after}`;
      expect(await placesIn(jar)).toEqual([place, place]);
      expect(await codeOf(now.call(jar, addNote))).toBe("ok");
    },
  );
});

describe("sec:C02 without __Host-, a host of the same domain plants cookies of its own session", () => {
  const deep = "Domain=test.example; Path=/notes.v1.NotesService/AddNote";

  async function victim() {
    const service = await serve({ issuer, cookies: { names } });
    const jar = newJar();
    await service.call(jar, signIn);
    return { service, jar };
  }

  test.each([
    ["at a deep path", deep],
    ["at a deep path with a slash at its end", "Domain=test.example; Path=/notes.v1.NotesService/"],
    ["for the whole domain", "Domain=test.example; Path=/"],
  ])(
    "sec:C02 one copy %s is refused once and removed, and then the victim can sign in",
    async (_, attributes) => {
      const { service, jar } = await victim();
      await plant(jar, service, attributes);
      const refused = await service.call(jar, addNote);
      expect([refused.code, refused.headers.get("rpcsession-hint")]).toEqual([
        "unauthenticated",
        "sign-in",
      ]);
      expect(await placesIn(jar)).toEqual([]);
      await service.call(jar, signIn);
      expect(await codeOf(service.call(jar, addNote))).toBe("ok");
    },
  );

  test("sec:C02 a cookie of another issuer does not protect it from being removed", async () => {
    const { service, jar } = await victim();
    const other = testSessions({ issuer: "https://test.example", clock: service.sessions.clock });
    const { tokens } = await other.issue({ userId: "bob", transport: "cookie" });
    const foreign = `${names.access}=${tokens.accessToken}; Secure; Domain=test.example; Path=/`;
    await jar.setCookie(foreign, issuer);
    await plant(jar, service, deep);
    expect(await codeOf(service.call(jar, addNote))).toBe("unauthenticated");
    // The other service keeps its cookie.
    expect(await placesIn(jar)).toEqual(["test.example/"]);
    await service.call(jar, signIn);
    expect(await codeOf(service.call(jar, addNote))).toBe("ok");
  });

  test("sec:C02 it does not win when the victim's access token has expired", async () => {
    const { service, jar } = await victim();
    service.sessions.clock.advance("16m");
    await plant(jar, service, deep);
    expect(await codeOf(service.call(jar, addNote))).toBe("unauthenticated");
    expect(await placesIn(jar)).toEqual([]);
  });

  test("sec:C02 it does not win while the key of the victim's access token is not known", async () => {
    const { service, jar } = await victim();
    const url = `${issuer}/notes.v1.NotesService/AddNote`;
    const own = await jar.getCookieString(url);
    const real = new RegExp(`${names.access}=([^;]+)`).exec(own)?.[1] ?? "";
    // The same claims, signed by a key that this server has not read.
    const unknown = real.replace(/^[^.]+/, (head) => {
      const parsed = JSON.parse(Buffer.from(head, "base64url").toString());
      return Buffer.from(JSON.stringify({ ...parsed, kid: "k".repeat(22) })).toString("base64url");
    });
    await jar.setCookie(`${names.access}=${unknown}; Secure; Path=/`, url);
    await plant(jar, service, deep);
    const refused = await service.call(jar, addNote);
    expect([refused.code, refused.headers.get("rpcsession-hint")]).toEqual([
      "unauthenticated",
      "sign-in",
    ]);
    expect(await placesIn(jar)).toEqual([]);
    await service.call(jar, signIn);
    expect(await codeOf(service.call(jar, addNote))).toBe("ok");
  });

  test("sec:C02 junk that names no live session is ignored beside a valid token", async () => {
    const { service, jar } = await victim();
    const junkOf = (sid: string) => {
      const part = (value: object) => Buffer.from(JSON.stringify(value)).toString("base64url");
      const header = part({ alg: "ES256", typ: "at+jwt", kid: "k" });
      return `${header}.${part({ iss: issuer, sid, iat: 1 })}.${"A".repeat(86)}`;
    };
    for (const sid of ["", "\u0000".repeat(22), "x".repeat(22), "x".repeat(300)]) {
      await jar.setCookie(`${names.access}=${junkOf(sid)}; Secure; ${deep}`, issuer);
      expect(await codeOf(service.call(jar, addNote))).toBe("ok");
    }
  });

  test("sec:C02 three copies do not hide the victim's: nobody acts as somebody else", async () => {
    const { service, jar } = await victim();
    const paths = ["/notes.v1.NotesService/AddNote", "/notes.v1.NotesService", "/"];
    for (const path of paths) {
      await plant(jar, service, `Domain=test.example; Path=${path}`);
    }
    const refused = await service.call(jar, addNote);
    expect(refused.code).toBe("unauthenticated");
    expect(await placesIn(jar)).toEqual([]);
  });

  test.each([issuer, "https://notes.api.eu.test.example"])(
    "sec:C02 the headers that remove all of it, or part of it, fit into proxies: %s",
    async (at) => {
      const service = await serve({ issuer: at, cookies: { names } });
      const jar = newJar();
      await service.call(jar, signIn);
      await plant(jar, service, deep, at);
      const { setCookie } = await service.call(jar, addNote);
      const bytes = setCookie.reduce((sum, one) => sum + `set-cookie: ${one}\r\n`.length, 0);
      // The buffer of the nginx on the proxies page, and the number of headers that Envoy accepts.
      expect(bytes).toBeLessThan(12_288);
      expect(setCookie.length).toBeLessThan(80);
      expect(setCookie.length).toBeGreaterThan(40);
    },
  );
});
