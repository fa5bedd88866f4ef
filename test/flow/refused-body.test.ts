import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { present } from "../helpers/presented.ts";
import { type NotesServer, startNotes } from "../helpers/server.ts";
import {
  heldMegabytes,
  residentMegabytes,
  type Upload,
  uploadH1,
  uploadH2,
} from "../helpers/upload.ts";
import { envelope, envelopePrefix } from "../helpers/wire.ts";

const megabyte = 2 ** 20;
const size = 100 * megabyte;

interface Way {
  readonly name: string;
  readonly http: "h1" | "h2c";
  readonly method: "AddNote" | "ImportNotes";
  readonly type: string;
  /** Whether the body is a message, or messages in envelopes. */
  readonly enveloped: boolean;
  /** Text that the response of the refusal contains. */
  readonly refused: string;
}

const connectCode = '"code":"unauthenticated"';
const unreadable = /"code":"invalid_argument"|parse(%20| )binary/;

// biome-ignore format: a table
const ways: readonly Way[] = [
  { name: "Connect JSON", http: "h1", method: "AddNote", type: "application/json", enveloped: false, refused: connectCode },
  { name: "Connect binary", http: "h1", method: "AddNote", type: "application/proto", enveloped: false, refused: connectCode },
  { name: "Connect client stream", http: "h1", method: "ImportNotes", type: "application/connect+proto", enveloped: true, refused: connectCode },
  { name: "gRPC-Web unary", http: "h1", method: "AddNote", type: "application/grpc-web+proto", enveloped: true, refused: "grpc-status: 16" },
  { name: "Connect JSON", http: "h2c", method: "AddNote", type: "application/json", enveloped: false, refused: connectCode },
  { name: "Connect client stream", http: "h2c", method: "ImportNotes", type: "application/connect+json", enveloped: true, refused: connectCode },
  { name: "gRPC unary", http: "h2c", method: "AddNote", type: "application/grpc+proto", enveloped: true, refused: '"grpc-status":"16"' },
  { name: "gRPC client stream", http: "h2c", method: "ImportNotes", type: "application/grpc+proto", enveloped: true, refused: '"grpc-status":"16"' },
];

let server: NotesServer;
beforeEach(async () => {
  server = await startNotes();
});
afterEach(() => server.close());

interface Body {
  readonly headers?: Readonly<Record<string, string>>;
  readonly start: Buffer;
  readonly length: number;
}

async function upload(way: Way, { headers = {}, start, length }: Body): Promise<Upload> {
  const request = {
    path: `/notes.v1.NotesService/${way.method}`,
    headers: {
      "content-type": way.type,
      ...(way.name.startsWith("gRPC ") && { te: "trailers" }),
      ...headers,
    },
    start,
    length,
  };
  return way.http === "h1" ? uploadH1(server.port.h1, request) : uploadH2(server.h2(), request);
}

/** The first bytes of one large message. */
function startOfGreat({ enveloped }: Way): Buffer {
  return enveloped ? envelopePrefix(0, size - 5) : Buffer.from('{"note":{"text":"');
}

describe.each(ways)("$name over $http", (way) => {
  test("is refused after the headers of a 100 MB upload, and its body is not buffered", async () => {
    const residentBefore = residentMegabytes();
    const heldBefore = await heldMegabytes();
    const sending = await upload(way, { start: startOfGreat(way), length: size });
    const answer = await sending.answer;
    expect(answer).toContain(way.refused);
    expect(sending.sent()).toBeLessThan(100);

    let held = 0;
    let resident = 0;
    for (let sent = 10; sent <= 100; sent += 10) {
      await sending.sendUpTo(sent * megabyte);
      held = Math.max(held, await heldMegabytes());
      resident = Math.max(resident, residentMegabytes());
    }
    expect(held - heldBefore).toBeLessThan(15);
    expect(resident - residentBefore).toBeLessThan(30);
    expect(server.calls.handled).toBe(0);
    sending.end();
  });

  test("is refused before the message is found to be invalid", async () => {
    const junk = Buffer.from([0x7b, 0xff, 0xff, 0xff]);
    const start = way.enveloped ? envelope(0, junk) : junk;
    const refused = await upload(way, { start, length: start.length });
    expect(await refused.answer).toContain(way.refused);
    expect(await refused.answer).not.toMatch(unreadable);
    refused.end();

    const { headers } = await present(server, "cookie");
    const passed = await upload(way, { headers, start, length: start.length });
    expect(await passed.answer).toMatch(unreadable);
    passed.end();
  });
});

