import { execFile } from "node:child_process";
import { readFileSync } from "node:fs";
import { type IncomingHttpHeaders, request, type ServerResponse } from "node:http";
import { createSecureServer, type ServerHttp2Stream } from "node:http2";
import { createServer as createHttpsServer } from "node:https";
import { type AddressInfo, createServer as createTcpServer } from "node:net";
import { join } from "node:path";
import { create, toBinary } from "@bufbuild/protobuf";
import { cors } from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { type CookieOptions, createSessions, keepAlive, sessionCors } from "rpc-session";
import { jwksFallback } from "rpc-session/http";
import { memoryStore } from "rpc-session/stores/memory";
import { createFakeClock } from "rpc-session/testing";
import { describe, expect, it, onTestFinished } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { Reason, RefreshHintSchema } from "../../gen/rpcsession/v1/hint_pb.ts";
import type { Finding } from "../../src/cli/doctor/findings.ts";
import type { RpcReply } from "../../src/cli/doctor/rpc.ts";
import { lookAtIssuer } from "../../src/cli/doctor/service.ts";
import { run } from "../../src/cli/run.ts";
import { listenForTest } from "../helpers/listen.ts";
import {
  listenOnBoth,
  type Passed,
  type ProxyFault,
  type ServiceOptions,
  startProxy,
  startService,
} from "./doctor-servers.ts";

const page = "http://127.0.0.1:5173";

interface Examined {
  readonly code: number;
  readonly findings: readonly Finding[];
}

async function doctor(args: readonly string[], stdin = ""): Promise<Examined> {
  const world = { env: {}, stdin: async () => stdin };
  const { code, stdout, stderr } = await run(["doctor", ...args, "--json"], world);
  expect(stderr).toBe("");
  const { findings, ok } = JSON.parse(stdout) as { findings: Finding[]; ok: boolean };
  expect(ok).toBe(code === 0);
  return { code, findings };
}

/** What is not in order, as "severity check: what was seen -> what mends it". */
function wrongOf({ findings }: Examined): string[] {
  const wrong = findings.filter(({ severity }) => severity !== "ok");
  for (const { seen, why, mend } of wrong) {
    for (const sentence of [seen, why, mend]) {
      expect(sentence).toMatch(/^(?:[A-Z\d]|gRPC).*\.$/);
    }
  }
  return wrong.map(({ severity, check, seen, mend }) => `${severity} ${check}: ${seen} -> ${mend}`);
}

/** Findings, each given by parts that it has in this order. */
function like(expected: readonly (readonly string[])[]): unknown[] {
  const escaped = (part: string) => part.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
  return expected.map((parts) => expect.stringMatching(new RegExp(parts.map(escaped).join(".*"))));
}

function renamed(headers: IncomingHttpHeaders, ...names: readonly string[]): IncomingHttpHeaders {
  return Object.fromEntries(Object.entries(headers).filter(([name]) => !names.includes(name)));
}

/** A proxy whose clock is late. */
function lateBy(ms: number): ProxyFault {
  const shift = (value: string) => new Date(Date.parse(value) - ms).toUTCString();
  return {
    response: (reply) => ({
      ...reply,
      headers: reply.headers.map(([name, value]): readonly [string, string] => {
        return [name, name.toLowerCase() === "date" ? shift(value) : value];
      }),
    }),
  };
}

/** A proxy that answers calls over gRPC-Web itself. */
function overWeb(answer: (response: ServerResponse) => void): ProxyFault {
  return {
    answer: (request, response) => {
      const isWeb = request.headers["x-grpc-web"] !== undefined;
      if (isWeb) {
        answer(response);
      }
      return isWeb;
    },
  };
}

/** What is in order, without the full stop. */
function inOrder({ findings }: Examined, check: string): readonly string[] {
  return findings
    .filter((one) => one.check === check && one.severity === "ok")
    .map((one) => one.seen);
}

type Http2Answer = (stream: ServerHttp2Stream) => void;

function without(...names: readonly string[]): ProxyFault["response"] {
  return (reply) => ({
    ...reply,
    headers: reply.headers.filter(([name]) => !names.includes(name.toLowerCase())),
  });
}

/** Changes every Set-Cookie line. */
function cookies(change: (lines: readonly string[]) => readonly string[]): ProxyFault["response"] {
  return (reply) => {
    const isCookie = ([name]: readonly [string, string]) => name.toLowerCase() === "set-cookie";
    const lines = reply.headers.filter(isCookie).map(([, value]) => value);
    return {
      ...reply,
      headers: [
        ...reply.headers.filter((pair) => !isCookie(pair)),
        ...(lines.length === 0 ? [] : change(lines)).map((line) => ["set-cookie", line] as const),
      ],
    };
  };
}

const replaced =
  (from: string | RegExp, to: string): ((lines: readonly string[]) => readonly string[]) =>
  (lines) =>
    lines.map((line) => line.replace(from, to));

const html =
  (status: number): ProxyFault["answer"] =>
  (_request, response) => {
    response.writeHead(status, { "content-type": "text/html" }).end("<!doctype html><p>Hello");
    return true;
  };

