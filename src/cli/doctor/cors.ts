import { cors as connectCors } from "@connectrpc/connect";
import { readPageOrigins } from "../../request/origins.ts";
import { sessionCors } from "../../server/protect.ts";
import { type CookieLook, strangeOrigin } from "./cookies.ts";
import { type Finding, Findings } from "./findings.ts";
import { callSession, type RpcReply, sessionUrl, type Target } from "./rpc.ts";
import { send } from "./wire.ts";

const { allowedHeaders, exposedHeaders } = sessionCors(connectCors);

/** Request headers that browsers send, of all that sessions and Connect may send. */
const sent = new Set([
  ...["authorization", "content-type", "connect-protocol-version", "connect-timeout-ms"],
  ...["grpc-timeout", "rpcsession-csrf", "rpcsession-transport", "x-grpc-web", "x-user-agent"],
]);
const needed = allowedHeaders.map((name) => name.toLowerCase()).filter((name) => sent.has(name));
/** Response headers that scripts must be able to read; compression is the browser's own matter. */
const exposed = exposedHeaders
  .map((name) => name.toLowerCase())
  .filter((name) => /^(?:grpc|rpcsession)-/.test(name) && name !== "grpc-encoding");

const lists = "sessionCors({ ...cors, allowedOrigins })";

/** Calls as a page of another origin would, and checks that other origins cannot. */
export async function lookAtCors(target: Target, cookies: CookieLook): Promise<readonly Finding[]> {
  const found = new Findings("cors");
  const strange = await callSession(target, "GetSession", { origin: strangeOrigin });
  if (allowOf(strange) === strangeOrigin && allowsCredentials(strange)) {
    found.fail(
      "CORS allows every origin, with credentials: the answer repeats the Origin of the request.",
      "A page of any site can read what a signed-in user sees.",
      `List the origins in the CORS middleware, with ${lists}. Do not reflect the origin.`,
    );
  }
  const { origin } = target;
  if (origin === undefined || origin === target.url.origin) {
    return found.okIfNone("No other origin was checked; name one with --origin.");
  }
  await reportPreflight(found, target, origin);
  reportResponse(found, await callSession(target, "GetSession", { origin }), origin);
  await reportOrigins(found, target, { ...cookies, origin });
  return found.okIfNone(`Pages of ${origin} can call the service.`);
}

type Headed = Pick<RpcReply, "header">;

function allowOf(reply: Headed): string | undefined {
  return reply.header("access-control-allow-origin");
}

function allowsCredentials(reply: Headed): boolean {
  return reply.header("access-control-allow-credentials") === "true";
}

function listOf(value: string | undefined): readonly string[] {
  return (value ?? "")
    .toLowerCase()
    .split(",")
    .map((name) => name.trim());
}

/** The question that a browser asks before the call (Fetch standard, CORS-preflight fetch). */
async function reportPreflight(found: Findings, target: Target, origin: string): Promise<void> {
  const reply = await send(sessionUrl(target.url, "GetSession"), {
    method: "OPTIONS",
    headers: {
      origin,
      "access-control-request-method": "POST",
      "access-control-request-headers": needed.toSorted().join(","),
    },
  });
  const isAnswered = reply.status >= 200 && reply.status < 300;
  if (!isAnswered || allowOf(reply) === undefined) {
    found.fail(
      isAnswered
        ? `The preflight (OPTIONS) does not allow ${origin}: it has no Access-Control-Allow-Origin.`
        : `The preflight (OPTIONS) is answered with status ${reply.status}.`,
      `Browsers do not send the calls of pages of ${origin}.`,
      `Put a CORS middleware in front of the adapter, which does not answer OPTIONS, with the lists of ${lists} and allowedOrigins: ["${origin}"].`,
    );
    return;
  }
  reportAllowed(found, reply, { origin, where: "The preflight" });
  const missing = needed.filter(
    (name) => !listOf(reply.header("access-control-allow-headers")).includes(name),
  );
  if (missing.length > 0) {
    found.fail(
      `The preflight does not allow the request headers ${missing.join(", ")}.`,
      "Browsers do not send calls with these headers. A wildcard does not count with credentials.",
      `Pass the allowedHeaders of ${lists} to the CORS middleware.`,
    );
  }
  if (!listOf(reply.header("access-control-allow-methods")).includes("post")) {
    found.warn(
      "The preflight does not list the method POST.",
      "Browsers allow POST all the same, but not everything else does.",
      `Pass the allowedMethods of ${lists} to the CORS middleware.`,
    );
  }
}

function reportAllowed(
  found: Findings,
  reply: Headed,
  { origin, where }: { readonly origin: string; readonly where: string },
): void {
  const allowed = allowOf(reply);
  if (allowed !== origin) {
    found.fail(
      allowed === "*"
        ? `${where} allows every origin ("*").`
        : `${where} allows another origin than ${origin}.`,
      "Browsers accept only the exact origin of the page, because calls carry cookies.",
      `Pass allowedOrigins: ["${origin}"] to the CORS middleware.`,
    );
  }
  if (!allowsCredentials(reply)) {
    found.fail(
      `${where} has no Access-Control-Allow-Credentials: true.`,
      "Browsers neither send nor keep the session cookies.",
      `Set credentials: true in the CORS middleware, as allowCredentials of ${lists} says.`,
    );
  }
}

function reportResponse(found: Findings, reply: RpcReply, origin: string): void {
  if (allowOf(reply) === undefined) {
    found.fail(
      "The answer of the call itself has no Access-Control-Allow-Origin.",
      "Browsers keep the answer from the page, refusals included.",
      "Let the CORS middleware add its headers to every response, not to preflights and successes alone.",
    );
    return;
  }
  reportAllowed(found, reply, { origin, where: "The answer of the call" });
  const list = listOf(reply.header("access-control-expose-headers"));
  const missing = exposed.filter((name) => !list.includes(name));
  if (missing.length > 0) {
    found.fail(
      `The answer does not expose the response headers ${missing.join(", ")}.`,
      "The client cannot read them: session.state stays unknown, and gRPC-Web has no errors.",
      `Pass the exposedHeaders of ${lists} to the CORS middleware.`,
    );
  }
}

/** Whether the service accepts cookies from the page, and browsers send them. */
async function reportOrigins(
  found: Findings,
  target: Target,
  { header: cookie, sameSite, origin }: CookieLook & { readonly origin: string },
): Promise<void> {
  if (cookie === undefined) {
    return;
  }
  const { reason } = await callSession(target, "Refresh", { cookie, origin });
  if (reason === "CROSS_SITE") {
    found.fail(
      `The service refuses cookies of pages of ${origin}: the origin is not in its option origins.`,
      "Every call of a signed-in user fails with PermissionDenied.",
      `Add it: origins: ["${origin}"]. The list replaces the default, which is the issuer.`,
    );
  }
  try {
    readPageOrigins([origin], { issuer: target.url, sameSite });
  } catch {
    found.fail(
      `Pages of ${origin} are on another site than ${target.url.origin}, and the cookies have SameSite=${sameSite}.`,
      "Browsers neither keep nor send such cookies.",
      'Serve the pages from the same site, or set cookies: { sameSite: "none", partitioned: true }.',
    );
  }
}
