import { Code, ConnectError } from "@connectrpc/connect";
import { Action, RefreshHintSchema } from "../../gen/rpcsession/v1/hint_pb.ts";
import { assertMembers } from "../base/checks.ts";
import { header } from "../base/wire.ts";
import { SessionCall } from "./call/call.ts";
import { coreOf, type SessionClient } from "./session-client.ts";

/** Options of {@link sessionFetch}. */
export interface SessionFetchOptions {
  /**
   * The address of the service, as in `createConnectTransport({ baseUrl })`. Relative URLs of requests
   * are resolved against it. Requests to its origin carry the session.
   */
  readonly baseUrl: string | URL;
  /** Other origins of the same service, which may receive its tokens. Default: none. */
  readonly origins?: readonly string[];
  /** Sends the requests. Default: the global `fetch`. */
  readonly fetch?: typeof globalThis.fetch;
}

/**
 * Returns a `fetch` for requests that are not RPCs, such as uploads, downloads and server-sent events,
 * to handlers that call `sessions.getSession`. Like RPCs they carry the session, wait for a refresh
 * if the access token has expired, and are sent once more after a refresh if the service refused the
 * token with the status 401 and its header `rpcsession-hint: refresh`.
 *
 * ```ts
 * const fetch = sessionFetch(session, { baseUrl: "https://api.example.com" });
 * const response = await fetch("/files", { method: "POST", body: file });
 * ```
 *
 * - Tokens and cookies go only to the origins of the service. A request to any other address is sent as
 *   `fetch` would send it.
 * - A body that is a stream, or in a `Request`, cannot be sent again. Before such a request the token
 *   is refreshed if that is due.
 * - A redirect is an error, because it could carry the tokens to another site. Set `redirect` in the
 *   call to allow it.
 * - An `authorization` header of yours is kept. The request is then neither refreshed nor sent again.
 *
 * @returns a function that resolves as `fetch` does, also with a refusal. It rejects with ConnectError
 *   Unavailable if a refresh was necessary and the service could not be reached
 * @throws TypeError for invalid options, or if `session` was not returned by `createSessionClient`
 */
export function sessionFetch(
  session: SessionClient<object>,
  options: SessionFetchOptions,
): typeof globalThis.fetch {
  const core = coreOf(session);
  if (core === undefined) {
    throw new TypeError(
      "sessionFetch: `session` must be the object returned by createSessionClient",
    );
  }
  const { base, origins } = readOptions(options);
  const { local, refresher } = core;
  return async (input, init = {}) => {
    const send = options.fetch ?? globalThis.fetch;
    const request = isRequest(input) ? input : undefined;
    const url = new URL(isRequest(input) ? input.url : String(input), base);

    // 1. Only the service's own origins receive its tokens.
    if (!origins.has(url.origin)) {
      return send(request ?? url, init);
    }
    const headers = new Headers(init.headers ?? request?.headers);
    const hasOwnToken = headers.has("authorization");
    const signal = init.signal ?? request?.signal;
    const isStream = hasStream(request, init);
    const call = new SessionCall(core, {
      ...{ signal, isStream, isReplayable: !isStream, timeoutMs: undefined },
      mark: { handled: true, hasOwnToken },
    });
    const credentials = local.transport === "cookie" ? "include" : "omit";
    let refused: Response | undefined;
    try {
      // 2. What cannot be sent again must not be refused because its token has expired.
      if (isStream && !hasOwnToken) {
        await session.load(signal ? { signal } : {});
      }

      // 3. Send, at most twice; see SessionCall.
      return await call.run(headers, async (attempt) => {
        refused?.body?.cancel().catch(() => {});
        const response = await send(request ?? url, {
          ...{ redirect: "manual", ...init },
          ...{ headers: attempt, credentials },
        });
        if (init.redirect === undefined && isRedirect(response)) {
          throw new TypeError(
            'the service redirects; request the final address, or set redirect: "follow" if no token may reach a wrong site that way',
          );
        }

        // 4. Read the notice and the tokens of the response, and the hint of a refusal.
        call.accept(response.headers);
        const hint = response.status === 401 ? response.headers.get(header.hint) : undefined;
        if (hint === "refresh") {
          refused = response;
          throw refusal(local.realm);
        }
        if (hint === "sign-in" && !hasOwnToken && refresher.canRefresh()) {
          // The session may be over. The header does not say which one; a refresh finds out.
          void refresher.refresh(true);
        }
        call.succeeded();
        return response;
      });
    } catch (error) {
      if (signal?.aborted) {
        throw signal.reason;
      }
      if (refused !== undefined && ConnectError.from(error).code === Code.Unauthenticated) {
        return refused;
      }
      throw error;
    }
  };
}

/** Browsers show a redirect as the status 0. Workers of Cloudflare throw for the mode "error". */
function isRedirect({ status }: Response): boolean {
  return status === 0 || (status >= 300 && status < 400 && status !== 304);
}

/** @throws TypeError for invalid options */
function readOptions(options: SessionFetchOptions): {
  readonly base: URL;
  readonly origins: ReadonlySet<string>;
} {
  const { baseUrl, origins = [], fetch } = options ?? {};
  assertMembers("sessionFetch", options ?? {}, { baseUrl: 0, origins: 0, fetch: 0 });
  if (fetch !== undefined && typeof fetch !== "function") {
    throw new TypeError(`fetch must be a function, got ${typeof fetch}`);
  }
  const base = urlOf(baseUrl, globalThis.location?.href);
  if (base === undefined) {
    throw new TypeError(
      `baseUrl must be the http or https address of the service, such as "https://api.example.com", got ${JSON.stringify(baseUrl)}`,
    );
  }
  const others = origins.map((origin) => {
    const url = urlOf(origin);
    if (url === undefined || url.origin !== origin) {
      throw new TypeError(
        `origins must list origins, such as "https://files.example.com", got ${JSON.stringify(origin)}`,
      );
    }
    return origin;
  });
  return { base, origins: new Set([base.origin, ...others]) };
}

function urlOf(text: string | URL, page?: string): URL | undefined {
  try {
    const url = new URL(text, page);
    return /^https?:$/.test(url.protocol) ? url : undefined;
  } catch {
    return undefined;
  }
}

/** `fetch` converts everything else to a string: a link element of a page is the address of any site. */
function isRequest(input: RequestInfo | URL): input is Request {
  return typeof input !== "string" && "url" in input;
}

/** Whether the body can be sent only once. Not every browser shows whether a `Request` has a body. */
function hasStream(request: Request | undefined, { body, method }: RequestInit): boolean {
  if (body === undefined || body === null) {
    return request !== undefined && !/^(get|head)$/i.test(method ?? request.method);
  }
  const isWhole =
    typeof body === "string" ||
    body instanceof Blob ||
    body instanceof FormData ||
    body instanceof URLSearchParams ||
    body instanceof ArrayBuffer ||
    ArrayBuffer.isView(body);
  return !isWhole;
}

/** The refusal of a plain request, in the form in which SessionCall reads those of RPCs. */
function refusal(realm = "unknown"): ConnectError {
  const hint = { desc: RefreshHintSchema, value: { action: Action.REFRESH, realm } };
  return new ConnectError("the access token was refused", Code.Unauthenticated, undefined, [hint]);
}
