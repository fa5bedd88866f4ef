// What anybody may send to SessionService, over every adapter.
import { brotliDecompressSync, constants, createBrotliCompress, createGzip } from "node:zlib";
import {
  Code,
  ConnectError,
  type ConnectRouter,
  createClient,
  createRouterTransport,
} from "@connectrpc/connect";
import { compressionBrotli } from "@connectrpc/connect-node";
import type { SessionEvent } from "rpc-session";
import { testSessions } from "rpc-session/testing";
import { verifySessions } from "rpc-session/verify";
import { beforeAll, describe, expect, it } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { SessionService } from "../../gen/rpcsession/v1/service_pb.ts";
import { serviceOptions } from "../../src/server/protect.ts";
import { notesApp } from "../helpers/notes.ts";
import { uploadH1 } from "../helpers/upload.ts";
import { envelope, type Wire } from "../helpers/wire.ts";
import { sendH1, sendH2 } from "../helpers/wire-http.ts";
import { wireServer } from "../helpers/wire-server.ts";
import { adapters, type Running } from "./adapters.ts";

const megabyte = 2 ** 20;
/** Megabytes of the message after decompression. */
const bombSize = 192;

/** Compresses one huge message without ever holding it in memory. */
async function bombOf(compressor: NodeJS.ReadWriteStream): Promise<Buffer<ArrayBuffer>> {
  const chunks: Buffer[] = [];
  compressor.on("data", (chunk: Buffer) => chunks.push(chunk));
  const done = new Promise((resolve) => compressor.on("end", resolve));
  const part = Buffer.alloc(megabyte, 0x20);
  for (let i = 0; i < bombSize; i++) {
    if (!compressor.write(part)) {
      await new Promise((resolve) => compressor.once("drain", resolve));
    }
  }
  compressor.end("{}");
  await done;
  return Buffer.concat(chunks);
}

const bombs = { br: Buffer.alloc(0), gzip: Buffer.alloc(0) };
beforeAll(async () => {
  const params = { [constants.BROTLI_PARAM_QUALITY]: 2, [constants.BROTLI_PARAM_LGWIN]: 24 };
  bombs.br = await bombOf(createBrotliCompress({ params }));
  bombs.gzip = await bombOf(createGzip());
}, 120_000);

/** Sends a message without any token, compressed. */
async function send(
  server: Running,
  { protocol, http }: Wire,
  { method, encoding }: { readonly method: string; readonly encoding: keyof typeof bombs },
): Promise<string> {
  const enveloped = protocol.startsWith("grpc");
  const types = {
    "connect-json": "application/json",
    "connect-proto": "application/proto",
    grpc: "application/grpc+json",
    "grpc-web": "application/grpc-web+json",
  };
  const request = {
    method: "POST",
    path: `/rpcsession.v1.SessionService/${method}`,
    headers: {
      "content-type": types[protocol],
      [enveloped ? "grpc-encoding" : "content-encoding"]: encoding,
      ...(protocol === "grpc" && { te: "trailers" }),
    },
    body: enveloped ? envelope(1, bombs[encoding]) : bombs[encoding],
  } as const;
  const { headers, trailers, body } =
    http === "h1" ? await sendH1(server.port.h1, request) : await sendH2(server.h2(), request);
  return [...headers, ...trailers].join("\n") + body.toString();
}

describe.each(adapters)("$name", (adapter) => {
  it("answers a compressed message of 192 MB to SessionService without decompressing it", async () => {
    const sessions = testSessions({ public: [NotesService.method.signIn] });
    const server = await adapter.start(sessions, notesApp(sessions).routes);
    const peak = (): number => process.resourceUsage().maxRSS / 1024;
    const before = peak();
    for (const protocol of adapter.protocols) {
      for (const method of ["Refresh", "SignOut"]) {
        for (const encoding of ["br", "gzip"] as const) {
          const text = await send(server, { protocol, http: adapter.http }, { method, encoding });
          // The name of Connect, the number of gRPC, or an adapter that decompresses nothing.
          expect(text).toMatch(/resource_exhausted|grpc-status(: |,)8|unknown(%20| )compression/);
        }
      }
    }
    // One whole message would take at least its size.
    expect(peak() - before).toBeLessThan(bombSize / 2);
    await server.close();
  });
});

/** The adapters that write to Node's own responses; a fetch handler leaves connections to its runtime. */
const ofNode = adapters.filter(({ name, http }) => http === "h1" && name.startsWith("connect-"));

describe.each(ofNode)("$name", (adapter) => {
  it("closes the connection of a large upload that it refused", async () => {
    const sessions = testSessions();
    const server = await adapter.start(sessions, (router) => router.service(NotesService, {}));
    const sending = await uploadH1(server.port.h1, {
      path: "/notes.v1.NotesService/AddNote",
      headers: { "content-type": "application/json" },
      start: Buffer.from("{"),
      length: 100 * megabyte,
    });
    const answer = await sending.answer;
    expect(answer).toContain("HTTP/1.1 401");
    expect(answer).toMatch(/\r\nconnection: close\r\n/i);
    sessions.clock.advance("2s");
    await sending.closed;
    await server.close();
  });
});