describe("feat:R1 rpc-session doctor", () => {
  it("finds all in order on a service with gRPC, CORS and published keys, with a real call and a stream", async () => {
    let handle: Parameters<typeof listenOnBoth>[0] = (_request, response) => response.end();
    const url = await listenOnBoth((req, res) => handle(req, res));
    const sessions = createSessions({
      ...{ issuer: url, store: memoryStore(), secret: "another secret, of 32 bytes or more" },
      ...{ cookies: { insecure: true }, origins: [url, page] },
    });
    onTestFinished(() => sessions.close());
    const lists = sessionCors({ ...cors, allowedOrigins: [page] });
    const adapter = connectNodeAdapter({
      ...sessions.protect({
        readMaxBytes: 65_536,
        routes: (router) =>
          router.service(NotesService, {
            watchNotes: (_request, context) =>
              keepAlive(context, (async function* () {})(), { message: {} }),
          }),
      }),
      fallback: jwksFallback(sessions),
    });
    handle = (req, res) => {
      const isHttp2 = req.httpVersion === "2.0";
      if (!isHttp2 && req.headers.origin === page) {
        res.setHeader("access-control-allow-origin", page);
        res.setHeader("access-control-allow-credentials", "true");
        res.setHeader("access-control-expose-headers", lists.exposedHeaders.join(", "));
      }
      if (req.method === "OPTIONS") {
        res.setHeader("access-control-allow-methods", lists.allowedMethods.join(", "));
        res.setHeader("access-control-allow-headers", lists.allowedHeaders.join(", "));
        res.writeHead(204).end();
      } else {
        adapter(req, res);
      }
    };
    const { tokens } = await sessions.issue({ userId: "alice" });
    const args = [url, "--origin", page, "--grpc", "--jwks", `${url}/.well-known/jwks.json`];
    const stream = ["--access-token-file", "-", "--stream", "notes.v1.NotesService/WatchNotes"];
    const examined = await doctor([...args, ...stream], tokens.accessToken);
    expect(wrongOf(examined)).toEqual([]);
    expect(examined.code).toBe(0);
    expect(examined.findings.map(({ check }) => check)).toEqual([
      ...["service", "issuer", "clock", "headers", "limits", "cookies", "cors"],
      ...["grpc-web", "grpc", "keys", "token", "stream"],
    ]);
    const seen = examined.findings.map((one) => one.seen).join("\n");
    expect(seen).toContain("over gRPC, with HTTP/2 and trailers");
    expect(seen).toContain("are in order: 1 key, ES256");
    expect(JSON.stringify(examined)).not.toContain(tokens.accessToken.slice(-20));
  });

  it("prints text for people, with a sum", async () => {
    const { url } = await startService();
    const { code, stdout } = await run(["doctor", url], { env: {} });
    expect(code).toBe(0);
    expect(stdout).toContain("ok    service   SessionService answers over Connect.\n");
    expect(stdout).toContain("\n10 ok, 0 to look at, 0 broken\n");
    const broken = await run(["doctor", url, "--origin", page], { env: {} });
    expect(broken.code).toBe(1);
    expect(broken.stdout).toMatch(/\n +Why: .+\n +Do: {2}.+\n/);
  });

  it.each<[string, ServiceOptions, readonly string[], readonly (readonly string[])[]]>([
    [
      "Secure cookies over http on this machine",
      { sessions: { cookies: {} } },
      [],
      [
        ["warn cookies", "access", "is Secure", "cookies: { insecure: true }"],
        ["warn cookies", "refresh", "is Secure", "cookies: { insecure: true }"],
      ],
    ],
    [
      "crossSite unchecked",
      { sessions: { crossSite: "unchecked" } },
      [],
      [["warn cookies", "any other site", 'crossSite: "unchecked"']],
    ],
    [
      "cookie names of its own",
      { sessions: { cookies: { insecure: true, names: { access: "a", refresh: "r" } } } },
      [],
      [["warn cookies", "default names", "--cookie"]],
    ],
    [
      "a refresh cookie that has another name than the given one",
      {},
      ["--cookie", "other"],
      [["fail cookies", "does not see the refresh cookie", "cookies.names.refresh"]],
    ],
    [
      "a cookie path that does not cover the calls",
      { sessions: { cookies: { insecure: true, path: "/api" } } },
      [],
      [
        ["fail cookies", "access", "Path=/api", "cookies.path"],
        ["fail cookies", "refresh", "Path=/api", "cookies.path"],
      ],
    ],
    [
      "SessionService without its limit",
      {
        protect: {},
        proxy: {
          // A gateway that reads the message and sends a short one on.
          answer: (request, response) => {
            if (
              !request.url?.endsWith("/Refresh") ||
              Number(request.headers["content-length"]) < 5000
            ) {
              return false;
            }
            request.resume();
            response.writeHead(401, { "content-type": "application/json" });
            // RefreshHint { action: SIGN_IN, reason: TOKEN_INVALID }
            const detail = { type: "rpcsession.v1.RefreshHint", value: "CAIQBA" };
            response.end(JSON.stringify({ code: "unauthenticated", details: [detail] }));
            return true;
          },
        },
      },
      [],
      [["warn limits", "more than 4 KiB", "sessions.protect"]],
    ],
    [
      "no CORS middleware, and an origin that is not listed",
      {},
      ["--origin", page],
      [
        ["fail cors", "preflight (OPTIONS) is answered with status 405", "sessionCors"],
        ["fail cors", "no Access-Control-Allow-Origin", "every response"],
        ["fail cors", "not in its option origins", `origins: ["${page}"]`],
      ],
    ],
    [
      "an origin that is missing in origins alone",
      { cors: [page] },
      ["--origin", page],
      [["fail cors", "not in its option origins", `origins: ["${page}"]`]],
    ],
    [
      "a page of another site",
      { cors: ["https://app.example.org"], sessions: { crossSite: "unchecked" } },
      ["--origin", "https://app.example.org"],
      [
        ["warn cookies", "any other site"],
        ["fail cors", "another site", 'sameSite: "none", partitioned: true'],
      ],
    ],
    [
      "missing exposed headers",
      { cors: [page], corsFault: () => ({ exposedHeaders: ["grpc-status"] }) },
      ["--origin", page],
      [
        ["fail cors", "does not expose", "rpcsession-session", "exposedHeaders of sessionCors"],
        ["fail cors", "origins"],
      ],
    ],
    [
      "missing allowed headers and methods",
      {
        cors: [page],
        corsFault: () => ({ allowedHeaders: ["content-type"], allowedMethods: ["GET"] }),
      },
      ["--origin", page],
      [
        [
          "fail cors",
          "does not allow the request headers",
          "rpcsession-transport",
          "allowedHeaders",
        ],
        ["warn cors", "POST", "allowedMethods"],
        ["fail cors", "origins"],
      ],
    ],
    [
      "CORS without credentials",
      { cors: [page], corsFault: () => ({ allowCredentials: false as true }) },
      ["--origin", page],
      [
        ["fail cors", "The preflight has no Access-Control-Allow-Credentials", "credentials: true"],
        ["fail cors", "The answer of the call has no", "credentials: true"],
        ["fail cors", "origins"],
      ],
    ],
    [
      "CORS with a wildcard",
      { cors: [page], corsFault: () => ({ allowedOrigins: ["*"] }) },
      ["--origin", page],
      [
        ["fail cors", "The preflight allows every origin", "allowedOrigins"],
        ["fail cors", "The answer of the call allows every origin", "allowedOrigins"],
        ["fail cors", "origins"],
      ],
    ],
    [
      "a preflight that is answered without CORS",
      {
        proxy: {
          answer: (request, response) => {
            const isPreflight = request.method === "OPTIONS";
            if (isPreflight) {
              response.writeHead(204).end();
            }
            return isPreflight;
          },
        },
        cors: [page],
        sessions: { crossSite: "unchecked" },
      },
      ["--origin", page],
      [
        ["warn cookies", "any other site"],
        [
          "fail cors",
          `does not allow ${page}: it has no Access-Control-Allow-Origin`,
          "sessionCors",
        ],
      ],
    ],
    [
      "CORS for another origin",
      {
        cors: [page],
        proxy: {
          response: (reply) => ({
            ...reply,
            headers: reply.headers.map(([name, value]): readonly [string, string] => [
              name,
              name === "access-control-allow-origin" ? "https://other.example" : value,
            ]),
          }),
        },
        sessions: { crossSite: "unchecked" },
      },
      ["--origin", page],
      [
        ["warn cookies", "any other site"],
        ["fail cors", `The preflight allows another origin than ${page}`, "allowedOrigins"],
        ["fail cors", `The answer of the call allows another origin than ${page}`],
      ],
    ],
    [
      "CORS that reflects every origin",
      {
        proxy: {
          response: (reply) => ({
            ...reply,
            headers: [
              ...reply.headers,
              ["access-control-allow-origin", "https://rpc-session-doctor.invalid"],
              ["access-control-allow-credentials", "true"],
            ],
          }),
        },
      },
      [],
      [["fail cors", "allows every origin, with credentials", "Do not reflect"]],
    ],
    [
      "gRPC that must work, without HTTP/2",
      {},
      ["--grpc"],
      [["fail grpc", "There is no HTTP/2", "http2.create"]],
    ],
    [
      "keys that are expected and missing",
      {},
      ["--jwks", "JWKS"],
      [["fail keys", "There are no keys", "status 404", "jwksHandler"]],
    ],
  ])("reports %s", async (_title, options, args, expected) => {
    const { url } = await startService(options);
    const given = args.map((arg) => (arg === "JWKS" ? `${url}/.well-known/jwks.json` : arg));
    expect(wrongOf(await doctor([url, ...given]))).toEqual(like(expected));
  });

  it.each<[string, ProxyFault, readonly (readonly string[])[]]>([
    [
      "drops Set-Cookie beyond the first",
      { response: cookies((lines) => lines.slice(0, 1)) },
      [["fail cookies", "Only 1 Set-Cookie line arrives", "every Set-Cookie line"]],
    ],
    [
      "joins Set-Cookie lines",
      { response: cookies((lines) => [lines.join(", ")]) },
      [["fail cookies", "joined in one line", "each Set-Cookie line"]],
    ],
    [
      "drops Set-Cookie",
      { response: without("set-cookie") },
      [["fail cookies", "no Set-Cookie line arrives", "every Set-Cookie line"]],
    ],
    [
      "drops rpcsession-* response headers",
      { response: without("rpcsession-hint", "rpcsession-session") },
      [["fail headers", "rpcsession-hint is missing", "rpcsession-heartbeat"]],
    ],
    [
      "drops Cache-Control and WWW-Authenticate",
      { response: without("cache-control", "www-authenticate") },
      [
        ["fail headers", "no-store", "Cache-Control"],
        ["warn headers", "WWW-Authenticate", "pass it on"],
      ],
    ],
    [
      "drops Authorization",
      { request: (headers) => renamed(headers, "authorization") },
      [["fail headers", "Authorization does not reach", "forward Authorization"]],
    ],
    [
      "drops Sec-Fetch-Site",
      { request: (headers) => renamed(headers, "sec-fetch-site") },
      [["fail cookies", "Sec-Fetch-Site", "forward Sec-Fetch-Site"]],
    ],
    [
      "drops Origin",
      { request: (headers) => renamed(headers, "origin") },
      [["fail cookies", "Origin does not reach", "forward Origin"]],
    ],
    [
      "limits request headers",
      {
        answer: (request, response) => {
          const isLong = (request.headers.authorization?.length ?? 0) > 4096;
          return isLong && (html(400)?.(request, response) ?? false);
        },
      },
      [["fail limits", "8 KB of headers is refused", "status 400", "large_client_header_buffers"]],
    ],
    ["has a clock that is an hour late", lateBy(3_600_000), [["fail clock", "behind", "NTP"]]],
    ["has a clock that is 20 seconds early", lateBy(-20_000), [["warn clock", "ahead of", "NTP"]]],
    [
      "writes a Domain that covers the host",
      { response: cookies(replaced("; Path=/", "; Path=/; Domain=127.0.0.1")) },
      [
        ["warn cookies", "access", "Domain 127.0.0.1", "Leave out cookies.domain"],
        ["warn cookies", "refresh", "Domain 127.0.0.1", "Leave out cookies.domain"],
      ],
    ],
    [
      "cuts the body of gRPC-Web",
      {
        response: (reply) => {
          const isWeb = reply.headers.some(([, value]) => value.startsWith("application/grpc-web"));
          return isWeb ? { ...reply, body: new Uint8Array() } : reply;
        },
      },
      [["fail grpc-web", "without its trailers", "cut, buffer or convert"]],
    ],
    [
      "checks Authorization itself",
      {
        answer: (request, response) => {
          const isChecked = request.headers.authorization === "Bearer doctor";
          return isChecked && (html(403)?.(request, response) ?? false);
        },
      },
      [["fail headers", "answered by something else (status 403)", "without checking it"]],
    ],
    [
      "closes connections with long request headers",
      {
        answer: (request) => {
          const isLong = (request.headers.authorization?.length ?? 0) > 4096;
          if (isLong) {
            request.socket.destroy();
          }
          return isLong;
        },
      },
      [["fail limits", "is refused on its way.", "large_client_header_buffers"]],
    ],
    [
      "answers gRPC-Web with an error",
      overWeb((response) => response.writeHead(502).end()),
      [["fail grpc-web", "answered with status 502.", "forward POST"]],
    ],
    [
      "answers gRPC-Web with success",
      overWeb((response) => {
        response.writeHead(200, { "grpc-status": "0" }).end();
      }),
      [["fail grpc-web", "not refused as unauthenticated", "in front of the service"]],
    ],
    [
      "answers gRPC-Web with a page",
      {
        answer: (request, response) => {
          const isWeb = request.headers["x-grpc-web"] !== undefined;
          return isWeb && (html(200)?.(request, response) ?? false);
        },
      },
      [["fail grpc-web", "status 200 and a web page", "forward POST"]],
    ],
    [
      "removes HttpOnly and SameSite",
      { response: cookies(replaced(/; (?:HttpOnly|SameSite=Lax)/g, "")) },
      [
        ["fail cookies", "access", "not HttpOnly", "proxy_cookie_flags"],
        ["fail cookies", "access", "no SameSite", "Set-Cookie"],
        ["fail cookies", "refresh", "not HttpOnly", "proxy_cookie_flags"],
        ["fail cookies", "refresh", "no SameSite", "Set-Cookie"],
      ],
    ],
    [
      "writes a foreign Domain",
      { response: cookies(replaced("; Path=/", "; Path=/; Domain=example.org")) },
      [
        ["fail cookies", "access", "Domain example.org", "cookies.domain"],
        ["fail cookies", "refresh", "Domain example.org", "cookies.domain"],
      ],
    ],
  ])("reports a proxy that %s", async (_title, proxy, expected) => {
    const { url } = await startService({ proxy });
    expect(wrongOf(await doctor([url]))).toEqual(like(expected));
  });

  it.each<[string, Http2Answer, readonly string[]]>([
    [
      "without trailers",
      (stream) => {
        stream.respond({ ":status": 200, "content-type": "application/grpc+proto" });
        stream.end();
      },
      ["fail grpc", "no trailers", "grpc_pass"],
    ],
    [
      "as the page of a proxy",
      (stream) => {
        stream.respond({ ":status": 502, "content-type": "text/html" });
        stream.end("<html>");
      },
      ["warn grpc", "status 502 and a web page", "grpc_pass"],
    ],
    [
      "with success",
      (stream) => {
        stream.respond({ ":status": 200, "grpc-status": "0" });
        stream.end();
      },
      ["fail grpc", "not refused as unauthenticated", "in front of the service"],
    ],
  ])("reports gRPC that is answered %s", async (_title, answer, expected) => {
    const url = await withGrpc(answer);
    const examined = await doctor([url]);
    expect(wrongOf(examined)).toEqual(like([expected]));
    // What is only worth a look is broken where gRPC is needed.
    const needed = expected.map((part) => part.replace(/^warn/, "fail"));
    expect(wrongOf(await doctor([url, "--grpc"]))).toEqual(like([needed]));
  });

  /** A service whose HTTP/2 is answered by something else. */
  async function withGrpc(answer: Http2Answer): Promise<string> {
    const service = await startService();
    const { hostname, port } = new URL(service.url);
    return listenOnBoth(
      (req, res) => {
        const { method = "GET", url: path, headers } = req;
        req.pipe(
          request({ hostname, port, method, path, headers }, (given) => {
            res.writeHead(given.statusCode ?? 502, given.headers);
            given.pipe(res);
          }),
        );
      },
      (req) => answer(req.stream),
    );
  }

  it("says what is in order that not every service has: gRPC, gRPC-Web, keys, another origin, Date", async () => {
    const plain = await doctor([(await startService()).url]);
    expect(inOrder(plain, "grpc")).toEqual([
      expect.stringContaining("not offered at this address"),
    ]);
    expect(inOrder(plain, "keys")).toEqual([expect.stringContaining("No keys are published")]);
    expect(inOrder(plain, "cors")).toEqual([expect.stringContaining("--origin")]);
    const { url } = await startService({
      proxy: {
        ...overWeb((response) => response.writeHead(415).end()),
        response: without("date"),
      },
    });
    const less = await doctor([url]);
    expect(wrongOf(less)).toEqual([]);
    expect(inOrder(less, "grpc-web")).toEqual([expect.stringContaining("does not offer gRPC-Web")]);
    expect(inOrder(less, "clock")).toEqual([expect.stringContaining("no Date header")]);
    const refusing = await withGrpc((stream) => {
      stream.respond({ ":status": 415 });
      stream.end();
    });
    expect(inOrder(await doctor([refusing]), "grpc")).toEqual([
      expect.stringContaining("does not offer gRPC"),
    ]);
  });

  it("reports Secure cookies and an issuer over plain http that is not on this machine", async () => {
    // The address of this machine that counts as another one.
    const { url } = await startService({ sessions: { cookies: {} } });
    const wrong = wrongOf(await doctor([url.replace("127.0.0.1", "0.0.0.0")]));
    expect(wrong).toEqual(
      like([
        ["fail issuer", "The address http://0.0.0.0", "Let clients use https"],
        ["fail cookies", "access", "is Secure, but http://0.0.0.0", "Serve https"],
        ["fail cookies", "refresh", "is Secure, but http://0.0.0.0", "Serve https"],
      ]),
    );
  });

  it("reports requests that get no answer, and goes on", async () => {
    const answer: ProxyFault["answer"] = (req) => {
      const isDropped = req.method === "OPTIONS" || req.headers["x-grpc-web"] !== undefined;
      if (isDropped) {
        req.socket.destroy();
      }
      return isDropped;
    };
    const { url } = await startService({ proxy: { answer } });
    const examined = await doctor([url, "--origin", page]);
    expect(wrongOf(examined)).toEqual(
      like([
        ["fail cors", "gets no answer: socket hang up", "proxy or a firewall"],
        ["fail grpc-web", "gets no answer", "proxy or a firewall"],
      ]),
    );
    expect(examined.findings.map(({ check }) => check)).toContain("keys");
  });

  it("reports a service that cannot reach its store", async () => {
    const store = memoryStore();
    const down = () => Promise.reject(new Error("hidden"));
    const { url } = await startService({
      sessions: { store: { ...store, name: "down", open: down } as never },
    });
    const examined = await doctor([url]);
    expect(wrongOf(examined)).toEqual(like([["fail store", "cannot reach its store", "onEvent"]]));
    expect(JSON.stringify(examined)).not.toContain("hidden");
  });

  it.each<[string, CookieOptions, string, string]>([
    ["the prefix __Host-Http-", {}, "__Host-Http-", " and __Host-rpcsession"],
    ["the prefix __Host-", { prefix: "host" }, "__Host-", "__Host-Http-"],
    ["one prefix only", { otherPrefix: "ignore" }, "__Host-Http-", " and __Host-rpcsession"],
  ])("feat:I9 names the cookies that are written, with %s", async (_, cookies, prefix, other) => {
    const { url } = await startService({ sessions: { cookies } });
    const { findings } = await doctor([url]);
    const seen = findings.filter(({ check }) => check === "cookies").map((one) => one.seen);
    expect(seen.join()).toContain(`${prefix}rpcsession-access`);
    expect(seen.join()).toContain(`${prefix}rpcsession-refresh`);
    expect(seen.join()).not.toContain(other);
  });

  it("reports a proxy that passes on the refresh cookies alone, of both prefixes", async () => {
    const response = cookies((lines) => lines.filter((line) => !line.includes("-access")));
    const { url } = await startService({ proxy: { response }, sessions: { cookies: {} } });
    const wrong = wrongOf(await doctor([url])).filter((line) => line.startsWith("fail"));
    expect(wrong).toEqual(like([["fail cookies", "for one cookie", "every Set-Cookie line"]]));
  });

  it("reports a proxy that changes the path of cookies with the prefix __Host-", async () => {
    const response = cookies(replaced("; Path=/;", "; Path=/v1;"));
    const { url } = await startService({ proxy: { response }, sessions: { cookies: {} } });
    const wrong = wrongOf(await doctor([url])).filter((line) => line.startsWith("fail"));
    expect(wrong).toHaveLength(2);
    expect(wrong[0]).toMatch(/__Host-Http-rpcsession-access.* has Path=\/v1\..*proxy_cookie_path/);
  });

  it("reports a proxy that gives cookies with the prefix __Host- a Domain", async () => {
    const response = cookies(replaced("; Path=/", "; Path=/; Domain=127.0.0.1"));
    const { url } = await startService({ proxy: { response }, sessions: { cookies: {} } });
    const wrong = wrongOf(await doctor([url])).filter((line) => line.startsWith("fail"));
    expect(wrong).toHaveLength(2);
    expect(wrong[0]).toMatch(/__Host-Http-rpcsession-access.* has a Domain\..*proxy_cookie_domain/);
  });

  it("reports a proxy that replaces Host, if the origin is not that of the issuer", async () => {
    const service = await startService();
    const front = await startProxy(service.url, {
      request: (headers) => ({ ...headers, host: "internal" }),
    });
    expect(wrongOf(await doctor([front]))).toEqual(
      like([["fail cookies", `Pages of ${front} itself are refused`, "proxy_set_header Host"]]),
    );
    const kept = await startProxy(service.url, {});
    expect(wrongOf(await doctor([kept]))).toEqual([]);
  });

  it("reports a proxy that buffers streams, with a real call", async () => {
    const { url, sessions } = await startService({ proxy: { buffers: true } });
    const { tokens } = await sessions.issue({ userId: "alice" });
    const stream = ["--access-token-file", "-", "--stream", "notes.v1.NotesService/WatchNotes"];
    expect(wrongOf(await doctor([url, ...stream], tokens.accessToken))).toEqual(
      like([["warn stream", "No message", "proxy_buffering off"]]),
    );
  });

  it.each<[string, ProxyFault["answer"], readonly string[]]>([
    [
      "is closed",
      (request) => {
        request.socket.destroy();
        return true;
      },
      ["fail stream", "WatchNotes fails: socket hang up", "limits for open requests"],
    ],
    [
      "is answered by a page",
      html(200),
      ["fail stream", "does not answer as a stream (status 200)", "Check the name of the method"],
    ],
    [
      "ends at once",
      (_request, response) => {
        response.writeHead(200, { "content-type": "application/connect+json" });
        // The end of a stream in its envelope: the flag 2, two bytes, `{}`.
        response.end(Uint8Array.of(2, 0, 0, 0, 2, 0x7b, 0x7d));
        return true;
      },
      ["fail stream", "ends at once", "takes an empty message"],
    ],
  ])("reports a stream that %s", async (_title, answer, expected) => {
    const { url, sessions } = await startService({
      proxy: {
        answer: (request, response) =>
          request.url?.endsWith("/WatchNotes") === true && (answer?.(request, response) ?? false),
      },
    });
    const { tokens } = await sessions.issue({ userId: "alice" });
    const stream = ["--access-token-file", "-", "--stream", "notes.v1.NotesService/WatchNotes"];
    expect(wrongOf(await doctor([url, ...stream], tokens.accessToken))).toEqual(like([expected]));
  });

  it("reports a proxy that sends the headers of a stream and holds back its messages", async () => {
    const { url, sessions } = await startService({
      proxy: {
        answer: (request, response) => {
          if (!request.url?.endsWith("/WatchNotes")) {
            return false;
          }
          response.writeHead(200, {
            ...{ "content-type": "application/connect+json", "rpcsession-heartbeat": "15000" },
          });
          response.flushHeaders();
          return true;
        },
      },
    });
    const { tokens } = await sessions.issue({ userId: "alice" });
    const stream = ["--access-token-file", "-", "--stream", "notes.v1.NotesService/WatchNotes"];
    expect(wrongOf(await doctor([url, ...stream], tokens.accessToken))).toEqual(
      like([["fail stream", "No message", "proxy_buffering off"]]),
    );
  });
});

