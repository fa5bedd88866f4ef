// The server of the static page. It also plays the part of the browser that keeps cookies, because
// scripts can neither receive Set-Cookie nor send Cookie.
import {
  createConnectRouter,
  createContextValues,
  createRouterTransport,
} from "@connectrpc/connect";
import { createAsyncIterable, type UniversalHandler } from "@connectrpc/connect/protocol";
import { memoryStore } from "rpc-session/stores/memory";
import { Jar } from "../jar.ts";
import { cookieHeader, Playground } from "../service.ts";
import type { WorkerReply, WorkerRequest } from "./wire.ts";

const url = location.origin;

// 1. The service. The thief and the phone call it without HTTP.
const playground: Playground = new Playground({
  url,
  store: memoryStore(),
  connect: (transport) =>
    createRouterTransport(playground.adapter.routes, {
      router: playground.adapter,
      transport: { baseUrl: url, ...transport },
    }),
});
const router = createConnectRouter(playground.adapter);
playground.adapter.routes(router);
const handlers = new Map<string, UniversalHandler>(
  router.handlers.map((handler) => [handler.requestPath, handler]),
);

/** The cookies that all tabs share. */
const cookies = new Jar(() => performance.now());

/** 2. Adds what a browser adds to a request, and keeps what a browser keeps of the response. */
async function answer({ data }: MessageEvent<WorkerRequest>): Promise<void> {
  const { reply } = data;
  const send = (part: WorkerReply): void => reply.postMessage(part);
  const abort = new AbortController();
  reply.onmessage = () => abort.abort();
  try {
    await playground.ready();
    const header = new Headers(
      data.headers.map(([name, value]): [string, string] => [name, value]),
    );
    const cookie = cookies.header;
    if (cookie !== "") {
      header.set("cookie", cookie);
    }
    header.set("origin", url);
    header.set("sec-fetch-site", "same-origin");
    header.set("user-agent", navigator.userAgent);

    const { pathname } = new URL(data.url);
    const method = pathname.split("/").at(-1) ?? "";
    const isLost = playground.losesResponse(method);
    const handler = handlers.get(pathname);
    if (handler === undefined) {
      throw new Error(`no method ${pathname}`);
    }
    const response = await handler({
      httpVersion: "1.1",
      url: data.url,
      method: data.method,
      header,
      body: createAsyncIterable(data.body === undefined ? [] : [data.body]),
      signal: abort.signal,
      contextValues: createContextValues().set(cookieHeader, cookie),
    });
    if (isLost) {
      playground.lost();
      throw new Error("the response got lost");
    }

    const headers = new Headers(response.header);
    cookies.keep(headers);
    headers.delete("set-cookie"); // browsers hide it from scripts
    send({ type: "head", status: response.status, headers: [...headers] });
    for await (const bytes of response.body ?? []) {
      send({ type: "chunk", bytes });
    }
    send({ type: "end" });
    playground.answered(method, response.status);
  } catch {
    send({ type: "failed" });
  } finally {
    reply.close();
  }
}

// 3. A shared worker gets a port from each tab; a worker of one tab is itself the port.
function listen(port: Pick<MessagePort, "onmessage">): void {
  port.onmessage = (event: MessageEvent<WorkerRequest>) => void answer(event);
}
addEventListener("connect", (event) => {
  const [port] = (event as MessageEvent).ports;
  if (port !== undefined) {
    listen(port);
  }
});
listen(globalThis as unknown as MessagePort);