describe("the limit of SessionService", () => {
  it("is far above every legitimate message, and is the limit of the decompression", async () => {
    const limits: (number | undefined)[] = [];
    const sessions = testSessions();
    const server = wireServer(
      sessions.protect({
        acceptCompression: [
          {
            ...compressionBrotli,
            decompress: (bytes, readMaxBytes) => {
              limits.push(readMaxBytes);
              return compressionBrotli.decompress(bytes, readMaxBytes);
            },
          },
        ],
        routes: () => {},
      }),
    );
    await server.fetch(
      new Request("https://test.example/rpcsession.v1.SessionService/Refresh", {
        method: "POST",
        headers: { "content-type": "application/json", "content-encoding": "br" },
        body: new Uint8Array(bombs.br),
      }),
    );
    expect(limits).toEqual([4096]);
    expect(brotliDecompressSync(bombs.br).length).toBe(bombSize * megabyte + 2);
    const { tokens } = await sessions.issue({ userId: "a".repeat(255), tenantId: "t".repeat(255) });
    const answer = await server.call(SessionService.method.refresh, tokens);
    expect(answer.error).toBeUndefined();
    expect(tokens.refreshToken.length).toBeLessThan(256);
  });

  it.each([
    ["by protect", undefined, 4096],
    ["with a smaller limit of the adapter", { readMaxBytes: 1000 }, 1000],
    ["with a larger limit of the adapter", { readMaxBytes: megabyte }, 4096],
  ])("holds where the service is added %s", async (_, given, limit) => {
    for (const own of [false, true]) {
      const sessions = testSessions();
      const server = wireServer(
        sessions.protect({
          ...given,
          routes: (router) => {
            if (own) {
              router.service(SessionService, { ...sessions.service });
            }
          },
        }),
      );
      const fits = await server.call(SessionService.method.refresh, {
        refreshToken: "x".repeat(limit - 40),
      });
      expect(fits.error?.code).toBe(Code.Unauthenticated);
      const more = await server.call(SessionService.method.refresh, {
        refreshToken: "x".repeat(limit),
      });
      expect(more.error?.code).toBe(Code.ResourceExhausted);
    }
  });

  it("can be raised by name only", async () => {
    for (const [readMaxBytes, code] of [
      [undefined, Code.ResourceExhausted],
      [10_000, Code.Unauthenticated],
    ] as const) {
      const sessions = testSessions();
      const server = wireServer(
        sessions.protect({
          routes: (router) =>
            router.service(SessionService, sessions.service, { readMaxBytes } as object),
        }),
      );
      const answer = await server.call(SessionService.method.refresh, {
        refreshToken: "x".repeat(5000),
      });
      expect(answer.error?.code).toBe(code);
    }
  });

  it("does not bring back a protocol that the adapter has switched off", async () => {
    const sessions = testSessions();
    const { routes, ...router } = sessions.protect({
      grpc: false,
      grpcWeb: false,
      routes: (given: ConnectRouter) => given,
    });
    const handlers: string[] = [];
    createRouterTransport(
      (given) => {
        routes(given);
        handlers.push(...given.handlers.flatMap(({ protocolNames }) => protocolNames));
      },
      { router },
    );
    expect(new Set(handlers)).toEqual(new Set(["connect"]));
  });

  it("comes as serviceOptions for a router that is built without protect", async () => {
    const sessions = testSessions();
    expect(sessions.serviceOptions).toBe(serviceOptions);
    const transport = createRouterTransport(
      (router) => router.service(SessionService, sessions.service, sessions.serviceOptions),
      { router: { requestGate: sessions.requestGate, interceptors: [sessions.interceptor] } },
    );
    const rpc = createClient(SessionService, transport);
    const error = await rpc
      .refresh({ refreshToken: "x".repeat(5000) })
      .catch((reason: unknown) => ConnectError.from(reason));
    expect(error).toMatchObject({ code: Code.ResourceExhausted });
  });
});

describe("feat:N6 a server whose messages have no limit", () => {
  const warning = {
    type: "warning",
    option: "readMaxBytes",
    advice: expect.stringContaining("1 MiB"),
  };
  const warningsOf = (
    options: Readonly<Record<string, unknown>>,
    perService?: Readonly<Record<string, unknown>>,
  ): SessionEvent[] => {
    const events: SessionEvent[] = [];
    const sessions = testSessions({ onEvent: (event) => events.push(event) });
    for (let i = 0; i < 2; i++) {
      wireServer(
        sessions.protect({
          ...options,
          routes: (router) => router.service(NotesService, {}, perService),
        }),
      );
    }
    return events;
  };

  it("is reported once, when its routes are built", () => {
    expect(warningsOf({})).toEqual([warning]);
    expect(warningsOf({ readMaxBytes: undefined })).toEqual([warning]);
    expect(warningsOf({ readMaxBytes: megabyte }, { readMaxBytes: undefined })).toEqual([warning]);
  });

  it("is not reported if the adapter or each service has a limit", () => {
    expect(warningsOf({ readMaxBytes: megabyte })).toEqual([]);
    expect(warningsOf({ readMaxBytes: megabyte }, {})).toEqual([]);
    expect(warningsOf({}, { readMaxBytes: megabyte })).toEqual([]);
  });

  it("is reported where sessions are only verified, and by each instance", () => {
    for (let i = 0; i < 2; i++) {
      const events: SessionEvent[] = [];
      const sessions = verifySessions({
        issuer: "https://api.example.com",
        jwks: "https://api.example.com/.well-known/jwks.json",
        onEvent: (event) => events.push(event),
      });
      wireServer(sessions.protect({ routes: (router) => router.service(NotesService, {}) }));
      expect(events).toEqual([warning]);
    }
  });
});
