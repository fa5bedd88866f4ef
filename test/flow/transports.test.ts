// Tokens in cookies, in headers, and in both at once (feature table).
import { createSessions } from "rpc-session";
import { memoryStore } from "rpc-session/stores/memory";
import { afterEach, beforeEach, expect, test } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { SessionService } from "../../gen/rpcsession/v1/service_pb.ts";
import { clearedCookies, maskTokens, writtenCookies } from "../helpers/golden.ts";
import { byHeader, issue, present, realm, sameOrigin, withHeaders } from "../helpers/presented.ts";
import { type NotesServer, startNotes } from "../helpers/server.ts";
import { callWire, type Wire, type WireCall, wireName, wires } from "../helpers/wire.ts";

const { signIn, addNote } = NotesService.method;
const { refresh, signOut } = SessionService.method;
const { access, refresh: refreshWritten } = writtenCookies(0);

const json: Wire = { protocol: "connect-json", http: "h1" };

let server: NotesServer;
beforeEach(async () => {
  server = await startNotes();
});
afterEach(() => server.close());

const each = wires.map((wire) => [wireName(wire), wire] as const);

test.each(each)(
  "feat:I1 a browser's tokens are only in HttpOnly cookies, which handlers do not see either, %s",
  async (_, wire) => {
    const call = { method: signIn, messages: [{ user: "alice" }], headers: sameOrigin };
    const { setCookie, headers, afterHeaders } = await callWire(server, wire, call);
    expect(setCookie.map(maskTokens)).toEqual([access, refreshWritten]);
    const rest = [...headers].join() + afterHeaders;
    for (const cookie of setCookie) {
      expect(rest).not.toContain(cookie.slice(cookie.indexOf("=") + 1, cookie.indexOf(";")));
    }
    const { headers: good } = await present(server, "cookie");
    await callWire(server, wire, { method: addNote, messages: [{}], headers: good });
    expect(server.seen.cookie).toBe("theme=dark");
  },
);

test.each(each)(
  "feat:J1 a program's tokens are only in headers; a refresh reads its token from the message, %s",
  async (_, wire) => {
    const call = (method: WireCall["method"], message: object, headers = {}) =>
      callWire(server, wire, { method, messages: [message as never], headers });
    const begun = await call(signIn, { user: "alice" });
    expect(begun.setCookie).toEqual([]);
    const refreshToken = begun.headers.get("rpcsession-refresh-token") ?? "";
    const bearer = (result: typeof begun) => ({
      authorization: `Bearer ${result.headers.get("rpcsession-access-token")}`,
    });
    expect((await call(addNote, {}, bearer(begun))).code).toBe("ok");
    server.sessions.clock.advance("16m");
    expect((await call(addNote, {}, bearer(begun))).code).toBe("unauthenticated");
    const refreshed = await call(refresh, { refreshToken });
    expect([refreshed.code, refreshed.setCookie]).toEqual(["ok", []]);
    expect((await call(addNote, {}, bearer(refreshed))).code).toBe("ok");
    expect((await call(signOut, { refreshToken })).code).toBe("ok");
    expect((await call(addNote, {}, bearer(refreshed))).code).toBe("unauthenticated");
  },
);

/** A page's cookies, and the header of another session. */
async function bothAtOnce() {
  const cookies = await present(server, "cookie");
  const { session, tokens } = await issue(server, "header");
  const header = byHeader(session.id, tokens.access);
  return { ...withHeaders(cookies, header.headers), byHeader: session, cookies, tokens };
}

const ended = async (session: string): Promise<boolean> =>
  (await server.sessions.find(session)) === undefined;

test("feat:J2 both transports, two sessions: the header alone decides over a call, and changes neither", async () => {
  const both = await bothAtOnce();
  const call = { method: addNote, messages: [{}], headers: both.headers };
  const result = await callWire(server, json, call);
  expect([result.code, result.setCookie]).toEqual(["ok", []]);
  expect([await ended(both.session), await ended(both.byHeader.id)]).toEqual([false, false]);
});

test("feat:J2 both transports: Refresh uses the message and leaves the cookies alone", async () => {
  const both = await bothAtOnce();
  const messages = [{ refreshToken: both.tokens.refresh }];
  const call = { method: refresh, messages, headers: both.headers };
  const { code, setCookie, headers } = await callWire(server, json, call);
  expect([code, setCookie]).toEqual(["ok", []]);
  expect(headers.get("rpcsession-session")).toContain(`session=${both.byHeader.id}`);
});

test("feat:J2 an app that shares its cookies with a WebView: every call leaves the WebView's session alone", async () => {
  const both = await bothAtOnce();
  // No Origin and no Fetch Metadata: this is not a browser.
  const { "sec-fetch-site": _, ...headers } = both.headers;
  const refreshToken = both.tokens.refresh;
  const calls = [
    { method: addNote, messages: [{}], headers },
    { method: refresh, messages: [{ refreshToken }], headers },
    { method: signIn, messages: [{ user: "alice" }], headers: { cookie: headers.cookie ?? "" } },
    { method: signOut, messages: [{ refreshToken }], headers },
  ];
  for (const call of calls) {
    const { code, setCookie } = await callWire(server, json, call);
    expect([call.method.name, code, setCookie]).toEqual([call.method.name, "ok", []]);
  }
  expect([await ended(both.session), await ended(both.byHeader.id)]).toEqual([false, true]);
});

