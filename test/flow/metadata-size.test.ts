import { fromBinary } from "@bufbuild/protobuf";
import type { HandlerContext } from "@connectrpc/connect";
import { type TestSessions, testSessions } from "rpc-session/testing";
import { describe, expect, test } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { PolicyViolationsSchema } from "../../gen/rpcsession/v1/hint_pb.ts";
import { SessionService } from "../../gen/rpcsession/v1/service_pb.ts";
import { byHeader } from "../helpers/presented.ts";
import { startNotes } from "../helpers/server.ts";
import { callWire, type WireResult, wireName, wires } from "../helpers/wire.ts";

/** What gRPC's C core accepts by default, in bytes. */
const softLimit = 8_192;
/** The size of a header as HTTP/2 counts it: RFC 9113 section 10.5.1. */
const sizeOf = (name: string, value: string): number => name.length + value.length + 32;

function responseSize({ headers }: WireResult): number {
  return [[":status", "200"] as const, ...headers].reduce(
    (sum, [name, value]) => sum + sizeOf(name, value),
    0,
  );
}

/** The size of a request as a C-core client sends it, for example from Python. */
function requestSize(path: string, access: string): number {
  const headers = [
    ...[[":path", path] as const, [":authority", "api.production.example.com:443"] as const],
    ...[[":method", "POST"] as const, [":scheme", "https"] as const],
    ...[["content-type", "application/grpc"] as const, ["te", "trailers"] as const],
    ["grpc-accept-encoding", "identity, deflate, gzip"] as const,
    ["user-agent", "grpc-python/1.76.0 grpc-c/51.0.0 (linux; chttp2)"] as const,
    ["authorization", `Bearer ${access}`] as const,
  ];
  return headers.reduce((sum, [name, value]) => sum + sizeOf(name, value), 0);
}

/** The greatest number of characters that a check accepts. */
async function largest(fits: (length: number) => Promise<boolean>): Promise<number> {
  let length = 0;
  for (let step = 8_192; step >= 1; step /= 2) {
    length += (await fits(length + step)) ? step : 0;
  }
  return length;
}

describe.each([
  { name: "without clientClaims", shown: false },
  { name: "with clientClaims", shown: true },
])("$name", ({ shown }) => {
  test("feat:Q3 feat:N4 the largest claims that are accepted fit the metadata of a gRPC client, in requests and responses", async () => {
    // Form encoding makes three bytes of each quote.
    const claimsOf = (length: number) => ({
      note: "'".repeat(Math.min(length, 500)),
      rest: "x".repeat(Math.max(0, length - 500)),
    });
    let length = 0;
    const signIn = (sessions: TestSessions, context: HandlerContext) =>
      sessions.create(context, { userId: "alice", claims: claimsOf(length) });
    const server = await startNotes({
      sessions: shown ? { clientClaims: ({ note }) => ({ note }) } : {},
      adapt: (sessions) =>
        sessions.protect({
          routes: (router) =>
            router.service(NotesService, {
              async signIn(_request, context) {
                await signIn(sessions, context);
                return {};
              },
            }),
        }),
    });
    length = await largest((given) =>
      server.sessions.issue({ userId: "alice", claims: claimsOf(given) }).then(
        () => true,
        (error: Error) => {
          expect(error.message).toMatch(
            /^the claims are too large: .*; use fewer or shorter claims/,
          );
          return false;
        },
      ),
    );
    expect(length).toBeGreaterThan(shown ? 3_500 : 4_900);
    const wire = { protocol: "grpc", http: "h2c" } as const;
    const signedIn = await callWire(server, wire, {
      ...{ method: NotesService.method.signIn, messages: [{}], headers: {} },
    });
    const refreshToken = signedIn.headers.get("rpcsession-refresh-token");
    const refreshed = await callWire(server, wire, {
      ...{ method: SessionService.method.refresh, messages: [{ refreshToken }], headers: {} },
    });
    for (const result of [signedIn, refreshed]) {
      expect(result.code).toBe("ok");
      expect(responseSize(result)).toBeLessThanOrEqual(softLimit);
      // The limit is not stricter than it has to be.
      expect(responseSize(result)).toBeGreaterThan(softLimit - 700);
      const access = result.headers.get("rpcsession-access-token") ?? "";
      const path = "/example.production.notes.v1.NotesService/ListNotesOfUser";
      expect(requestSize(path, access)).toBeLessThanOrEqual(softLimit);
    }
    await server.close();
  });
});

test.each(wires.map((wire) => [wireName(wire), wire] as const))(
  "sec:A05 feat:L5 feat:L9 a refusal with reasons of any length reaches the client, over %s",
  async (_, wire) => {
    const long = "x".repeat(100_000);
    const claims = Object.fromEntries(
      Array.from({ length: 50 }, (_unused, i) => [`claim${i}`, { anyOf: [long] }]),
    );
    const server = await startNotes({
      sessions: {
        authorize: { decide: async () => ({ deny: `${"x".repeat(253)}😀${long}` }) },
        methods: { "notes.v1.NotesService/AddNote": { claims } },
      },
    });
    const { session, tokens } = await server.sessions.issue({ userId: "alice" });
    const { headers } = byHeader(session.id, tokens.accessToken);
    for (const [method, first] of [
      ["listNotes", "x".repeat(253)] as const,
      ["addNote", "one of"] as const,
    ]) {
      const result = await callWire(server, wire, {
        ...{ method: NotesService.method[method], messages: [{}], headers },
      });
      expect(result.code).toBe("permission_denied");
      const detail = result.details.find(({ type }) => type.endsWith("PolicyViolations"));
      const bytes = Buffer.from(detail?.value ?? "", "hex");
      expect(bytes.length).toBeLessThan(3_000);
      const { violations } = fromBinary(PolicyViolationsSchema, bytes);
      expect(violations.length).toBe(method === "addNote" ? 6 : 1);
      for (const { requirement } of violations) {
        expect(requirement.startsWith(first)).toBe(true);
        expect(requirement).toMatch(/^.{254}…$/u);
      }
    }
    await server.close();
  },
);

test("feat:E1 feat:N4 a change of claims that would outgrow the metadata of a gRPC client is refused", async () => {
  const sessions = testSessions({ clientClaims: ({ note }) => ({ note }) });
  // The token alone would fit, and so would the claims that the client may read.
  const claims = { note: "'".repeat(950), rest: "x".repeat(2_600) };
  for (const transport of ["header", "cookie"] as const) {
    const { session } = await sessions.issue({ userId: "alice", transport });
    const changed = sessions.updateClaims(session.id, { note: claims.note });
    await expect(changed).resolves.toBeDefined();
    await expect(sessions.updateClaims(session.id, claims)).rejects.toThrow(
      transport === "header"
        ? /updateClaims: the claims are too large: the headers of a response could reach [89]\d{3} bytes, and gRPC clients accept 8192;/
        : /updateClaims: the claims are too large: the access token could reach/,
    );
    expect((await sessions.find(session.id))?.claims).toEqual({ note: claims.note });
  }
});
