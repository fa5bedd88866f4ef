import { afterAll, beforeAll, describe, expect, test } from "vitest";
import {
  type Cell,
  clearedCookies,
  type Facts,
  type RefusalLine,
  readRefusal,
  refusalFacts,
  writtenCookies,
} from "../helpers/golden.ts";
import { byCookie, issue, present, realm, sameOrigin, withHeaders } from "../helpers/presented.ts";
import { type NotesServer, startNotes } from "../helpers/server.ts";
import {
  callSession,
  refreshMethod,
  refreshOnce,
  type SessionRequest,
  settle,
  signInMethod,
  signOutMethod,
} from "../helpers/session-calls.ts";
import { type Wire, wireName, wires } from "../helpers/wire.ts";

type Given = (server: NotesServer) => Promise<SessionRequest>;

/** The headers of a successful response. */
interface Written {
  readonly cookies?: readonly string[];
  readonly headers: Readonly<Record<string, string>>;
}

type Row = readonly [name: string, given: Given, expected: RefusalLine | Written];

const { access, refresh } = writtenCookies(0);
const aged = writtenCookies(92);
const noStore = { "cache-control": "no-store" };
const notice = (text: string) => ({ ...noStore, "rpcsession-session": text });
const nothing: SessionRequest = { headers: {}, session: "", secrets: [] };
const crossSite = { "sec-fetch-site": "cross-site", origin: "https://evil.example" };

const goodCookies: Given = (server) => present(server, "cookie");

const settled: Given = async (server) => {
  const { session, tokens } = await settle(server, await issue(server, "cookie"));
  return byCookie(session.id, tokens);
};
/** The refresh token of generation 0, after generation 1 was minted. */
const former: Given = async (server) => {
  const first = await issue(server, "cookie");
  await refreshOnce(server, await settle(server, first));
  return byCookie(first.session.id, first.tokens);
};
/** The same, after generation 1 was confirmed, too. */
const stolen: Given = async (server) => {
  const first = await issue(server, "cookie");
  await settle(server, await refreshOnce(server, await settle(server, first)));
  return byCookie(first.session.id, first.tokens);
};
const inMessage: Given = async (server) => {
  const { session, tokens } = await issue(server, "header");
  return { ...nothing, session: session.id, inMessage: tokens.refresh, secrets: [tokens.refresh] };
};
const inMessageBesideCookies: Given = async (server) => {
  const { headers } = await present(server, "cookie");
  return withHeaders(await inMessage(server), headers);
};
const inMessageElsewhere: Given = async (server) =>
  withHeaders(await inMessageBesideCookies(server), crossSite);
const headerTokenInCookie: Given = async (server) => {
  const { session, tokens } = await issue(server, "header");
  return byCookie(session.id, { refresh: tokens.refresh });
};
const junk: Given = async () => byCookie("", { access: "a.b.c", refresh: "d.e.f" });
const accessOnly: Given = async (server) => {
  const { session, tokens } = await issue(server, "cookie");
  return byCookie(session.id, { access: tokens.access });
};
const expiredAccessOnly: Given = async (server) => {
  const request = await accessOnly(server);
  server.sessions.clock.advance("16m");
  return request;
};
const revoked: Given = async (server) => {
  const { session, tokens } = await issue(server, "cookie");
  await session.revoke();
  return byCookie(session.id, tokens);
};
const idle: Given = async (server) => {
  const request = await goodCookies(server);
  server.sessions.clock.advance("15d");
  return request;
};
const justSignedOut: Given = async (server) => {
  const request = await goodCookies(server);
  await callSession(server, wires[0] as Wire, { method: signOutMethod, request });
  return request;
};
const elsewhere: Given = async (server) => withHeaders(await goodCookies(server), crossSite);
const bearer: Given = (server) => present(server, "header");
const bearerBesideCookies: Given = async (server) =>
  withHeaders(await bearer(server), (await goodCookies(server)).headers);

/** Without the headers of a browser. */
const bearerBesideJar: Given = async (server) => {
  const { "sec-fetch-site": _, ...headers } = (await bearerBesideCookies(server)).headers;
  return { ...(await bearer(server)), headers };
};

const asks =
  (transport: string | undefined, site: Record<string, string>): Given =>
  async () => ({
    ...nothing,
    headers: { ...site, ...(transport && { "rpcsession-transport": transport }) },
  });
const headersBesideCookies: Given = async (server) => {
  const { cookie = "" } = (await goodCookies(server)).headers;
  return asks("header", { cookie, origin: realm })(server);
};
const headersBesideJar: Given = async (server) => {
  const { cookie = "" } = (await goodCookies(server)).headers;
  return asks("header", { cookie })(server);
};

const headerRefreshToken = { "rpcsession-refresh-token": "<refresh>" };
const headerTokens = { "rpcsession-access-token": "<access>" };

