// A Cloudflare Worker that has the service on the store in memory, a service that verifies the
// sessions of another issuer, and a client.
import { createConnectRouter } from "@connectrpc/connect";
import { createFetchHandler } from "@connectrpc/connect/protocol";
import { memoryStore } from "rpc-session/stores/memory";
import { verifySessions } from "rpc-session/verify";
import { createService, routes } from "./service.mjs";
import { visit } from "./visitor.mjs";

// A worker may do nothing outside of a request, so the first request makes these.
let service;
let verifier;

export default {
  async fetch(request, { ISSUER, OTHER_ISSUER }) {
    const url = new URL(request.url);
    if (url.pathname === "/visit") {
      return Response.json(await visit(OTHER_ISSUER));
    }
    if (url.searchParams.has("verify") || request.headers.has("x-verify")) {
      verifier ??= handlers(verifying(OTHER_ISSUER));
      return await verifier(request);
    }
    service ??= handlers(createService({ issuer: ISSUER, store: memoryStore() }).options);
    return await service(request);
  },
};

function verifying(issuer) {
  const sessions = verifySessions({ issuer, jwks: `${issuer}/.well-known/jwks.json` });
  return sessions.protect({ routes: routes(sessions) });
}

/** The adapter for fetch handlers. */
function handlers(options) {
  const router = createConnectRouter(options);
  options.routes(router);
  const byPath = new Map(router.handlers.map((h) => [h.requestPath, createFetchHandler(h)]));
  return async (request) =>
    byPath.get(new URL(request.url).pathname)?.(request) ?? new Response(null, { status: 404 });
}
