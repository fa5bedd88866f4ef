import { CookieJar } from "tough-cookie";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { SessionService } from "../../gen/rpcsession/v1/service_pb.ts";
import { accessCookie, realm, refreshCookie, sameOrigin } from "../helpers/presented.ts";
import { type NotesServer, startNotes, type TestSessionsOptions } from "../helpers/server.ts";
import {
  callWire,
  type Wire,
  type WireCall,
  type WireResult,
  wireName,
  wires,
} from "../helpers/wire.ts";

const url = `${realm}/`;

/** A browser that follows RFC 6265bis exactly. */
function newJar(): CookieJar {
  return new CookieJar(undefined, { prefixSecurity: "strict", allowSpecialUseDomain: true });
}

function inJar(jar: CookieJar): Promise<string> {
  return jar.getCookieString(url, { http: true });
}

async function namesIn(jar: CookieJar): Promise<string[]> {
  return (await jar.getCookies(url, { http: true })).map(({ key }) => key).sort();
}

async function keep(jar: CookieJar, { setCookie }: WireResult): Promise<void> {
  for (const cookie of setCookie) {
    // Rejects if the jar refuses the cookie.
    await jar.setCookie(cookie, url, { http: true });
  }
}

const both = [accessCookie, refreshCookie];
const { signIn, signOut, addNote } = NotesService.method;
const session = SessionService.method;

test("the cookie jar of these tests refuses a __Host- cookie without Secure or with a Domain", async () => {
  const jar = newJar();
  const attributes = ["Path=/", "Path=/; Secure; Domain=test.example", "Secure; Path=/notes"];
  for (const attribute of attributes) {
    const kept = jar.setCookie(`__Host-a=1; ${attribute}`, url);
    await expect(kept).rejects.toThrow("Cookie has __Host prefix");
  }
  await jar.setCookie("__Host-a=1; Path=/; Secure", url);
  expect(await inJar(jar)).toBe("__Host-a=1");
});

describe.each([
  { name: "default cookies", sessions: {} },
  { name: "partitioned cookies", sessions: { cookies: { partitioned: true, sameSite: "none" } } },
] satisfies { name: string; sessions: TestSessionsOptions }[])("$name", ({ sessions }) => {
  let server: NotesServer;
  let jar: CookieJar;
  beforeEach(async () => {
    server = await startNotes({ sessions });
    jar = newJar();
  });
  afterEach(() => server.close());

  /** Makes one call with the cookies of the jar, and stores the cookies of the response. */
  async function call(
    wire: Wire,
    method: WireCall["method"],
    headers: Record<string, string> = sameOrigin,
  ): Promise<string> {
    const cookie = await inJar(jar);
    const result = await callWire(server, wire, {
      method,
      messages: [method === signIn ? { user: "alice" } : {}],
      headers: { ...headers, ...(cookie !== "" && { cookie }) },
    });
    await keep(jar, result);
    return result.code;
  }

  describe.each(wires.map((wire) => [wireName(wire), wire] as const))("%s", (_name, wire) => {
    beforeEach(async () => {
      await call(wire, signIn);
    });

    test("feat:Q1 keeps both cookies of a sign-in, for this host only and out of reach of scripts", async () => {
      const cookies = await jar.getCookies(url, { http: true });
      expect(cookies.map(({ key }) => key).sort()).toEqual(both);
      for (const { httpOnly, secure, hostOnly, path, domain } of cookies) {
        const kept = { httpOnly, secure, hostOnly, path, domain };
        const only = { httpOnly: true, secure: true, hostOnly: true, path: "/" };
        expect(kept).toEqual({ ...only, domain: "test.example" });
      }
      expect(await jar.getCookieString(url, { http: false })).toBe("");
      expect(await jar.getCookieString(url.replace("https", "http"))).toBe("");
      expect(await call(wire, addNote)).toBe("ok");
    });

    test("persists through expiry, refresh and the next generation", async () => {
      const before = await inJar(jar);
      server.sessions.clock.advance("16m");
      expect(await call(wire, addNote)).toBe("unauthenticated");
      expect(await inJar(jar)).toBe(before);
      expect(await call(wire, session.refresh)).toBe("ok");
      const confirmed = await inJar(jar);
      expect(confirmed).not.toBe(before);
      expect(await call(wire, addNote)).toBe("ok");
      server.sessions.clock.advance("31s");
      expect(await call(wire, session.refresh)).toBe("ok");
      const refreshOf = (cookies: string): string | undefined => cookies.split("; ")[1];
      expect(refreshOf(confirmed)).toBe(refreshOf(before));
      expect(refreshOf(await inJar(jar))).not.toBe(refreshOf(before));
      expect(await namesIn(jar)).toEqual(both);
      expect(await call(wire, addNote)).toBe("ok");
    });

    test("is not changed by refusals that keep tokens", async () => {
      const before = await inJar(jar);
      const crossSite = { "sec-fetch-site": "cross-site" };
      for (const method of [addNote, session.refresh, session.signOut, signIn]) {
        expect(await call(wire, method, crossSite)).toBe("permission_denied");
      }
      const malformed = { ...sameOrigin, authorization: "Bearer junk" };
      expect(await call(wire, addNote, malformed)).toBe("unauthenticated");
      expect(await inJar(jar)).toBe(before);
      expect(await call(wire, addNote)).toBe("ok");
    });

    test("is empty after a sign-out by the service's own method", async () => {
      expect(await call(wire, signOut)).toBe("ok");
      expect(await namesIn(jar)).toEqual([]);
      expect(await call(wire, addNote)).toBe("unauthenticated");
    });

    test("is empty after SignOut", async () => {
      expect(await call(wire, session.signOut)).toBe("ok");
      expect(await namesIn(jar)).toEqual([]);
    });

    test("is emptied by the first call a minute after a sign-out whose response was lost", async () => {
      const lost = await inJar(jar);
      const headers = { ...sameOrigin, cookie: lost };
      await callWire(server, wire, { method: session.signOut, messages: [{}], headers });
      expect(await call(wire, addNote)).toBe("unauthenticated");
      expect(await inJar(jar)).toBe(lost);
      server.sessions.clock.advance("61s");
      expect(await call(wire, addNote)).toBe("unauthenticated");
      expect(await namesIn(jar)).toEqual([]);
      expect(await call(wire, signIn)).toBe("ok");
      expect(await call(wire, addNote)).toBe("ok");
    });

    test("keeps the next sign-in when a late call of the replaced session is refused", async () => {
      const old = await inJar(jar);
      expect(await call(wire, signIn)).toBe("ok");
      const next = await inJar(jar);
      expect(next).not.toBe(old);
      const headers = { ...sameOrigin, cookie: old };
      const late = await callWire(server, wire, { method: addNote, messages: [{}], headers });
      await keep(jar, late);
      expect(late.code).toBe("unauthenticated");
      expect(await inJar(jar)).toBe(next);
      expect(await call(wire, addNote)).toBe("ok");
    });
  });
});