describe("feat:R1 rpc-session doctor over TLS", () => {
  const fixture = (name: string) => join(import.meta.dirname, "../fixtures", name);
  const tls = {
    key: readFileSync(fixture("localhost.key")),
    cert: readFileSync(fixture("localhost.crt")),
  };

  /** Serves sessions on https://localhost, with HTTP/2 as well or without. */
  async function startTls(isHttp2: boolean, cookie = (line: string) => line): Promise<string> {
    let handle: Parameters<typeof listenOnBoth>[0] = (_request, response) => response.end();
    const server = isHttp2
      ? createSecureServer({ ...tls, allowHTTP1: true }, (req, res) =>
          handle(req as never, res as never),
        )
      : createHttpsServer(tls, (req, res) => handle(req, res));
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const url = `https://localhost:${(server.address() as AddressInfo).port}`;
    const sessions = createSessions({
      ...{ issuer: url, store: memoryStore(), secret: "the secret of a test, of 32 bytes" },
    });
    const adapter = connectNodeAdapter(
      sessions.protect({ readMaxBytes: 65_536, routes: () => {} }),
    );
    handle = (req, res) => {
      const writeHead = res.writeHead.bind(res) as (status: number, headers: object) => typeof res;
      res.writeHead = ((status: number, headers: Record<string, string | string[]> = {}) => {
        const lines = [headers["set-cookie"] ?? []].flat().map(cookie);
        return writeHead(
          status,
          lines.length === 0 ? headers : { ...headers, "set-cookie": lines },
        );
      }) as typeof res.writeHead;
      adapter(req, res);
    };
    onTestFinished(async () => {
      server.close();
      await sessions.close();
    });
    return url;
  }

  /** Runs the program, because a CA can only be given when it starts. */
  function program(url: string, env: Record<string, string>): Promise<Examined> {
    const main = join(import.meta.dirname, "../../src/cli/main.ts");
    const args = ["--conditions=@rpc-session/source", main, "doctor", url, "--json"];
    return new Promise((resolve) => {
      execFile(process.execPath, args, { env: { ...process.env, ...env } }, (error, stdout) => {
        const code = error === null ? 0 : Number(error.code);
        resolve({ code, findings: (JSON.parse(stdout) as Examined).findings });
      });
    });
  }
  const trusted = { NODE_EXTRA_CA_CERTS: fixture("localhost.crt") };

  it("finds Secure cookies with the prefix __Host-Http- and HTTP/2 in order", async () => {
    const examined = await program(await startTls(true), trusted);
    expect(wrongOf(examined)).toEqual([]);
    const seen = examined.findings.map((one) => one.seen).join("\n");
    expect(seen).toContain("__Host-Http-rpcsession-access");
    expect(seen).toContain("over gRPC, with HTTP/2 and trailers");
  });

  it("reports that HTTP/2 is missing", async () => {
    expect(wrongOf(await program(await startTls(false), trusted))).toEqual(
      like([["warn grpc", "There is no HTTP/2", "http2 on"]]),
    );
  });

  it("reports cookies that lose Secure on their way", async () => {
    const url = await startTls(true, (line) => line.replace("; Secure", ""));
    expect(wrongOf(await program(url, trusted))).toEqual(
      like([
        ["fail cookies", "access", "is not Secure", "leave out cookies.insecure"],
        ["fail cookies", "refresh", "is not Secure", "leave out cookies.insecure"],
      ]),
    );
  });

  it("reports a certificate that is not trusted", async () => {
    expect(wrongOf(await program(await startTls(false), {}))).toEqual(
      like([["fail service", "certificate", "NODE_EXTRA_CA_CERTS"]]),
    );
  });
});

