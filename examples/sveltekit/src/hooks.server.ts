import { createConnectTransport } from "@connectrpc/connect-web";
import type { Handle } from "@sveltejs/kit";
import { createVisitor, type VisitorOptions } from "rpc-session/ssr";

const service = process.env.SERVICE_URL ?? "http://localhost:8080";

const options: VisitorOptions = {
  transport: (parts) => createConnectTransport({ baseUrl: service, ...parts }),
  origin: process.env.APP_ORIGIN ?? "http://localhost:5173",
};

export const handle: Handle = async ({ event, resolve }) => {
  // The browser's own calls. In production, a proxy in front can route them to the service.
  if (/^\/(notes|rpcsession)\.v1\.\w+\/\w+$/.test(event.url.pathname)) {
    return toService(event.request, event.url.pathname);
  }
  const visitor = createVisitor(event.request, options);
  event.locals.visitor = visitor;
  await visitor.refreshIfDue();
  const response = await resolve(event);
  visitor.writeTo(response.headers);
  return response;
};

async function toService(request: Request, path: string): Promise<Response> {
  const headers = new Headers(request.headers);
  for (const name of ["host", "connection", "accept-encoding", "content-length"]) {
    headers.delete(name);
  }
  const body = request.method === "POST" ? await request.arrayBuffer() : undefined;
  return fetch(service + path, { method: request.method, headers, body, redirect: "manual" });
}
