import { readFileSync } from "node:fs";
import http, { type IncomingMessage, type ServerResponse } from "node:http";
import https from "node:https";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { cors } from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { type SessionCors, type SessionEvent, sessionCors } from "rpc-session";
import { type TestSessions, testSessions } from "rpc-session/testing";
import { build } from "vite";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { notesApp } from "../helpers/notes.ts";
import type { TestSessionsOptions } from "../helpers/server.ts";

/** The address of a server. */
export interface Place {
  /** A name that resolves to this machine. Default "localhost". */
  readonly host?: string;
  /** Whether it uses TLS. Default: if the name ends in "example.com". */
  readonly tls?: boolean;
  /** Default: a free port. */
  readonly port?: number;
}

/** A running server. */
export interface Site {
  readonly port: number;
  /** Returns the origin. */
  at(): string;
  close(): Promise<void>;
}

/** A request that the API received. */
export interface Asked {
  readonly verb: string;
  /** For example "ListNotes". */
  readonly method: string;
  readonly origin: string | undefined;
  readonly site: string | undefined;
  /** Whether it carried session cookies. */
  readonly cookies: boolean;
  readonly headers: string | undefined;
}

/** A notes service for pages of other origins. */
export interface Api extends Site {
  readonly sessions: TestSessions;
  /** `watching` keeps streams open. */
  readonly calls: { handled: number; watching?: Promise<void> | undefined };
  readonly asked: Asked[];
  readonly events: SessionEvent[];
  /** Another origin, to which the API then redirects every call. */
  redirectTo?: string;
  count(method: string, verb?: string): number;
  /** Ends every connection, as a crash does. */
  cut(): void;
  /** Answers requests below "/plain/" instead of the adapter. Default: the adapter does. */
  plain?: (request: IncomingMessage, response: ServerResponse) => Promise<void>;
  /** Stops listening; `close` also closes its sessions object. */
  stop(): Promise<void>;
}

/** @param pages the origins whose pages may call; only its own if there are none */
export async function startApi(
  pages: readonly string[],
  options: TestSessionsOptions = {},
  place: Place = {},
): Promise<Api> {
  const server = createServer(place);
  const site = await listen(server, place);
  const asked: Asked[] = [];
  const events: SessionEvent[] = [];
  const sessions = testSessions({
    issuer: site.at(),
    ...(pages.length > 0 && { origins: pages }),
    public: [NotesService.method.signIn],
    onEvent: (event) => events.push(event),
    ...options,
  });
  const { routes, calls } = notesApp(sessions);
  const handle = connectNodeAdapter(sessions.protect({ routes }));
  const allowed = sessionCors({ ...cors, allowedOrigins: pages });
  server.on("request", (request: IncomingMessage, response: ServerResponse) => {
    // Where a test reads the cookies of the API.
    if (request.url === "/") {
      response.setHeader("content-type", "text/html");
      response.end("<!doctype html><title>API</title>");
      return;
    }
    if (api.plain !== undefined && request.url?.startsWith("/plain/")) {
      void api.plain(request, response);
      return;
    }
    // Not what a browser asks for on its own, such as an icon.
    if (request.url?.includes(".v1.")) {
      asked.push(askedOf(request));
    }
    if (answerPreflight(allowed, request, response)) {
      return;
    }
    if (api.redirectTo === undefined) {
      handle(request, response);
    } else {
      response.writeHead(307, { location: `${api.redirectTo}${request.url}` }).end();
    }
  });
  const api: Api = {
    ...site,
    sessions,
    calls,
    asked,
    events,
    count: (method, verb) =>
      asked.filter(
        (one) =>
          one.method === method &&
          (verb === undefined ? one.verb !== "OPTIONS" : one.verb === verb),
      ).length,
    cut: () => server.closeAllConnections(),
    stop: () => site.close(),
    async close() {
      await site.close();
      await sessions.close();
    },
  };
  return api;
}

function askedOf({ method = "", url = "", headers }: IncomingMessage): Asked {
  return {
    verb: method,
    method: url.split("?")[0]?.split("/").at(-1) ?? "",
    origin: headers.origin,
    site: headers["sec-fetch-site"] as string | undefined,
    cookies: headers.cookie?.includes("rpcsession-") ?? false,
    headers: headers["access-control-request-headers"],
  };
}

/** Does what CORS middleware does with the lists. Returns true if it has answered the request. */
function answerPreflight(
  allowed: SessionCors,
  { method, headers: { origin } }: IncomingMessage,
  response: ServerResponse,
): boolean {
  response.setHeader("vary", "Origin");
  if (origin !== undefined && allowed.allowedOrigins.includes(origin)) {
    response.setHeader("access-control-allow-origin", origin);
    response.setHeader("access-control-allow-credentials", "true");
    response.setHeader("access-control-expose-headers", allowed.exposedHeaders.join(", "));
  }
  if (method !== "OPTIONS") {
    return false;
  }
  response.setHeader("access-control-allow-methods", allowed.allowedMethods.join(", "));
  response.setHeader("access-control-allow-headers", allowed.allowedHeaders.join(", "));
  response.setHeader("access-control-max-age", String(allowed.maxAge));
  response.writeHead(204).end();
  return true;
}

/**
 * Bundles the script of a page.
 * @param target the browsers whose syntax the bundle may use. Default: any
 * @param entry its file in this folder
 */
export async function bundlePage(
  target: string | string[] = "esnext",
  entry = "page.ts",
): Promise<string> {
  const built = await build({
    configFile: false,
    logLevel: "silent",
    define: { "process.env.NODE_ENV": '"development"' },
    resolve: { conditions: ["@rpc-session/source", "module", "browser", "import", "default"] },
    build: {
      write: false,
      minify: false,
      target,
      lib: { entry: join(import.meta.dirname, entry), formats: ["es"] },
    },
  });
  const [output] = [built].flat();
  const chunk = output !== undefined && "output" in output ? output.output[0] : undefined;
  if (chunk?.type !== "chunk") {
    throw new Error(`bundling ${entry} returned no code`);
  }
  return chunk.code;
}

/** Starts a site with one page that runs a script and sets cookies. */
export async function startPages(
  script: () => string,
  { cookies = [], ...place }: Place & { readonly cookies?: readonly string[] },
): Promise<Site> {
  const server = createServer(place);
  server.on("request", (request: IncomingMessage, response: ServerResponse) => {
    response.setHeader("set-cookie", cookies);
    if (request.url?.endsWith(".js")) {
      response.setHeader("content-type", "text/javascript");
      response.end(script());
    } else {
      response.setHeader("content-type", "text/html");
      response.end(
        '<!doctype html><title>page</title><script type="module" src="/app.js"></script>',
      );
    }
  });
  return await listen(server, place);
}

const fixture = (name: string): string =>
  readFileSync(join(import.meta.dirname, "../fixtures", name), "utf8");

function createServer(place: Place): http.Server | https.Server {
  return usesTls(place)
    ? https.createServer({ cert: fixture("localhost.crt"), key: fixture("localhost.key") })
    : http.createServer();
}

function usesTls({ host = "", tls = host.endsWith("example.com") }: Place): boolean {
  return tls;
}

async function listen(server: http.Server | https.Server, place: Place): Promise<Site> {
  const { host = "localhost" } = place;
  await new Promise<void>((resolve) => server.listen(place.port ?? 0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  return {
    port,
    at: () => `${usesTls(place) ? "https" : "http"}://${host}:${port}`,
    close: () =>
      new Promise((resolve) => {
        server.closeAllConnections();
        server.close(() => resolve());
      }),
  };
}