describe("feat:R1 rpc-session doctor, if SessionService does not answer", () => {
  it.each<[string, ProxyFault["answer"], readonly string[]]>([
    ["a web page", html(200), ["fail service", "A web page answers", "Forward the paths"]],
    [
      "the error page of a proxy",
      html(502),
      ["fail service", "502", "Check that the service runs"],
    ],
    [
      "a redirect",
      (_request, response) => {
        response.writeHead(301, { location: "https://api.example.com/?token=hidden" }).end();
        return true;
      },
      ["fail service", "redirects calls (status 301) to https://api.example.com/", "baseUrl"],
    ],
    [
      "a redirect without an address",
      (_request, response) => {
        response.writeHead(302).end();
        return true;
      },
      ["fail service", "redirects calls (status 302).", "baseUrl"],
    ],
    [
      "an error of an interceptor",
      (_request, response) => {
        response.writeHead(403, { "content-type": "application/json" });
        response.end('{"code":"permission_denied","message":"hidden"}');
        return true;
      },
      ["fail service", 'status 403 and the code "permission_denied"', "An interceptor of your own"],
    ],
    [
      "404",
      (_request, response) => {
        response.writeHead(404).end();
        return true;
      },
      ["fail service", "not served", "sessions.protect", "sessions.register", "requestPathPrefix"],
    ],
    [
      "a refusal of somebody else",
      (_request, response) => {
        response.writeHead(401, { "content-type": "application/json" });
        response.end('{"code":"unauthenticated"}');
        return true;
      },
      ["fail service", "not by rpc-session", "sessions.protect"],
    ],
    [
      "success without a session",
      (_request, response) => {
        response.writeHead(200, { "content-type": "application/json" }).end("{}");
        return true;
      },
      ["fail service", "succeeds without a session", "Connect 2.2"],
    ],
    [
      "JSON of a gateway",
      (_request, response) => {
        response.writeHead(403, { "content-type": "application/json" });
        response.end('{"message":"hidden"}');
        return true;
      },
      ["fail service", "status 403", "in front of the service"],
    ],
  ])("says what to do about %s", async (_title, answer, expected) => {
    const url = await listenForTest((request, response) => answer?.(request, response));
    const examined = await doctor([url]);
    expect(wrongOf(examined)).toEqual(like([expected]));
    expect(examined.code).toBe(1);
    expect(JSON.stringify(examined)).not.toContain("hidden");
  });

  it("says that there is no connection", async () => {
    expect(wrongOf(await doctor(["http://127.0.0.1:1"]))).toEqual(
      like([["fail service", "no connection", "ECONNREFUSED", "Check the address"]]),
    );
  });

  it("names unimplemented, as Connect answers where only other services are served", async () => {
    const adapter = connectNodeAdapter({ routes: () => {} });
    const url = await listenForTest(adapter);
    expect(wrongOf(await doctor([url]))).toEqual(
      like([["fail service", "not served", "sessions.protect"]]),
    );
  });

  it("ends with a message if a connection is closed without an answer", async () => {
    const server = createTcpServer((socket) => socket.destroy());
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    onTestFinished(() => void server.close());
    const { port } = server.address() as AddressInfo;
    expect(wrongOf(await doctor([`http://127.0.0.1:${port}`]))).toEqual(
      like([["fail service", "no connection"]]),
    );
  });
});

