// Requests that other sites make a browser send (feature table, part C).
import { afterEach, expect, test } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { SessionService } from "../../gen/rpcsession/v1/service_pb.ts";
import {
  accessCookie,
  byCookie,
  cookieHeader,
  issue,
  present,
  sameOrigin,
} from "../helpers/presented.ts";
import { type NotesServer, startNotes, type TestSessionsOptions } from "../helpers/server.ts";
import {
  callWire,
  type Wire,
  type WireCall,
  type WireResult,
  wireName,
  wires,
} from "../helpers/wire.ts";
import { sendH1 } from "../helpers/wire-http.ts";

const { signIn, addNote, listNotes, watchNotes } = NotesService.method;
const { refresh, signOut } = SessionService.method;
const json: Wire = { protocol: "connect-json", http: "h1" };
const each = wires.map((wire) => [wireName(wire), wire] as const);
const crossSite = { "sec-fetch-site": "cross-site", origin: "https://evil.example" };

let server: NotesServer;
afterEach(() => server.close());

async function start(sessions: TestSessionsOptions = {}): Promise<void> {
  server = await startNotes({ sessions });
}

function call(
  method: WireCall["method"],
  headers: Record<string, string>,
  { wire = json, get = false }: { readonly wire?: Wire; readonly get?: boolean } = {},
): Promise<WireResult> {
  return callWire(server, wire, { method, messages: [{}], headers, get });
}

/** Signs in as a page does, and returns the headers of its next calls and the anti-CSRF token. */
async function signedIn() {
  const message = { method: signIn, messages: [{ user: "alice" }], headers: sameOrigin };
  const { setCookie, headers } = await callWire(server, json, message);
  const cookie = setCookie.map((one) => one.slice(0, one.indexOf(";"))).join("; ");
  return { headers: { ...sameOrigin, cookie }, csrf: headers.get("rpcsession-csrf") ?? "" };
}

test.each(each)("feat:C1 a cookie session must send its anti-CSRF token, %s", async (_, wire) => {
  await start({ antiCsrf: "token" });
  const alice = await signedIn();
  const other = await signedIn();
  const wrong = [{}, { "rpcsession-csrf": "junk" }, { "rpcsession-csrf": other.csrf }];
  for (const header of wrong) {
    const refused = await call(addNote, { ...alice.headers, ...header }, { wire });
    expect([refused.code, refused.setCookie]).toEqual(["unauthenticated", []]);
    expect(refused.headers.get("rpcsession-hint")).toBe("refresh");
  }
  const { code } = await call(
    addNote,
    { ...alice.headers, "rpcsession-csrf": alice.csrf },
    { wire },
  );
  expect(code).toBe("ok");
});

test.each([
  ["text/plain"],
  ["application/x-www-form-urlencoded"],
  ["multipart/form-data; boundary=x"],
  [undefined],
])("feat:C2 a POST that needs no preflight reaches no handler: %s", async (type) => {
  await start();
  const { headers } = await present(server, "cookie");
  for (const method of [addNote, watchNotes, signIn, refresh, signOut]) {
    const { status } = await sendH1(server.port.h1, {
      method: "POST",
      path: `/${method.parent.typeName}/${method.name}`,
      headers: { ...headers, ...(type !== undefined && { "content-type": type }) },
      body: Buffer.from("{}"),
    });
    expect(status).toBe(415);
  }
  expect(server.calls.handled).toBe(0);
});

test("feat:C3 both checks can be switched off by name: antiCsrf is off by default, crossSite is on", async () => {
  await start();
  const { headers } = await present(server, "cookie");
  expect((await call(addNote, headers)).code).toBe("ok");
  expect((await call(addNote, { ...headers, ...crossSite })).code).toBe("permission_denied");
  await server.close();
  await start({ crossSite: "unchecked" });
  const open = await present(server, "cookie");
  expect((await call(addNote, { ...open.headers, ...crossSite })).code).toBe("ok");
});

test("feat:C4 a method may choose the anti-CSRF check; by default it is on, except on GET", async () => {
  await start({ antiCsrf: "token" });
  const { headers } = await signedIn();
  expect((await call(listNotes, headers, { get: true })).code).toBe("ok");
  expect((await call(listNotes, headers)).code).toBe("unauthenticated");
  await server.close();
  await start({
    antiCsrf: "token",
    methods: {
      "notes.v1.NotesService/AddNote": { doAntiCsrfCheck: false },
      "notes.v1.NotesService/ListNotes": { doAntiCsrfCheck: true },
    },
  });
  const alice = await signedIn();
  expect((await call(addNote, alice.headers)).code).toBe("ok");
  expect((await call(listNotes, alice.headers, { get: true })).code).toBe("unauthenticated");
});

