import {
  Code,
  ConnectError,
  type ConnectRouter,
  createContextKey,
  type Interceptor,
} from "@connectrpc/connect";
import { createVerifier } from "fast-jwt";
import { jwtVerify } from "jose";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { createSessions, type Sessions } from "../../src/create-sessions.ts";
import type { SessionsOptions } from "../../src/options.ts";
import type { ProtectOptions } from "../../src/server/protect.ts";
import { memoryStore } from "../../src/stores/memory/index.ts";
import { loadPeer } from "../lib/peers.ts";
import { claimsOf, issuer, makeKey } from "../lib/tokens.ts";
import { silentStream } from "./streams.ts";

/** The service of a benchmark server, and the credentials that its clients send. */
export interface Served {
  readonly options: ProtectOptions;
  readonly bearers: readonly string[];
  /** Only better-auth creates one; clients send the same to every other server. */
  readonly cookie: string | undefined;
}

export const contestantNames = {
  bare: "no auth",
  noop: "no-op interceptor",
  jose: "jose interceptor, by hand",
  "fast-jwt": "fast-jwt interceptor, cache",
  "better-auth": "better-auth interceptor, cookie cache",
  feed: 'rpc-session, `revocation: "feed"`',
  strict: 'rpc-session, `"strict"` on memory',
  none: 'rpc-session, `"none"`',
} as const;

export type ContestantId = keyof typeof contestantNames;

const tokenCount = 100;
const userKey = createContextKey<string>("", { description: "user" });
const unauthenticated = () => new ConnectError("unauthenticated", Code.Unauthenticated);

/** @throws TypeError if this version lacks the feature of a contestant */
export async function serve(id: ContestantId): Promise<Served> {
  switch (id) {
    case "feed":
    case "strict":
    case "none":
      return serveSessions(id);
    case "bare":
      return withInterceptors([]);
    case "noop":
      return withInterceptors([(next) => async (request) => next(request)]);
    case "jose":
    case "fast-jwt":
      return serveJwt(id);
    case "better-auth":
      return serveBetterAuth();
  }
}

/** A unary method that does nothing, and a stream that stays open without messages. */
function routes(router: ConnectRouter): void {
  router.rpc(NotesService.method.listNotes, () => ({}));
  router.rpc(NotesService.method.watchNotes, silentStream);
}

async function withInterceptors(interceptors: readonly Interceptor[]): Promise<Served> {
  const key = await makeKey("ES256");
  const tokens = Array.from({ length: tokenCount }, (_, i) => key.sign(claimsOf(i)));
  return {
    options: { routes, interceptors: [...interceptors] },
    bearers: await Promise.all(tokens),
    cookie: undefined,
  };
}

async function serveSessions(revocation: "feed" | "strict" | "none"): Promise<Served> {
  const base: SessionsOptions = {
    issuer,
    store: memoryStore(),
    lifetimes: { access: "1h" },
  };
  const sessions = createSessions({ ...base, ...revocationOption(revocation) });
  await sessions.ready();
  return {
    options: sessions.protect({ routes }),
    bearers: await issueAll(sessions),
    cookie: undefined,
  };
}

/** Returns nothing for "feed", which is the default even in versions without the option. */
function revocationOption(revocation: "feed" | "strict" | "none"): object {
  return revocation === "feed" ? {} : { revocation };
}

function issueAll(sessions: Sessions): Promise<string[]> {
  const issue = async (_: unknown, i: number): Promise<string> => {
    const { tokens } = await sessions.issue({
      userId: `user-${i}`,
      claims: { role: "admin", plan: "pro", org: "acme" },
      transport: "header",
    });
    return tokens.accessToken;
  };
  return Promise.all(Array.from({ length: tokenCount }, issue));
}

/** An interceptor as applications write it by hand. */
async function serveJwt(id: "jose" | "fast-jwt"): Promise<Served> {
  const key = await makeKey("ES256");
  const fast = createVerifier({
    key: key.publicPem,
    cache: 2 * tokenCount,
    allowedIss: issuer,
    allowedAud: issuer,
    algorithms: ["ES256"],
  });
  const verify = async (token: string): Promise<string> => {
    if (id === "fast-jwt") {
      return (fast(token) as { sub: string }).sub;
    }
    const { payload } = await jwtVerify(token, key.cryptoKey, { issuer, audience: issuer });
    return payload.sub ?? "";
  };
  const interceptor: Interceptor = (next) => async (request) => {
    const authorization = request.header.get("authorization");
    if (!authorization?.startsWith("Bearer ")) {
      throw unauthenticated();
    }
    try {
      request.contextValues.set(userKey, await verify(authorization.slice("Bearer ".length)));
    } catch {
      throw unauthenticated();
    }
    return next(request);
  };
  const tokens = Array.from({ length: tokenCount }, (_, i) => key.sign(claimsOf(i)));
  return {
    options: { routes, interceptors: [interceptor] },
    bearers: await Promise.all(tokens),
    cookie: undefined,
  };
}

/** The part of better-auth that is used here. */
interface BetterAuth {
  readonly api: {
    signUpEmail(input: object): Promise<{ readonly headers: Headers }>;
    getSession(input: {
      readonly headers: Headers;
    }): Promise<{ readonly user: { readonly id: string } } | null>;
  };
}

async function serveBetterAuth(): Promise<Served> {
  const library = await loadPeer<{ betterAuth(options: object): BetterAuth }>("better-auth");
  const memory = await loadPeer<{ memoryAdapter(tables: object): unknown }>(
    "better-auth/adapters/memory",
  );
  const auth = library.betterAuth({
    baseURL: issuer,
    secret: "the secret of the benchmark, long enough",
    database: memory.memoryAdapter({ user: [], session: [], account: [], verification: [] }),
    emailAndPassword: { enabled: true },
    session: { cookieCache: { enabled: true, maxAge: 3_600 } },
    telemetry: { enabled: false },
  });
  const { headers } = await auth.api.signUpEmail({
    body: { name: "Alice", email: "alice@example.com", password: "correct horse battery" },
    returnHeaders: true,
  });
  const interceptor: Interceptor = (next) => async (request) => {
    const session = await auth.api.getSession({ headers: request.header });
    if (session === null) {
      throw unauthenticated();
    }
    request.contextValues.set(userKey, session.user.id);
    return next(request);
  };
  const pairs = headers.getSetCookie().map((cookie) => cookie.slice(0, cookie.indexOf(";")));
  return { ...(await withInterceptors([interceptor])), cookie: pairs.join("; ") };
}