test("control: the body of a call with a session is buffered and measured", async () => {
  const { headers } = await present(server, "cookie");
  const way = ways[2] as Way;
  const before = await heldMegabytes();
  const sending = await upload(way, { headers, start: startOfGreat(way), length: size });
  await sending.sendUpTo(50 * megabyte);
  expect((await heldMegabytes()) - before).toBeGreaterThan(40);
  sending.end();
});

describe("the HTTP/1.1 connection of a refused upload", () => {
  const kilobyte = 1024;
  const begin = (length: number, given: Partial<Way> = {}) => {
    const way = { ...(ways[0] as Way), ...given };
    const start = Number.isFinite(length) ? Buffer.from("{") : Buffer.from("1\r\n{\r\n");
    return uploadH1(server.port.h1, {
      path: `/notes.v1.NotesService/${way.method}`,
      headers: { "content-type": way.type },
      start,
      length,
    });
  };

  test("serves the next request if the body was at most 256 KB", async () => {
    const sending = await begin(256 * kilobyte);
    const answer = await sending.answer;
    expect(answer).toContain("HTTP/1.1 401");
    expect(answer).not.toMatch(/connection: close/i);
    await sending.sendUpTo(256 * kilobyte);
    expect(await sending.again("{}")).toContain("HTTP/1.1 401");
    sending.end();
  });

  test.each([
    ["of a larger one", 256 * kilobyte + 1, {}],
    ["of a larger one with envelopes", size, ways[2]],
    ["of a larger one over gRPC-Web", size, ways[3]],
    ["of one without a length", Number.POSITIVE_INFINITY, {}],
  ] as const)(
    "is closed 2 s after the answer, however much the client still sends: %s",
    async (_, length, way) => {
      const sending = await begin(length, way);
      const answer = await sending.answer;
      expect(answer).toMatch(/^HTTP\/1\.1 (401|200)/);
      expect(answer).toMatch(/\r\nconnection: close\r\n/i);
      expect(answer).toMatch(/\r\ncontent-length: [1-9]/i);
      // The client may go on for a while, so that it does not lose the answer.
      await sending.sendUpTo(128 * kilobyte);
      server.sessions.clock.advance("2s");
      await sending.closed;
      await sending.sendUpTo(10 * megabyte);
      expect(sending.sent()).toBeLessThan(10 * megabyte);
    },
  );

  test.each([
    ["over Connect", "Refresh", "application/json", Buffer.from("{"), /429/],
    ["over gRPC-Web", "SignOut", "application/grpc-web+proto", envelopePrefix(0, size), /200/],
    [
      "in chunks",
      "Refresh",
      "application/json",
      Buffer.from(`2710\r\n{"${" ".repeat(9998)}\r\n`),
      /429/,
    ],
    ["of an unknown type", "Refresh", "text/html", Buffer.from("{"), /415/],
  ])(
    "is closed as well if a public method does not read it to its end: %s",
    async (name, method, type, start, status) => {
      const sending = await uploadH1(server.port.h1, {
        path: `/rpcsession.v1.SessionService/${method}`,
        headers: { "content-type": type },
        start,
        length: name === "in chunks" ? Number.POSITIVE_INFINITY : size,
      });
      const answer = await sending.answer;
      expect(answer.slice(0, 12)).toMatch(status);
      expect(answer).toMatch(/\r\nconnection: close\r\n/i);
      server.sessions.clock.advance("2s");
      await sending.closed;
    },
  );

  test("is closed when the client has sent all of it", async () => {
    const sending = await begin(megabyte);
    expect(await sending.answer).toContain("HTTP/1.1 401");
    await sending.sendUpTo(megabyte);
    await sending.closed;
  });

  test("stays open after an upload that was admitted", async () => {
    const { headers } = await present(server, "cookie");
    const body = JSON.stringify({ note: { text: "x".repeat(300 * kilobyte) } });
    const sending = await uploadH1(server.port.h1, {
      path: "/notes.v1.NotesService/AddNote",
      headers: { "content-type": "application/json", ...headers },
      start: Buffer.from(body),
      length: body.length,
    });
    const answer = await sending.answer;
    expect(answer).toContain("HTTP/1.1 200");
    expect(answer).not.toMatch(/connection: close/i);
    expect(await sending.again("{}")).toContain("HTTP/1.1 200");
    sending.end();
  });

  test("a client that closes it first leaves nothing behind", async () => {
    const sending = await begin(size);
    expect(await sending.answer).toContain("HTTP/1.1 401");
    sending.end();
    await sending.closed;
    // The server closes at the end of the test; it would fail if the connection were still open.
  });
});