describe("feat:R1 the keys that rpc-session doctor reads", () => {
  const jwksOf = (change: (reply: Passed) => Passed): ProxyFault => ({
    response: (reply, url) => (url.endsWith("jwks.json") ? change(reply) : reply),
  });
  const setOf = (change: (set: { keys: object[] }) => unknown): ProxyFault =>
    jwksOf((reply) => {
      const set = JSON.parse(new TextDecoder().decode(reply.body)) as { keys: object[] };
      return { ...reply, body: new TextEncoder().encode(JSON.stringify(change(set))) };
    });
  const headerOf = (name: string, value: string): ProxyFault =>
    jwksOf((reply) => ({
      ...reply,
      headers: [...reply.headers.filter(([one]) => one.toLowerCase() !== name), [name, value]],
    }));

  it.each<[string, ProxyFault, readonly string[]]>([
    [
      "a private key",
      setOf(({ keys }) => ({ keys: keys.map((key) => ({ ...key, d: "hidden" })) })),
      ["fail keys", "private", "Retire the key"],
    ],
    [
      "two keys with one id",
      setOf(({ keys }) => ({ keys: [...keys, ...keys] })),
      ["fail keys", "not valid", "kid", "unchanged"],
    ],
    [
      "a key that verifies nothing",
      setOf(({ keys }) => ({ keys: [...keys, { kty: "oct", kid: "x" }] })),
      ["warn keys", "1 of 2 keys", "ES256"],
    ],
    [
      "no JSON",
      jwksOf((reply) => ({ ...reply, body: new TextEncoder().encode("{") })),
      ["fail keys", "There are no keys", "jwksHandler"],
    ],
    [
      "status 503",
      jwksOf((reply) => ({ ...reply, status: 503 })),
      ["fail keys", "not available now", "events of the service"],
    ],
    [
      "a long time in caches",
      headerOf("cache-control", "max-age=86400"),
      ["warn keys", "86400 s", "max-age=300"],
    ],
    [
      "no word about caches",
      jwksOf((reply) => ({
        ...reply,
        headers: reply.headers.filter(([name]) => name !== "cache-control"),
      })),
      ["warn keys", "no Cache-Control", "max-age=300"],
    ],
    ["an old copy", headerOf("age", "7200"), ["fail keys", "7200 s old", "max-age=300"]],
  ])("report %s", async (_title, proxy, expected) => {
    const { url } = await startService({ proxy, jwks: true });
    const examined = await doctor([url]);
    expect(wrongOf(examined)).toEqual(like([expected]));
    expect(JSON.stringify(examined)).not.toContain("hidden");
  });

  it("report that nothing answers where the keys are expected, and a page there", async () => {
    const { url } = await startService({ proxy: { answer: pageFor("/keys") } });
    expect(wrongOf(await doctor([url, "--jwks", "http://127.0.0.1:1/"]))).toEqual(
      like([
        ["fail keys", "There are no keys at http://127.0.0.1:1/", "ECONNREFUSED", "jwksHandler"],
      ]),
    );
    expect(wrongOf(await doctor([url, "--jwks", `${url}/keys`]))).toEqual(
      like([["fail keys", "There are no keys", "status 200, a web page", "jwksHandler"]]),
    );
  });

  const pageFor =
    (path: string): ProxyFault["answer"] =>
    (request, response) =>
      request.url === path && (html(200)?.(request, response) ?? false);

  it("are found through a discovery document, whose issuer must be exactly that of the tokens", async () => {
    const discovery = (named: string, path: string): ProxyFault => ({
      answer: (request, response) => {
        if (request.url === "/.well-known/openid-configuration") {
          const host = `http://${request.headers.host}`;
          response.writeHead(200, { "content-type": "application/json" });
          response.end(JSON.stringify({ issuer: `${host}${named}`, jwks_uri: `${host}${path}` }));
          return true;
        }
        return false;
      },
    });
    const found = await startService({ proxy: discovery("", "/keys"), jwks: true });
    expect(wrongOf(await doctor([found.url]))).toEqual(
      like([["fail keys", "/keys", "jwksHandler"]]),
    );
    const slash = await startService({ proxy: discovery("/", "/keys"), jwks: true });
    expect(wrongOf(await doctor([slash.url]))).toEqual(
      like([["fail keys", "names the issuer", "exactly"]]),
    );
    const other = await startService({ proxy: discovery("/idp", "/keys"), jwks: true });
    expect(wrongOf(await doctor([other.url]))).toEqual([]);
  });
});