test("feat:J2 both transports: SignOut uses the header and expires the cookies", async () => {
  const both = await bothAtOnce();
  const call = { method: signOut, messages: [{}], headers: both.headers };
  const { code, setCookie } = await callWire(server, json, call);
  expect([code, setCookie]).toEqual(["ok", clearedCookies]);
  expect([await ended(both.session), await ended(both.byHeader.id)]).toEqual([false, true]);
});

test("feat:J2 both transports: a sign-in by a header ends the header's session and expires the cookies", async () => {
  await server.close();
  server = await startNotes({ sessions: { browserHeaderTransport: true } });
  const both = await bothAtOnce();
  const headers = { ...both.headers, "rpcsession-transport": "header" };
  const call = { method: signIn, messages: [{ user: "alice" }], headers };
  const result = await callWire(server, json, call);
  expect([result.code, result.setCookie]).toEqual(["ok", clearedCookies]);
  expect(result.headers.has("rpcsession-access-token")).toBe(true);
  expect([await ended(both.session), await ended(both.byHeader.id)]).toEqual([false, true]);
});

test("feat:J2 both transports: an invalid header never falls back to the cookie", async () => {
  const { headers } = await present(server, "cookie");
  for (const authorization of ["Bearer", "Bearer junk", "bearer a.b.c"]) {
    const call = { method: addNote, messages: [{}], headers: { ...headers, authorization } };
    const { code, setCookie } = await callWire(server, json, call);
    expect([code, setCookie]).toEqual(["unauthenticated", []]);
  }
  expect(server.calls.handled).toBe(0);
});

test.each(["cookie", "header"] as const)(
  "feat:J2 feat:A3 a session keeps its transport: the tokens of a %s session are refused in the other transport",
  async (transport) => {
    const { tokens } = await issue(server, transport);
    const elsewhere =
      transport === "cookie"
        ? { authorization: `Bearer ${tokens.access}` }
        : { ...sameOrigin, cookie: `__Host-Http-rpcsession-access=${tokens.access}` };
    const use = { method: addNote, messages: [{}], headers: elsewhere };
    expect((await callWire(server, json, use)).code).toBe("unauthenticated");
    const call =
      transport === "cookie"
        ? { messages: [{ refreshToken: tokens.refresh }], headers: {} }
        : {
            messages: [{}],
            headers: { ...sameOrigin, cookie: `__Host-Http-rpcsession-refresh=${tokens.refresh}` },
          };
    const refused = await callWire(server, json, { method: refresh, ...call });
    expect(refused.code).toBe("unauthenticated");
    expect(refused.headers.get("rpcsession-access-token")).toBeNull();
  },
);

test("feat:J4 the notice gives a script the public facts of its session, and no token", async () => {
  const call = { method: signIn, messages: [{ user: "alice" }], headers: sameOrigin };
  const { headers, setCookie } = await callWire(server, json, call);
  const notice = headers.get("rpcsession-session") ?? "";
  expect(Object.fromEntries(new URLSearchParams(notice))).toMatchObject({
    event: "created",
    session: expect.stringMatching(/^[\w-]{22}$/),
    realm,
    generation: "0",
    claimsVersion: "0",
    expiresIn: expect.stringMatching(/^\d{6}$/),
  });
  for (const cookie of setCookie) {
    expect(notice).not.toContain(cookie.slice(cookie.indexOf("=") + 1, cookie.indexOf(";")));
  }
});

test.each([
  ["another site", "https://app.example.org", "https://api.example.com"],
  ["another scheme", "http://api.example.com", "https://api.example.com"],
  ["another name of this machine", "http://app.localhost", "http://localhost"],
  ["an IP address and a host name", "http://127.0.0.1:5173", "http://localhost:8080"],
])(
  "feat:I3 origins whose cookies browsers would drop are refused at construction: %s",
  (_, origin, issuer) => {
    const make = (cookies: { readonly sameSite?: "none" }) => () =>
      createSessions({ issuer, store: memoryStore(), origins: [issuer, origin], cookies });
    expect(make({})).toThrow(TypeError);
    expect(make({})).toThrow(
      `origins: ${origin} is not on the same site as ${issuer}, so browsers neither store nor send cookies with SameSite=lax; serve the pages from the same site, or set cookies: { sameSite: "none", partitioned: true }`,
    );
    expect(make({ sameSite: "none" })).not.toThrow();
  },
);

test.each([
  ["https://app.example.com", "https://api.example.com"],
  ["https://example.com", "https://api.example.com"],
  ["http://localhost:5173", "http://localhost:8080"],
  // Only the public suffix list could tell whether these two are the same site.
  ["https://a.co.uk", "https://b.co.uk"],
])("feat:I3 a page of the same site is accepted: %s for %s", (origin, issuer) => {
  const make = () => createSessions({ issuer, store: memoryStore(), origins: [origin] });
  expect(make).not.toThrow();
});
