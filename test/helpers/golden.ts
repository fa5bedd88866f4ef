import type { DescMethod } from "@bufbuild/protobuf";
import { accessCookie, type Presented, realm, refreshCookie } from "./presented.ts";
import type { Wire, WireResult } from "./wire.ts";
import { type ExpectedHint, refusalDetails, type WireDetail } from "./wire-status.ts";

const gone = "Max-Age=0; Path=/; Expires=Thu, 01 Jan 1970 00:00:00 GMT; HttpOnly; Secure";

/** The Set-Cookie headers that expire both cookies, in the common and in the partitioned jar. */
export const clearedCookies: readonly string[] = [
  `${accessCookie}=; ${gone}; SameSite=Lax`,
  `${accessCookie}=; ${gone}; Partitioned; SameSite=Lax`,
  `${refreshCookie}=; ${gone}; SameSite=Lax`,
  `${refreshCookie}=; ${gone}; Partitioned; SameSite=Lax`,
];

/**
 * The Set-Cookie headers of new tokens, as `maskTokens` shows them: kept until the session ends.
 * @param age seconds since the session began, of its 90 days
 */
export function writtenCookies(age: number) {
  const kept = `Max-Age=${90 * 86_400 - age}; Path=/; HttpOnly; Secure; SameSite=Lax`;
  return {
    access: `${accessCookie}=<access>; ${kept}`,
    refresh: `${refreshCookie}=<refresh>; ${kept}`,
  };
}

/** A header such as Set-Cookie, with names replacing everything that has the exact form of a token. */
export function maskTokens(value: string): string {
  return value
    .replace(/(^|=)[\w-]{20,}\.[\w-]{100,}\.[\w-]{86}(?=;|$)/, "$1<access>")
    .replace(/(^|=)[\w-]{8}\.[\w-]{22}\.\d+\.2\.[\w-]{22}\.[\w-]{43}(?=;|$)/, "$1<refresh>");
}

/** The result of a refused call in any protocol. */
export interface Refusal extends ExpectedHint {
  readonly code: "unauthenticated" | "permission_denied" | "unavailable";
  /** Whether the hint names the session. */
  readonly named: boolean;
  readonly cookies: "left" | "cleared";
}

/** A refusal as a line of a table. An outage also says after how many seconds to try again. */
export type RefusalLine =
  | `${Refusal["code"]} ${Refusal["action"]} ${Refusal["reason"]} ${Refusal["tokens"]} ${"named" | "unnamed"} ${Refusal["cookies"]}`
  | `unavailable RETRY_LATER AUTH_UNAVAILABLE KEEP unnamed left ${1 | 5}s`;

export function readRefusal(line: RefusalLine): Refusal {
  const [code, action, reason, tokens, named, cookies, retry] = line.split(" ");
  const refusal = { code, action, reason, tokens, named: named === "named", cookies } as Refusal;
  return retry === undefined ? refusal : { ...refusal, retryAfter: Number.parseInt(retry, 10) };
}

/** The parts of a result that are compared. */
export interface Facts {
  readonly httpStatus: number;
  readonly code: string;
  readonly details: readonly WireDetail[];
  readonly setCookie: readonly string[];
  readonly headers: Readonly<Record<string, string>>;
  /** The names of the metadata after the headers. */
  readonly inBody: readonly string[];
}

export interface Cell {
  readonly wire: Wire;
  readonly method: DescMethod;
  readonly get?: boolean;
}

const ofHttp = ["content-length", "content-type", "date", "connection", "transfer-encoding"];

export function factsOf(result: WireResult): Facts {
  return {
    httpStatus: result.httpStatus,
    code: result.code,
    details: result.details,
    setCookie: result.setCookie,
    headers: Object.fromEntries([...result.headers].filter(([name]) => !ofHttp.includes(name))),
    inBody: result.inBody.map(([name]) => name).sort(),
  };
}

const httpStatuses = { unauthenticated: 401, permission_denied: 403, unavailable: 503 } as const;
const hintFlags = {
  ...{ NONE: undefined, REFRESH: "refresh", SIGN_IN: "sign-in" },
  ...{ STEP_UP: "step-up", RETRY_LATER: "retry-later" },
} as const;

/** The expected refusal of one cell of the matrix. */
export function refusalFacts(refusal: Refusal, cell: Cell, presented: Presented): Facts {
  const { method } = cell;
  const connect = cell.wire.protocol.startsWith("connect");
  const hint = hintFlags[refusal.action];
  const error = refusal.reason === "SESSION_MISSING" ? "" : ', error="invalid_token"';
  return {
    httpStatus: connect && method.methodKind === "unary" ? httpStatuses[refusal.code] : 200,
    code: refusal.code,
    details: refusalDetails(refusal, {
      session: refusal.named ? presented.session : "",
      realm,
      procedure: `${method.parent.typeName}/${method.name}`,
    }),
    setCookie: refusal.cookies === "cleared" ? clearedCookies : [],
    headers: {
      ...cachingHeaders(cell.get, refusal.cookies === "cleared"),
      ...(hint === undefined ? {} : { "rpcsession-hint": hint }),
      ...(refusal.code === "unauthenticated"
        ? { "www-authenticate": `Bearer realm="${realm}"${error}` }
        : {}),
    },
    inBody: connect ? [] : ["grpc-message", "grpc-status", "grpc-status-details-bin"],
  };
}

/** The expected result of an admitted call. */
export function passedFacts({ wire, get }: Cell): Facts {
  return {
    httpStatus: 200,
    code: "ok",
    details: [],
    setCookie: [],
    headers: cachingHeaders(get, false),
    inBody: wire.protocol.startsWith("connect") ? [] : ["grpc-status"],
  };
}

/** `Vary` is only set on responses that a cache might store. */
function cachingHeaders(get: boolean | undefined, clearsCookies: boolean): Record<string, string> {
  const caching = get === true && !clearsCookies ? "private, no-store" : "no-store";
  const vary = get === true && { vary: "Cookie, Authorization, Sec-Fetch-Site, Origin, Referer" };
  return { "cache-control": caching, ...vary };
}

/** The secrets and cookie names that a result contains in places where it must not. */
export function leaksOf(result: WireResult, secrets: readonly string[]): string[] {
  const headers = [...result.headers].flat().join("\n");
  const anywhere = secrets.filter((secret) =>
    `${result.afterHeaders}\n${headers}`.includes(secret),
  );
  const cookies = ["set-cookie", "__host-", "rpcsession-access", "rpcsession-refresh"];
  return [...anywhere, ...cookies.filter((c) => result.afterHeaders.toLowerCase().includes(c))];
}
