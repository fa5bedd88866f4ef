import { withValidationErrors } from "./errors.ts";
import {
  type HeaderChange,
  type ReadHeader,
  reportsSession,
  requestChanges,
  responseChanges,
  type Sender,
  senderOf,
} from "./wire.ts";

/** Returns `Set-Cookie` lines that remove the cookies of SuperTokens, for a response that reports a session. */
export type FormerCookies = (read: ReadHeader) => readonly string[];

/** Calls a handler with a translated request. Requests of other clients stay as they are. */
export async function translated(
  request: Request,
  handler: (request: Request) => Promise<Response> | Response,
  formerCookies: FormerCookies,
): Promise<Response> {
  const read = readerOf(request.headers);
  const sender = senderOf(read);
  const removed = formerCookies(read);
  if (sender === undefined && removed.length === 0) {
    return handler(request);
  }
  const headers = new Headers(request.headers);
  apply(headers, sender === "sdk" ? requestChanges(read) : []);
  const answer = await handler(new Request(request, { headers }));
  const response = translateResponse(answer, sender, removed);
  const isRefusal =
    sender === "sdk" &&
    response.status === 403 &&
    /^application\/json\b/i.test(response.headers.get("content-type") ?? "");
  if (!isRefusal) {
    return response;
  }
  response.headers.delete("content-length");
  return new Response(withValidationErrors(await response.text()), response);
}

/** Turns the headers of a response into those that the SDK reads; see `translateNode`. */
export function translateResponse(
  response: Response,
  sender: Sender | undefined,
  formerCookies: readonly string[],
): Response {
  const headers = new Headers(response.headers);
  const removed = reportsSession(readerOf(headers)) ? formerCookies : [];
  apply(headers, responseChanges(readerOf(headers), sender));
  for (const cookie of removed) {
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