describe("feat:R1 the real call of rpc-session doctor", () => {
  it("reports why a token is refused, and of which issuer it is", async () => {
    const [one, two] = await Promise.all([startService(), startService()]);
    const { tokens, session } = await one.sessions.issue({ userId: "alice" });
    const ask = (url: string, text: string) => doctor([url, "--access-token-file", "-"], text);
    expect(wrongOf(await ask(two.url, tokens.accessToken))).toEqual(
      like([
        ["fail token", `issuer ${one.url}, the service is ${two.url}`, "olderIssuers"],
        ["fail token", "TOKEN_INVALID", "rpc-session inspect"],
      ]),
    );
    expect(wrongOf(await ask(one.url, tokens.refreshToken))).toEqual(
      like([["fail token", "not an access token", "rpc-session inspect"]]),
    );
    expect(wrongOf(await ask(one.url, `Authorization: Bearer ${tokens.accessToken}\n`))).toEqual(
      [],
    );
    await one.sessions.revoke(session.id);
    expect(wrongOf(await ask(one.url, tokens.accessToken))).toEqual(
      like([["fail token", "SESSION_REVOKED", "Sign in again"]]),
    );
  });

  it.each([
    ["TOKEN_EXPIRED", "Take a newer token"],
    ["SESSION_UNKNOWN", "the store in which the session was created"],
    ["SESSION_EXPIRED", "the session has expired"],
    ["CROSS_SITE", "forward Sec-Fetch-Site"],
    ["AUTH_UNAVAILABLE", "sessions.health()"],
    ["CLAIM_REJECTED", "in front of the service"],
  ] as const)("says what to do about the refusal %s", async (name, advice) => {
    const hint = create(RefreshHintSchema, { reason: Reason[name] });
    const value = Buffer.from(toBinary(RefreshHintSchema, hint)).toString("base64");
    const body = {
      code: "unauthenticated",
      details: [{ type: RefreshHintSchema.typeName, value }],
    };
    const answer: ProxyFault["answer"] = (request, response) => {
      const isReal = request.headers.authorization?.startsWith("Bearer ey") === true;
      if (isReal) {
        response.writeHead(401, { "content-type": "application/json" }).end(JSON.stringify(body));
      }
      return isReal;
    };
    const { url, sessions } = await startService({ proxy: { answer } });
    const { tokens } = await sessions.issue({ userId: "alice" });
    const examined = await doctor([url, "--access-token-file", "-"], tokens.accessToken);
    expect(wrongOf(examined)).toEqual(
      like([["fail token", `refuses the token (${name})`, advice]]),
    );
  });

  it("says how long ago a token has expired by this machine's clock", async () => {
    const clock = createFakeClock(Date.now() - 3_600_000);
    const { url, sessions } = await startService({ sessions: { clock } });
    const { tokens } = await sessions.issue({ userId: "alice" });
    clock.advance("1h");
    // 15 minutes of the hour were its life.
    expect(wrongOf(await doctor([url, "--access-token-file", "-"], tokens.accessToken))).toEqual([
      expect.stringMatching(/^fail token: .*\(TOKEN_EXPIRED\), and expired 27\d\d s ago by/),
    ]);
  });

  it("finds a session in order whose calls need the anti-CSRF token", async () => {
    const { url } = await startService({
      sessions: { cookies: { insecure: true }, antiCsrf: "token" },
    });
    const signedIn = await fetch(`${url}/notes.v1.NotesService/SignIn`, {
      method: "POST",
      headers: { "content-type": "application/json", "sec-fetch-site": "same-origin" },
      body: "{}",
    });
    const [cookie = ""] = signedIn.headers.getSetCookie();
    const examined = await doctor([url, "--access-token-file", "-"], cookie);
    expect(wrongOf(examined)).toEqual([]);
    expect(inOrder(examined, "token")).toEqual([
      expect.stringContaining("lacks only the anti-CSRF token"),
    ]);
  });

  it("sends the token of a cookie session as the cookie of the service", async () => {
    const names = { access: "my-access", refresh: "my-refresh" };
    const { url } = await startService({
      sessions: { cookies: { insecure: true, names } },
    });
    const signedIn = await fetch(`${url}/notes.v1.NotesService/SignIn`, {
      method: "POST",
      headers: { "content-type": "application/json", "sec-fetch-site": "same-origin" },
      body: "{}",
    });
    const [cookie = ""] = signedIn.headers.getSetCookie();
    expect(cookie).toMatch(/^my-access=eyJ/);
    const args = [url, "--cookie", "my-refresh", "--access-token-file", "-"];
    expect(wrongOf(await doctor(args, cookie))).toEqual([]);
    const unnamed = await doctor([url, "--access-token-file", "-"], cookie);
    expect(wrongOf(unnamed)).toEqual(
      like([
        ["warn cookies", "default names", "--cookie"],
        ["fail token", "SESSION_MISSING", "--cookie"],
      ]),
    );
  });
});

