import { SessionError, unavailable } from "../../base/errors.ts";
import { dbscHeader } from "../../base/wire.ts";
import type { Engine } from "../../engine/engine.ts";
import { isLive } from "../../engine/liveness.ts";
import { type DbscIdentifier, proofLife } from "../../engine/refresh/dbsc.ts";
import { type ProvenRefreshToken, UnknownSecretError } from "../../engine/refresh/token.ts";
import { verifyDbscProof } from "../../jwt/dbsc.ts";
import { maxCopies, readSessionCookies } from "../../request/tokens.ts";
import { lineageOf } from "../authenticate/dbsc.ts";
import { isProven, proveRefresh, type RefreshProof } from "../authenticate/refresh.ts";
import type { Core } from "../core.ts";

/** A request to an endpoint of DBSC. */
export interface DbscRequest {
  readonly method: string;
  /** The path of the URL, without its query. */
  readonly path: string;
  readonly headers: Headers;
  /** The URL that the server received, for a service with several hosts. */
  readonly url: string;
}

/** The endpoints of Device Bound Session Credentials. `dbscHandler` of `rpc-session/http` serves them. */
export interface DbscEndpoints {
  /** All paths under which the endpoints are. */
  readonly paths: readonly string[];
  /** Answers a request; undefined for another path. Never rejects. */
  answer(request: DbscRequest): Promise<Response> | undefined;
}

/**
 * Offers a binding at each sign-in with cookies from now on.
 * @throws TypeError if browsers would not keep to it
 */
export function serveDbsc(core: Core, path: string): DbscEndpoints {
  const prefixes = core.dbsc.serve(path);
  const works = { register, refresh } as const;
  const byPath = new Map<string, (typeof works)[keyof typeof works]>(
    prefixes.flatMap((prefix) =>
      Object.entries(works).map(([name, work]) => [`${prefix}/${name}`, work] as const),
    ),
  );
  return {
    paths: [...byPath.keys()],
    answer({ method, path: asked, headers }) {
      const work = byPath.get(asked);
      if (work === undefined) {
        return undefined;
      }
      if (method !== "POST") {
        return Promise.resolve(new Response(null, { status: 405, headers: { allow: "POST" } }));
      }
      return core.operations
        .run(async () => work(core, await core.engine(), headers))
        .catch((error: unknown) => failed(core, error));
    },
  };
}

/**
 * Registers the key of a browser for the session that it has just begun. Nothing is stored: the identifier
 * carries the key, and the first proof binds the session.
 */
async function register(core: Core, engine: Engine, headers: Headers): Promise<Response> {
  // 1. The proof brings the key, and shows that the browser has it.
  const verified = await verifyDbscProof(textOf(headers, dbscHeader.response));
  if ("refused" in verified) {
    return refused(verified.refused);
  }
  const { jti, jwk } = verified.proof;

  // 2. It answers the challenge of the sign-in, and comes with the cookies of that session. Other ways
  // in are closed: a script of the page can send a proof too, but not use a binding.
  for (const { record, now, boundKey } of await sessionsOf(core, engine, headers)) {
    const lineage = lineageOf(record);
    if (
      isLive({ record, now }) &&
      boundKey === null &&
      (await core.dbsc.takeChallenge(engine, "register", { lineage, jti }))
    ) {
      // 3. What the browser does from now on. It has no proof cookie yet, so the next refresh is held.
      return instructions(core, await engine.dbsc.identifier(lineage, jwk));
    }
  }
  return refused(
    "The challenge must be that of the sign-in, a few minutes old, and come with the cookies of its session.",
  );
}

/**
 * Gives a browser that proves its key a proof cookie for its next refresh.
 *
 * Browsers end the binding at any answer but these, and its user would be signed out: 403 with a challenge,
 * 200, and 5xx for "not now".
 */