// biome-ignore format: a table
const refreshRows: readonly Row[] = [
  ["young generation", goodCookies, { cookies: [access], headers: notice("refreshed 0") }],
  ["settled generation", settled, { cookies: [aged.access, aged.refresh], headers: notice("refreshed 1") }],
  ["former generation, answer lost", former, { cookies: [aged.access, aged.refresh], headers: notice("refreshed 1") }],
  ["header session", inMessage, { headers: { ...notice("refreshed 0"), ...headerTokens } }],
  ["header session beside cookies", inMessageBesideCookies, { headers: { ...notice("refreshed 0"), ...headerTokens } }],
  ["header session beside cookies, cross-site", inMessageElsewhere, { headers: { ...notice("refreshed 0"), ...headerTokens } }],
  ["former generation, later", stolen, "unauthenticated SIGN_IN TOKEN_THEFT CLEAR named cleared"],
  ["nothing", async () => nothing, "unauthenticated SIGN_IN SESSION_MISSING KEEP unnamed left"],
  ["access cookie only", accessOnly, "unauthenticated SIGN_IN SESSION_MISSING CLEAR unnamed cleared"],
  ["junk", junk, "unauthenticated SIGN_IN TOKEN_INVALID CLEAR unnamed cleared"],
  ["a bearer token beside cookies", bearerBesideCookies, "unauthenticated SIGN_IN SESSION_MISSING KEEP unnamed left"],
  ["header session's token in a cookie", headerTokenInCookie, "unauthenticated SIGN_IN TOKEN_INVALID CLEAR unnamed cleared"],
  ["revoked", revoked, "unauthenticated SIGN_IN SESSION_REVOKED CLEAR named cleared"],
  ["just signed out", justSignedOut, "unauthenticated SIGN_IN SESSION_REVOKED KEEP named left"],
  ["idle for too long", idle, "unauthenticated SIGN_IN SESSION_EXPIRED CLEAR named cleared"],
  ["cross-site", elsewhere, "permission_denied NONE CROSS_SITE KEEP unnamed left"],
];
// biome-ignore format: a table
const signOutRows: readonly Row[] = [
  ["good cookies", goodCookies, { cookies: clearedCookies, headers: notice("ended 0") }],
  ["expired access cookie only", expiredAccessOnly, { cookies: clearedCookies, headers: notice("ended 0") }],
  ["former generation", former, { cookies: clearedCookies, headers: notice("ended 0") }],
  ["already revoked", revoked, { cookies: clearedCookies, headers: notice("ended 0") }],
  ["junk", junk, { cookies: clearedCookies, headers: noStore }],
  ["nothing", async () => nothing, { headers: {} }],
  ["bearer", bearer, { headers: notice("ended 0") }],
  ["bearer beside cookies", bearerBesideCookies, { cookies: clearedCookies, headers: notice("ended 0") }],
  ["bearer beside cookies, as an app sends them", bearerBesideJar, { headers: notice("ended 0") }],
  ["refresh token beside cookies, cross-site", inMessageElsewhere, "permission_denied NONE CROSS_SITE KEEP unnamed left"],
  ["refresh token in the message", inMessage, { headers: notice("ended 0") }],
  ["cross-site", elsewhere, "permission_denied NONE CROSS_SITE KEEP unnamed left"],
];

// biome-ignore format: a table
const signInRows: readonly Row[] = [
  ["asks for cookies", asks("cookie", sameOrigin), { cookies: [access, refresh], headers: notice("created 0") }],
  ["asks for nothing, in a browser", asks(undefined, sameOrigin), { cookies: [access, refresh], headers: notice("created 0") }],
  ["asks for nothing", asks(undefined, {}), { headers: { ...notice("created 0"), ...headerTokens, ...headerRefreshToken } }],
  ["asks for headers beside cookies", headersBesideCookies, "permission_denied NONE TRANSPORT_REFUSED KEEP unnamed left"],
  ["asks for headers beside cookies, as an app sends them", headersBesideJar, { headers: { ...notice("created 0"), ...headerTokens, ...headerRefreshToken } }],
  ["asks for headers, in a browser", asks("header", sameOrigin), "permission_denied NONE TRANSPORT_REFUSED KEEP unnamed left"],
  ["asks for cookies, cross-site", asks("cookie", crossSite), "permission_denied NONE CROSS_SITE KEEP unnamed left"],
  ["asks for nothing, cross-site beside cookies", elsewhere, "permission_denied NONE TRANSPORT_REFUSED KEEP unnamed left"],
];

function written({ cookies = [], headers }: Written, wire: Wire): Facts {
  const inBody = wire.protocol.startsWith("connect") ? [] : ["grpc-status"];
  return { httpStatus: 200, code: "ok", details: [], setCookie: cookies, headers, inBody };
}

/** These methods are public, so only cleared cookies forbid caching. */
function refused(line: RefusalLine, cell: Cell, request: SessionRequest): Facts {
  const refusal = refusalFacts(readRefusal(line), cell, request);
  const { vary: _vary, "cache-control": caching, ...headers } = refusal.headers;
  const cleared = refusal.setCookie.length > 0 && { "cache-control": caching };
  return { ...refusal, headers: { ...headers, ...cleared } };
}

describe.each([
  { name: "SignIn", method: signInMethod, rows: signInRows },
  { name: "Refresh", method: refreshMethod, rows: refreshRows },
  { name: "SignOut", method: signOutMethod, rows: signOutRows },
])("feat:K2 $name", ({ method, rows }) => {
  let server: NotesServer;
  beforeAll(async () => {
    server = await startNotes();
  });
  afterAll(() => server.close());

  for (const [name, given, expected] of rows) {
    test.each(wires.map((wire) => [wireName(wire), wire] as const))(
      `${name}, %s`,
      async (_, wire) => {
        const request = await given(server);
        const { facts, leaks } = await callSession(server, wire, { method, request });
        expect(facts).toEqual(
          typeof expected === "string"
            ? refused(expected, { wire, method }, request)
            : written(expected, wire),
        );
        expect(leaks).toEqual([]);
      },
    );
  }
});