describe("feat:R1 the issuer that rpc-session doctor sees", () => {
  it.each([
    ["https://api.example.com", "https://api.example.com", ["ok"]],
    ["http://localhost:8080", "http://localhost:8080", ["ok"]],
    ["http://127.0.0.1:8080", "https://api.example.com", ["ok"]],
    ["http://api.example.com", "http://api.example.com", ["fail", "The issuer", "over TLS"]],
    ["http://api.example.com", "https://api.example.com", ["fail", "The address", "use https"]],
    [
      "https://www.example.com",
      "https://api.example.com",
      ["warn", "The issuer is https://api.example.com, but", 'issuer: "https://www.example.com"'],
    ],
    ["https://api.example.com", "", ["fail", "names no issuer", "error details"]],
  ])("at %s with the issuer %j is judged", (url, realm, expected) => {
    const target = { url: new URL(url), origin: undefined, cookie: undefined };
    const reply = { hint: create(RefreshHintSchema, { realm }) } as RpcReply;
    const [finding, ...more] = lookAtIssuer(target, reply);
    expect(more).toEqual([]);
    expect(finding?.severity).toBe(expected[0]);
    for (const part of expected.slice(1)) {
      expect(`${finding?.seen} ${finding?.mend}`).toContain(part);
    }
  });
});

describe("feat:R1 the arguments of rpc-session doctor", () => {
  it.each([
    [[], "takes exactly one address, got 0"],
    [["http://a.example", "http://b.example"], "got 2"],
    [["not a url hidden"], "must be an http or https URL"],
    [["https://user:hidden@a.example"], "without credentials"],
    [["https://a.example", "--origin", "https://b.example/"], "is not an origin"],
    [["https://a.example", "--cookie", "a=hidden"], "without a value"],
    [["https://a.example", "--stream", "notes.v1.NotesService/WatchNotes"], "--access-token-file"],
    [["http://a.example", "--access-token-file", "-"], "not sent over plain http"],
  ])("%j exits with 2 and says what to change", async (args, reason) => {
    const { code, stdout, stderr } = await run(["doctor", ...args], { env: {} });
    expect([code, stdout]).toEqual([2, ""]);
    expect(stderr).toContain(reason);
    expect(stderr).not.toContain("hidden");
  });
});