async function refresh(core: Core, engine: Engine, headers: Headers): Promise<Response> {
  // 1. The binding, and its session by the cookies. An ended one is forgotten, and so is that of an earlier
  // sign-in; the browser then goes on to the present one.
  const identifier = await engine.dbsc.readIdentifier(textOf(headers, dbscHeader.sessionId));
  if (identifier === undefined) {
    return ended("The header Sec-Secure-Session-Id must be an identifier of this service.");
  }
  const sessions = await sessionsOf(core, engine, headers);
  const session = sessions.find(
    (one) => isLive(one) && lineageOf(one.record) === identifier.lineage,
  );
  if (session === undefined) {
    return ended("The session of this binding has ended, or its cookies are gone.");
  }

  // 2. Its key: the one that the session is bound to, or one that was registered for it.
  if (!(await isKeyOf(core, engine, { session, identifier }))) {
    return ended("The session is bound to another key.");
  }

  // 3. The proof by that key, which answers a challenge of ours. A browser that has got an answer without a
  // new challenge sends the used one again.
  const text = textOf(headers, dbscHeader.response);
  if (text === "") {
    return challenge(core, engine, identifier);
  }
  const verified = await verifyDbscProof(text, identifier.jwk);
  if ("refused" in verified) {
    return ended(verified.refused);
  }
  const { jti, thumbprint } = verified.proof;
  const { lineage } = identifier;
  if (!(await core.dbsc.takeChallenge(engine, "refresh", { lineage, jti }))) {
    return challenge(core, engine, identifier);
  }

  // 4. The proof cookie, for the generation that the browser has now.
  const { generation, record } = session;
  const admitted = { session: record.id, generation };
  const now = engine.revocations.storeNow();
  const proof = await engine.dbsc.proof(admitted, thumbprint, now);
  const answer = instructions(core, identifier.text);
  answer.headers.set("set-cookie", core.dbsc.cookies.set(proof, proofLife / 1000));
  return answer;
}

/**
 * Returns the sessions that the refresh cookies of a request prove.
 * @throws SessionError `unavailable` if there may be one that this server cannot prove now
 */
async function sessionsOf(
  core: Core,
  engine: Engine,
  headers: Headers,
): Promise<readonly ProvenRefreshToken[]> {
  const proofs: RefreshProof[] = [];
  const { refreshCookies } = readSessionCookies(headers.get("cookie"), core.cookies);
  for (const token of refreshCookies.slice(0, maxCopies)) {
    proofs.push(await proveRefresh(engine, token, "cookie"));
  }
  const proven = proofs.filter(isProven);
  const unknown = proofs.find((proof) => proof instanceof UnknownSecretError);
  if (proven.length === 0 && unknown !== undefined) {
    throw unknown;
  }
  return proven;
}

interface Binding {
  readonly session: ProvenRefreshToken;
  readonly identifier: DbscIdentifier;
}

async function isKeyOf(
  core: Core,
  engine: Engine,
  { session, identifier }: Binding,
): Promise<boolean> {
  const { boundKey, record } = session;
  if (boundKey === null) {
    return engine.dbsc.isRegistered(identifier);
  }
  if (boundKey !== identifier.thumbprint) {
    const { id: sessionId, userId } = record;
    core.emit({ type: "proofRefused", sessionId, userId, why: "otherKey" });
    return false;
  }
  return true;
}

/** Returns the value of a header, without the quotes of a structured string; empty if it is absent. */
function textOf(headers: Headers, name: string): string {
  const value = headers.get(name)?.trim() ?? "";
  return /^"([^"\\]*)"$/.exec(value)?.[1] ?? value;
}

const noStore = { "cache-control": "no-store" } as const;

function instructions({ dbsc }: Core, identifier: string): Response {
  const headers = { "content-type": "application/json", ...noStore };
  return new Response(dbsc.instructions(identifier), { status: 200, headers });
}

async function challenge(
  core: Core,
  engine: Engine,
  { lineage, text }: DbscIdentifier,
): Promise<Response> {
  const value = await core.dbsc.challenge(engine, "refresh", lineage);
  return new Response(null, {
    status: 403,
    headers: { [dbscHeader.challenge]: `"${value}";id="${text}"`, ...noStore },
  });
}

/** The registration fails. The session goes on without a key. */
function refused(why: string): Response {
  return new Response(why, { status: 400, headers: noStore });
}

/** The browser forgets the binding. */
function ended(why: string): Response {
  return new Response(why, { status: 401, headers: noStore });
}

/** An outage: the binding stays, and the held call says that it has no proof. */
function failed(core: Core, cause: unknown): Response {
  const error =
    cause instanceof SessionError
      ? cause
      : unavailable("a proof of a browser (DBSC) could not be checked; see the cause", cause);
  core.emit({ type: "failed", procedure: undefined, error });
  const seconds = Math.ceil((error.retryAfter ?? 1000) / 1000);
  return new Response(null, {
    status: 503,
    headers: { "retry-after": String(seconds), ...noStore },
  });
}
