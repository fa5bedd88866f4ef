import { afterAll, beforeAll, describe, expect, test } from "vitest";
import {
  factsOf,
  leaksOf,
  passedFacts,
  type RefusalLine,
  readRefusal,
  refusalFacts,
} from "../helpers/golden.ts";
import { cells, seedNote } from "../helpers/kinds.ts";
import type { Presented } from "../helpers/presented.ts";
import { type NotesServer, startNotes } from "../helpers/server.ts";
import * as state from "../helpers/states.ts";
import { callWire, wireName } from "../helpers/wire.ts";
import { sendH1 } from "../helpers/wire-http.ts";

/** A state of the session, and the result in every protocol; then that of a Connect GET, if it differs. */
type Row = readonly [
  name: string,
  given: state.State,
  expected: RefusalLine | "passes",
  onGet?: "passes",
];

/** Columns: code, action, reason, tokens, whether the hint names the session, cookies. */
// biome-ignore format: a table
const cookieRows: readonly Row[] = [
  ["valid", state.valid, "passes"],
  ["valid, by Origin alone", state.byOriginAlone, "passes"],
  ["none", state.none, "unauthenticated SIGN_IN SESSION_MISSING KEEP unnamed left"],
  ["refresh only", state.refreshOnly, "unauthenticated REFRESH ACCESS_TOKEN_MISSING KEEP unnamed left"],
  ["expired", state.expired, "unauthenticated REFRESH TOKEN_EXPIRED KEEP named left"],
  ["malformed, with refresh", state.malformed, "unauthenticated REFRESH TOKEN_INVALID KEEP unnamed left"],
  ["of another issuer", state.foreignIssuer, "unauthenticated SIGN_IN SESSION_MISSING KEEP unnamed left"],
  ["malformed alone", state.malformedAlone, "unauthenticated REFRESH TOKEN_INVALID KEEP unnamed left"],
  ["unknown key", state.foreignKey, "unauthenticated REFRESH TOKEN_INVALID KEEP unnamed left"],
  ["maybe a newer key", state.newerKey, "unauthenticated REFRESH TOKEN_INVALID KEEP unnamed left"],
  ["maybe a newer key, keys out of reach", state.keysOutOfReach, "unavailable RETRY_LATER AUTH_UNAVAILABLE KEEP unnamed left 5s"],
  ["valid, change log out of reach", state.changesOutOfReach, "unavailable RETRY_LATER AUTH_UNAVAILABLE KEEP unnamed left 1s"],
  ["wrong signature", state.wrongSignature, "unauthenticated REFRESH TOKEN_INVALID KEEP unnamed left"],
  ["two sessions", state.twoSessions, "unauthenticated REFRESH TOKEN_CONFLICT KEEP unnamed left"],
  ["revoked", state.revoked, "unauthenticated SIGN_IN SESSION_REVOKED CLEAR named cleared"],
  ["just signed out", state.justSignedOut, "unauthenticated SIGN_IN SESSION_REVOKED KEEP named left"],
  ["signed out 61 s ago", state.signedOut, "unauthenticated SIGN_IN SESSION_REVOKED CLEAR named cleared"],
  ["anti-CSRF token", state.antiCsrf, "passes"],
  ["no anti-CSRF token", state.noAntiCsrf, "unauthenticated REFRESH ANTI_CSRF KEEP named left", "passes"],
  ["wrong anti-CSRF token", state.badAntiCsrf, "unauthenticated REFRESH ANTI_CSRF KEEP named left", "passes"],
  ["cross-site", state.crossSite, "permission_denied NONE CROSS_SITE KEEP unnamed left"],
  ["same-site, other origin", state.sameSite, "permission_denied NONE CROSS_SITE KEEP unnamed left"],
  ["neither Sec-Fetch-Site nor Origin", state.unknownSite, "permission_denied NONE CROSS_SITE KEEP unnamed left"],
  ["typed into the address bar", state.noPage, "permission_denied NONE CROSS_SITE KEEP unnamed left", "passes"],
];
// biome-ignore format: a table
const headerRows: readonly Row[] = [
  ["valid", state.headerValid, "passes"],
  ["cross-site", state.headerCrossSite, "passes"],
  ["no anti-CSRF token", state.headerNoAntiCsrf, "passes"],
  ["expired", state.headerExpired, "unauthenticated REFRESH TOKEN_EXPIRED KEEP named left"],
  ["malformed", state.headerMalformed, "unauthenticated REFRESH TOKEN_INVALID KEEP unnamed left"],
  ["malformed, good cookies", state.headerMalformedBesideCookies, "unauthenticated REFRESH TOKEN_INVALID KEEP unnamed left"],
  ["unknown key", state.headerForeignKey, "unauthenticated REFRESH TOKEN_INVALID KEEP unnamed left"],
  ["a cookie's token", state.cookieTokenInHeader, "unauthenticated REFRESH TOKEN_CONFLICT KEEP unnamed left"],
  ["another session's cookies", state.headerBesideOtherCookies, "passes"],
  ["revoked", state.headerRevoked, "unauthenticated SIGN_IN SESSION_REVOKED CLEAR named left"],
  ["just signed out", state.headerJustSignedOut, "unauthenticated SIGN_IN SESSION_REVOKED KEEP named left"],
];

for (const [transport, rows] of [
  ["cookie", cookieRows] as const,
  ["header", headerRows] as const,
]) {
  for (const [name, given, expected, onGet] of rows) {
    describe(`feat:Q3 ${transport} transport, ${name}`, () => {
      let server: NotesServer;
      let presented: Presented;

      beforeAll(async () => {
        server = await startNotes({ sessions: given.options ?? {} });
        presented = await given.present(server, (headers) => seedNote(server, headers));
      });
      afterAll(() => server.close());

      for (const { kind, wire } of cells) {
        const outcome = (kind.get ? onGet : undefined) ?? expected;
        test(`${kind.name}, ${wireName(wire)}: ${outcome}`, async () => {
          server.calls.handled = 0;
          server.seen.cookie = "no interceptor ran";
          const result = await callWire(server, wire, { ...kind, headers: presented.headers });
          const cell = { wire, ...kind };
          const passed = outcome === "passes";
          expect(factsOf(result)).toEqual(
            passed ? passedFacts(cell) : refusalFacts(readRefusal(outcome), cell, presented),
          );
          expect(leaksOf(result, presented.secrets)).toEqual([]);
          expect(result.messages).toHaveLength(passed ? kind.answers : 0);
          expect(server.calls.handled).toBe(passed ? 1 : 0);
          const rest = presented.headers.cookie === undefined ? null : "theme=dark";
          expect(server.seen.cookie).toBe(passed ? rest : "no interceptor ran");
        });
      }
    });
  }
}

test("Connect itself refuses bidi over HTTP/1.1, before any session is checked", async () => {
  const server = await startNotes();
  for (const type of ["connect+json", "connect+proto", "grpc-web+proto"]) {
    const { status, headers } = await sendH1(server.port.h1, {
      method: "POST",
      path: "/notes.v1.NotesService/SyncNotes",
      headers: { "content-type": `application/${type}` },
      body: Buffer.alloc(0),
    });
    expect(status).toBe(505);
    expect(headers.filter(([name]) => /rpcsession|cookie|authenticate/.test(name))).toEqual([]);
  }
  expect(server.calls.handled).toBe(0);
  await server.close();
});