test.each(each)(
  "feat:C5 a token in a header needs neither an origin nor an anti-CSRF token, %s",
  async (_, wire) => {
    await start({ antiCsrf: "token" });
    const { headers } = await present(server, "header");
    for (const from of [{}, crossSite, { "sec-fetch-site": "same-site" }]) {
      expect((await call(addNote, { ...headers, ...from }, { wire })).code).toBe("ok");
    }
  },
);

test.each(each)(
  "feat:C5 an invalid header does not bypass the checks of a cookie in the same request, %s",
  async (_, wire) => {
    await start({ antiCsrf: "token" });
    const { headers } = await present(server, "cookie");
    const refused = await call(
      addNote,
      { ...headers, ...crossSite, authorization: "Bearer x" },
      { wire },
    );
    expect(refused.code).toBe("unauthenticated");
    expect(server.calls.handled).toBe(0);
  },
);

test.each(each)(
  "feat:C6 another site can neither refresh nor sign out, and its attempt changes nothing, %s",
  async (_, wire) => {
    await start();
    const { session, tokens } = await issue(server, "cookie");
    const { headers } = byCookie(session.id, tokens);
    server.sessions.clock.advance("16m");
    for (const method of [refresh, signOut]) {
      const refused = await call(method, { ...headers, ...crossSite }, { wire });
      expect([refused.code, refused.setCookie]).toEqual(["permission_denied", []]);
      expect(refused.headers.get("rpcsession-hint")).toBeNull();
    }
    const refreshed = await call(refresh, headers, { wire });
    expect(refreshed.code).toBe("ok");
    expect(refreshed.setCookie[0]).toMatch(new RegExp(`^${accessCookie}=`));
  },
);

test("feat:C6 a refresh needs no anti-CSRF token, and returns the valid one", async () => {
  await start({ antiCsrf: "token" });
  const { headers, csrf } = await signedIn();
  const refreshed = await call(refresh, headers);
  expect([refreshed.code, refreshed.headers.get("rpcsession-csrf")]).toEqual(["ok", csrf]);
});

test("feat:C6 a sign-out needs no anti-CSRF token, so that a page that has just been loaded can sign out", async () => {
  await start({ antiCsrf: "token" });
  const { headers, csrf } = await signedIn();
  const foreign = await call(signOut, { ...headers, ...crossSite, "rpcsession-csrf": csrf });
  expect([foreign.code, foreign.setCookie]).toEqual(["permission_denied", []]);
  const out = await call(signOut, headers);
  expect([out.code, out.setCookie.length > 0]).toEqual(["ok", true]);
  expect((await server.sessions.list({ userId: "alice" })).sessions).toEqual([]);
});

test.each(each)(
  "feat:C7 the pages of each name of the service may call it, by HTTP/2 too, and no other page, %s",
  async (_, wire) => {
    await start();
    const { tokens } = await issue(server, "cookie");
    const name = wire.http === "h1" ? "host" : ":authority";
    const from = { cookie: cookieHeader(tokens), ...sameOrigin };
    for (const [host, origin, code] of [
      ["second.example", "https://second.example", "ok"],
      ["second.example", "http://second.example", "ok"],
      ["second.example:443", "https://second.example", "ok"],
      ["second.example:443", "http://second.example", "permission_denied"],
      ["second.example", "https://second.example:444", "permission_denied"],
      ["second.example", "https://evil.example", "permission_denied"],
      ["second.example", "null", "permission_denied"],
    ] as const) {
      const answer = await call(addNote, { ...from, [name]: host, origin }, { wire });
      expect([host, origin, answer.code, answer.setCookie]).toEqual([host, origin, code, []]);
    }
  },
);

test.each(each)(
  "feat:C7 cookies are accepted only from this origin and the listed ones, by Sec-Fetch-Site or Origin, %s",
  async (_, wire) => {
    await start({ origins: ["https://app.test.example"] });
    const { tokens } = await issue(server, "cookie");
    const cookie = cookieHeader(tokens);
    const rows: readonly (readonly [Record<string, string>, string])[] = [
      [{ "sec-fetch-site": "same-origin" }, "ok"],
      [{ "sec-fetch-site": "same-site", origin: "https://app.test.example" }, "ok"],
      [{ origin: "https://app.test.example" }, "ok"],
      [{ "sec-fetch-site": "same-site", origin: "https://old.test.example" }, "permission_denied"],
      [{ "sec-fetch-site": "none" }, "permission_denied"],
      [{ origin: "https://test.example" }, "permission_denied"],
      [{ origin: "null" }, "permission_denied"],
      [crossSite, "permission_denied"],
      [{}, "permission_denied"],
    ];
    for (const [from, code] of rows) {
      const result = await call(addNote, { cookie, ...from }, { wire });
      expect([from, result.code, result.setCookie]).toEqual([from, code, []]);
    }
  },
);
