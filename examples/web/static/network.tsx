import { createConnectTransport } from "@connectrpc/connect-web";
import type { Network } from "../page/network.ts";
import type { WorkerReply, WorkerRequest } from "./wire.ts";

const isShared = "SharedWorker" in globalThis;

/** One worker for all tabs, or one for each where browsers cannot share them. */
const worker = isShared
  ? new SharedWorker(new URL("./worker.ts", import.meta.url), { type: "module" }).port
  : new Worker(new URL("./worker.ts", import.meta.url), { type: "module" });
if (worker instanceof MessagePort) {
  worker.start();
}

/** To the server in the worker, with the signature of `fetch`. */
export const network: Network = {
  connect: (parts) =>
    createConnectTransport({ baseUrl: location.origin, ...parts, fetch: workerFetch }),
  isShared,
  about: globalThis.isSecureContext ? (
    <details className="about">
      <summary>This page is its own server. What is different from a real one?</summary>
      <ul>
        <li>
          The service runs in a worker of your browser: the same sessions, policies and checks as
          behind HTTP, on the store in memory. Nothing you do here leaves your computer.
        </li>
        <li>
          A worker cannot set <code>HttpOnly</code> cookies. It therefore also plays the part of the
          browser that keeps them, in memory. Scripts of this page cannot read them either.
        </li>
        <li>The phone and the thief run in the same worker, not on other computers.</li>
        <li>
          {isShared
            ? "All tabs share the worker. When you close or reload the last one, everything is forgotten."
            : "This browser has no shared workers, so each tab has a server of its own. A reload forgets everything."}
        </li>
      </ul>
    </details>
  ) : (
    <p role="alert" className="about alert">
      Browsers offer cryptography to secure pages only. Open this page over https or on localhost.
    </p>
  ),
};

/** Requests that are still running. */
const running = new Set<AbortController>();
// A closed tab cannot tell the worker that it no longer listens.
addEventListener("pagehide", () => {
  for (const abort of running) {
    abort.abort();
  }
});

async function workerFetch(input: RequestInfo | URL, init: RequestInit = {}): Promise<Response> {
  const { signal, body, method = "GET", headers } = init;
  signal?.throwIfAborted();
  const { port1: port, port2: reply } = new MessageChannel();
  const request: WorkerRequest = {
    url: new Request(input).url,
    method,
    headers: [...new Headers(headers)],
    body: body instanceof Uint8Array ? body : undefined,
    reply,
  };
  const { promise, resolve, reject } = Promise.withResolvers<Response>();
  const { readable, writable } = new TransformStream<Uint8Array, Uint8Array>();
  const content = writable.getWriter();
  const fail = (reason: unknown): void => {
    reject(reason);
    content.abort(reason).catch(() => {});
  };

  // 1. A request ends with its last message, or when it is cancelled.
  const abort = new AbortController();
  running.add(abort);
  const end = (): void => {
    running.delete(abort);
    port.close();
  };
  AbortSignal.any([abort.signal, ...(signal ? [signal] : [])]).addEventListener("abort", () => {
    fail(signal?.reason ?? new DOMException("The page was closed.", "AbortError"));
    port.postMessage("cancel");
    end();
  });

  // 2. The parts of the response become a Response.
  port.onmessage = ({ data }: MessageEvent<WorkerReply>) => {
    if (data.type === "head") {
      resolve(
        new Response(readable, { status: data.status, headers: [...data.headers].map(pair) }),
      );
    } else if (data.type === "chunk") {
      content.write(data.bytes).catch(() => {});
    } else if (data.type === "end") {
      content.close().catch(() => {});
      end();
    } else {
      fail(new TypeError("Failed to fetch"));
      end();
    }
  };
  worker.postMessage(request, [reply]);
  return await promise;
}

function pair([name, value]: readonly [string, string]): [string, string] {
  return [name, value];
}
