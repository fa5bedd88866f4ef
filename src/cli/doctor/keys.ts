import { readKeySet } from "../../jwt/jwk-set.ts";
import { type Finding, Findings } from "./findings.ts";
import { isPage, jsonOf } from "./rpc.ts";
import { causeOf, type HttpReply, send } from "./wire.ts";

/** Where the keys are published, and by which issuer. */
interface KeysTarget {
  /** The address of the service. */
  readonly url: URL;
  /** Where the keys must be; undefined to look at the usual places. */
  readonly jwks: URL | undefined;
  readonly issuer: string | undefined;
}

/** The seconds that `jwksHandler` allows caches, and those after which a new key signs. */
const maxAge = 300;
const signsAfter = 600;

/** Members that only private and secret keys have (RFC 7518 section 6). */
const privateMembers = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

/** Looks at the published keys, and at a discovery document if there is one. */
export async function lookAtKeys(target: KeysTarget): Promise<readonly Finding[]> {
  const found = new Findings("keys");
  const discovered = target.jwks ?? (await discover(found, target));
  const url = discovered ?? new URL("/.well-known/jwks.json", target.url);
  const isExpected = discovered !== undefined;
  let reply: HttpReply;
  try {
    reply = await send(url, { method: "GET" });
  } catch (error) {
    reportMissing(found, url, causeOf(error));
    return found.list;
  }
  if (!isExpected && (reply.status === 404 || reply.status === 405 || isPage(reply))) {
    found.ok("No keys are published. Only services that verify sessions themselves need them.");
    return found.list;
  }
  if (reply.status === 503) {
    found.fail(
      `The keys at ${url.href} are not available now (status 503).`,
      "Services that verify sessions have no keys once theirs are a day old.",
      "See the events of the service: it cannot read its store, or its secret does not open the keys.",
    );
  } else if (reply.status !== 200 || jsonOf(reply) === undefined) {
    reportMissing(found, url, `status ${reply.status}${isPage(reply) ? ", a web page" : ""}`);
  } else {
    await reportSet(found, reply);
    reportCaching(found, reply);
  }
  return found.okIfNone(`The keys at ${url.href} are in order: ${algorithmsOf(reply)}.`);
}

function reportMissing(found: Findings, url: URL, seen: string): void {
  found.fail(
    `There are no keys at ${url.href}: ${seen}.`,
    "Services with verifySessions refuse every call as unavailable.",
    "Serve jwksHandler(sessions) or jwksFallback(sessions) there, and let the proxy forward this path.",
  );
}

/** The `jwks_uri` of a discovery document (RFC 8414), if one is published. */
async function discover(found: Findings, { url, issuer }: KeysTarget): Promise<URL | undefined> {
  for (const name of ["oauth-authorization-server", "openid-configuration"]) {
    const place = new URL(`/.well-known/${name}`, url);
    const document = await send(place, { method: "GET" }).then(
      (reply) => (reply.status === 200 && !isPage(reply) ? jsonOf(reply) : undefined),
      () => undefined,
    );
    const { jwks_uri: uri, issuer: named } = document ?? {};
    if (named !== undefined && named === issuer && typeof uri === "string" && URL.canParse(uri)) {
      return new URL(uri);
    }
    // Another issuer may live on this origin, such as an OpenID provider. A slash is a slip.
    if (typeof named === "string" && named.replace(/\/$/, "") === issuer?.replace(/\/$/, "")) {
      found.fail(
        `The document at ${place.href} names the issuer ${named}, the tokens name ${issuer}.`,
        "Services that read it refuse the tokens, because issuers are compared exactly (RFC 8414 section 3.3).",
        "Publish the issuer of createSessions there, exactly as it is configured.",
      );
    }
  }
  return undefined;
}

/** The keys of a set that are objects. */
function keysIn(reply: HttpReply): readonly Readonly<Record<string, unknown>>[] {
  const keys = jsonOf(reply)?.keys;
  return Array.isArray(keys)
    ? (keys as unknown[]).filter(
        (key): key is Readonly<Record<string, unknown>> => typeof key === "object" && key !== null,
      )
    : [];
}

async function reportSet(found: Findings, reply: HttpReply): Promise<void> {
  const keys = keysIn(reply);
  if (keys.some((key) => privateMembers.some((name) => name in key))) {
    found.fail(
      "A private or secret key is published.",
      "Everybody can sign access tokens with it.",
      "Publish jwksHandler(sessions) alone. Retire the key now: rpc-session keys retire, or change keys.signing.",
    );
    return;
  }
  try {
    const usable = await readKeySet(jsonOf(reply));
    if (usable.size < keys.length) {
      found.warn(
        `${keys.length - usable.size} of ${keys.length} keys cannot verify access tokens.`,
        "Tokens that they signed are refused.",
        "Publish keys for ES256, EdDSA or RS256 (2048 bits or more), each with a kid of 1 to 64 characters.",
      );
    }
  } catch (error) {
    found.fail(
      `The key set is not valid: ${causeOf(error)}.`,
      "Services with verifySessions refuse the whole set.",
      "Publish the set of jwksHandler(sessions) unchanged.",
    );
  }
}

function reportCaching(found: Findings, reply: HttpReply): void {
  const control = reply.header("cache-control") ?? "";
  const seconds = /(?:^|[\s,])max-age=(\d+)/.exec(control)?.[1];
  const age = Number(reply.header("age") ?? 0);
  const mend = `Let caches keep the set for at most 5 minutes: Cache-Control: public, max-age=${maxAge}, as jwksHandler sends it.`;
  const why = `A new key signs ${signsAfter / 60} minutes after it is published. A verifier that gets an older set refuses its tokens.`;
  if (age > signsAfter) {
    found.fail(`A cache on the way answers with keys that are ${age} s old.`, why, mend);
  } else if (seconds === undefined && !/no-store|no-cache/.test(control)) {
    found.warn("The keys have no Cache-Control with max-age.", why, mend);
  } else if (Number(seconds ?? 0) > maxAge) {
    found.warn(`Caches may keep the keys for ${seconds} s.`, why, mend);
  }
}

function algorithmsOf(reply: HttpReply): string {
  const names = keysIn(reply).map(({ alg, kty }) => String(alg ?? kty));
  return `${names.length} ${names.length === 1 ? "key" : "keys"}, ${[...new Set(names)].join(", ")}`;
}
