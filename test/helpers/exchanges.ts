import type { Exchange } from "rpc-session";
import { SessionError } from "rpc-session";

/** The tokens and other headers of a request. */
export interface Presented {
  readonly bearer?: string;
  readonly access?: string | readonly string[];
  readonly refresh?: string | readonly string[];
  readonly csrf?: string;
  /** Replaces or adds headers; undefined removes one. */
  readonly headers?: Readonly<Record<string, string | undefined>>;
  /** Default "POST". */
  readonly method?: string;
  /** Without the `__Host-Http-` prefix. */
  readonly insecure?: boolean;
}

export function cookieNamesOf(insecure = false) {
  const prefix = insecure ? "" : "__Host-Http-";
  return { access: `${prefix}rpcsession-access`, refresh: `${prefix}rpcsession-refresh` };
}

/** Request headers as a same-origin page sends them if there are cookies. */
export function requestHeaders(presented: Presented): Headers {
  const names = cookieNamesOf(presented.insecure);
  const cookies = [
    ...[presented.access ?? []].flat().map((value) => `${names.access}=${value}`),
    ...[presented.refresh ?? []].flat().map((value) => `${names.refresh}=${value}`),
  ];
  const headers = new Headers();
  if (cookies.length > 0) {
    headers.set("cookie", cookies.join("; "));
    headers.set("sec-fetch-site", "same-origin");
  }
  if (presented.bearer !== undefined) {
    headers.set("authorization", `Bearer ${presented.bearer}`);
  }
  if (presented.csrf !== undefined) {
    headers.set("rpcsession-csrf", presented.csrf);
  }
  for (const [name, value] of Object.entries(presented.headers ?? {})) {
    if (value === undefined) {
      headers.delete(name);
    } else {
      headers.set(name, value);
    }
  }
  return headers;
}

export function exchangeOf(presented: Presented): Exchange {
  return {
    requestHeader: requestHeaders(presented),
    responseHeader: new Headers(),
    requestMethod: presented.method ?? "POST",
  };
}

/** The changes of a response to the session cookies, such as "access set", "refresh expired". */
export function cookieEffects(headers: Headers, insecure = false): string[] {
  const names = cookieNamesOf(insecure);
  return headers.getSetCookie().map((cookie) => {
    const [pair = "", ...attributes] = cookie.split("; ");
    const name = pair.slice(0, pair.indexOf("="));
    const short = Object.entries(names).find(([, full]) => full === name)?.[0] ?? name;
    const jar = attributes.includes("Partitioned") ? " partitioned" : "";
    return `${short} ${attributes.includes("Max-Age=0") ? "expired" : "set"}${jar}`;
  });
}

/** The value that a response sets a session cookie to, if it does. */
export function cookieValue(headers: Headers, name: "access" | "refresh", insecure = false) {
  const start = `${cookieNamesOf(insecure)[name]}=`;
  return headers
    .getSetCookie()
    .filter((cookie) => cookie.startsWith(start) && !cookie.includes("Max-Age=0"))
    .map((cookie) => cookie.slice(start.length, cookie.indexOf(";")))
    .at(-1);
}

/** Both cookies expired, in both jars. */
export const clearsCookies: readonly string[] = [
  "access expired",
  "access expired partitioned",
  "refresh expired",
  "refresh expired partitioned",
];

/** The SessionError with which work failed; throws if it did not fail with one. */
export async function sessionErrorOf(work: Promise<unknown>): Promise<SessionError> {
  const error = await work.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  if (error instanceof SessionError) {
    return error;
  }
  throw new Error("expected a SessionError", { cause: error });
}

/** A token with the signature of another one. */
export function withSignatureOf(token: string, other: string): string {
  return token.slice(0, token.lastIndexOf(".")) + other.slice(other.lastIndexOf("."));
}
