import {
  createServer,
  type IncomingMessage,
  type RequestListener,
  type ServerResponse,
} from "node:http";
import type { AddressInfo } from "node:net";
import { createContextValues } from "@connectrpc/connect";
import { connectNodeAdapter, createConnectTransport } from "@connectrpc/connect-node";
import { sqliteStore } from "rpc-session/stores/sqlite";
import type { PageFiles } from "./build.ts";
import { cookieHeader, Playground } from "./service.ts";

export interface PlaygroundServerOptions {
  /** 0 for a free port. */
  readonly port: number;
  /** The SQLite file. */
  readonly database: string;
  readonly page: PageFiles;
}

export interface PlaygroundServer {
  readonly url: string;
  close(): Promise<void>;
}

/** Serves the page and its service. */
export async function startPlayground({
  port,
  database,
  page,
}: PlaygroundServerOptions): Promise<PlaygroundServer> {
  // 1. The address is the issuer, so the server listens first.
  const server = createServer();
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject).listen(port, "localhost", resolve);
  });
  const url = `http://localhost:${(server.address() as AddressInfo).port}`;

  // 2. The service on a store. The thief and the phone are programs that call it over HTTP.
  const playground = new Playground({
    url,
    store: sqliteStore(database),
    cookies: { insecure: true }, // plain http; Safari keeps no Secure cookies there
    connect: (parts) => createConnectTransport({ baseUrl: url, httpVersion: "1.1", ...parts }),
  });
  await playground.ready();

  // 3. The files of the page, and the RPCs behind a log of the requests that browsers make.
  const handle = connectNodeAdapter({
    ...playground.adapter,
    contextValues: (request) =>
      createContextValues().set(cookieHeader, request.headers.cookie ?? ""),
  });
  server.on("request", (request: IncomingMessage, response: ServerResponse) => {
    const file = page.get(request.url === "/" ? "/index.html" : (request.url ?? ""));
    if (file !== undefined && request.method === "GET") {
      response.setHeader("content-type", file.type).end(file.body);
      return;
    }
    observe(playground, request, response);
    handle(request as Parameters<RequestListener>[0], response);
  });

  return {
    url,
    async close() {
      const closed = new Promise((resolve) => server.close(resolve));
      server.closeAllConnections();
      await closed;
      await playground.close();
    },
  };
}

/** Tells the playground about the requests of browsers, and loses the response that is to be lost. */
function observe(playground: Playground, request: IncomingMessage, response: ServerResponse): void {
  const method = request.url?.split("?")[0]?.split("/").at(-1) ?? "";
  if (playground.losesResponse(method)) {
    // The refresh has been carried out by the time its response begins.
    response.writeHead = () => {
      if (response.socket?.destroyed !== false) {
        return response;
      }
      playground.lost();
      response.socket.destroy();
      return response;
    };
    return;
  }
  if (request.headers["sec-fetch-site"] !== undefined) {
    response.once("finish", () => playground.answered(method, response.statusCode));
  }
}
