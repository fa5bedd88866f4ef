import { withValidationErrors } from "./errors.ts";
import {
  type HeaderChange,
  isFromSdk,
  type ReadHeader,
  requestChanges,
  responseChanges,
  tellsOfSession,
} from "./wire.ts";

/** Calls a handler with a translated request. Requests of other clients stay as they are. */
export async function translated(
  request: Request,
  handler: (request: Request) => Promise<Response> | Response,
  formerCookies: readonly string[],
): Promise<Response> {
  if (!isFromSdk(readerOf(request.headers))) {
    return handler(request);
  }
  const headers = new Headers(request.headers);
  apply(headers, requestChanges(readerOf(headers)));
  const response = translateResponse(
    await handler(new Request(request, { headers })),
    formerCookies,
  );
  const isRefusal =
    response.status === 403 &&
    /^application\/json\b/i.test(response.headers.get("content-type") ?? "");
  if (!isRefusal) {
    return response;
  }
  response.headers.delete("content-length");
  return new Response(withValidationErrors(await response.text()), response);
}

/** Turns the headers of a response into those that the SDK reads; see `translateNode`. */
export function translateResponse(response: Response, formerCookies: readonly string[]): Response {
  const headers = new Headers(response.headers);
  const changes = responseChanges(readerOf(headers));
  apply(headers, changes);
  for (const cookie of tellsOfSession(changes) ? formerCookies : []) {
    headers.append("set-cookie", cookie);
  }
  const { status, statusText } = response;
  return new Response(response.body, { status, statusText, headers });
}

export function readerOf(headers: Headers): ReadHeader {
  return (name) => headers.get(name) ?? undefined;
}

/** Changes headers in place. */
export function apply(headers: Headers, changes: readonly HeaderChange[]): void {
  for (const [name, value] of changes) {
    if (value === undefined) {
      headers.delete(name);
    } else {
      headers.set(name, value);
    }
  }
}
