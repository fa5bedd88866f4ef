// A service whose users sign in at an OpenID provider: authorization code, PKCE, state and nonce.
import type { IncomingMessage, ServerResponse } from "node:http";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import * as oidc from "openid-client";
import { createSessions, SessionError, type Sessions } from "rpc-session";
import { backChannelLogoutFallback, fromNode } from "rpc-session/http";
import { memoryStore } from "rpc-session/stores/memory";
import { z } from "zod";
import { NotesService } from "../gen/notes/v1/notes_pb.ts";

export interface AppOptions {
  /** The origin of the app, such as "http://localhost:8080". */
  readonly origin: string;
  /** The issuer of the provider. */
  readonly provider: string;
  readonly clientId: string;
  readonly clientSecret: string;
  /** The script of the page. */
  readonly script: string;
}

export interface App {
  readonly sessions: Pick<Sessions, "close">;
  readonly handle: (request: IncomingMessage, response: ServerResponse) => void;
}

/** A sign-in that this browser has started, in a cookie of its own. */
interface Pending {
  readonly state: string;
  readonly nonce: string;
  readonly verifier: string;
}

const pendingCookie = "__Host-sign-in";

export async function createApp(options: AppOptions): Promise<App> {
  const { origin, provider, clientId, clientSecret } = options;
  const sessions = createSessions({
    issuer: origin,
    store: memoryStore(),
    claims: z.object({ name: z.string() }),
  });
  await sessions.ready();

  // The provider is on plain http here. Leave this option out in production.
  const onLoopback = { execute: [oidc.allowInsecureRequests] };
  const config = await oidc.discovery(
    new URL(provider),
    clientId,
    clientSecret,
    undefined,
    onLoopback,
  );
  const redirectUri = `${origin}/callback`;

  /** GET /sign-in: sends the browser to the provider. */
  async function startSignIn(_request: IncomingMessage, response: ServerResponse): Promise<void> {
    const pending: Pending = {
      state: oidc.randomState(),
      nonce: oidc.randomNonce(),
      verifier: oidc.randomPKCECodeVerifier(),
    };
    const url = oidc.buildAuthorizationUrl(config, {
      redirect_uri: redirectUri,
      scope: "openid profile",
      state: pending.state,
      nonce: pending.nonce,
      code_challenge: await oidc.calculatePKCECodeChallenge(pending.verifier),
      code_challenge_method: "S256",
    });
    response.setHeader("set-cookie", cookieWith(pending));
    redirect(response, url.href);
  }

  /** GET /callback: the provider sends the browser back. */
  async function finishSignIn(request: IncomingMessage, response: ServerResponse): Promise<void> {
    // 1. The sign-in must have been started by this browser. The cookie works once.
    const pending = pendingOf(request);
    response.setHeader("set-cookie", cookieWith(undefined));
    if (pending === undefined) {
      response.writeHead(400).end("This sign-in was not started in this browser. Start again.");
      return;
    }

    // 2. Compare state and nonce, and exchange the code with the PKCE verifier. Throws if one is wrong.
    const tokens = await oidc.authorizationCodeGrant(config, new URL(request.url ?? "", origin), {
      expectedState: pending.state,
      expectedNonce: pending.nonce,
      pkceCodeVerifier: pending.verifier,
      idTokenExpected: true,
    });
    const idToken = tokens.claims();
    if (idToken === undefined) {
      throw new Error("the provider sent no ID token");
    }

    // 3. Start the session. A former session of this browser ends. The provider's names of the session
    // and of the user tie it to theirs.
    const { iss, sid, sub, name } = idToken;
    await sessions.create(fromNode(request, response), {
      userId: sub,
      claims: { name: typeof name === "string" ? name : sub },
      externalId: { issuer: iss, sid: typeof sid === "string" ? sid : undefined, sub },
      afterRedirect: "state-verified",
    });
    redirect(response, "/");
  }

  /** POST /sign-out: ends the session here, then at the provider (RP-initiated logout). */
  async function signOut(request: IncomingMessage, response: ServerResponse): Promise<void> {
    await sessions.signOut(fromNode(request, response));
    const back = { post_logout_redirect_uri: `${origin}/` };
    redirect(response, oidc.buildEndSessionUrl(config, back).href);
  }

  /** GET /notes.txt: a download, also for links in mails and on other sites. It changes nothing. */
  async function download(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const exchange = fromNode(request, response);
    const { userId } = await sessions.getSession(exchange, { crossSite: "navigations" });
    response.setHeader("content-type", "text/plain; charset=utf-8");
    response.setHeader("content-disposition", 'attachment; filename="notes.txt"');
    response.end(`The notes of ${userId}.\n`);
  }

  // POST /backchannel-logout: the provider tells that a user has signed out there.
  const { issuer, jwks_uri: jwks = "" } = config.serverMetadata();
  const backChannelLogout = backChannelLogoutFallback(sessions, { issuer, clientId, jwks });

  const pages: Readonly<Record<string, Handler>> = {
    "GET /": (_request, response) => {
      response.setHeader("content-type", "text/html; charset=utf-8").end(page);
    },
    "GET /page.js": (_request, response) => {
      response.setHeader("content-type", "text/javascript; charset=utf-8").end(options.script);
    },
    "GET /sign-in": startSignIn,
    "GET /callback": finishSignIn,
    "GET /notes.txt": download,
    "POST /sign-out": signOut,
  };

  const adapter = connectNodeAdapter({
    ...sessions.protect({
      readMaxBytes: 2 ** 20,
      routes: (router) =>
        router.service(NotesService, {
          listNotes(_request, ctx) {
            const { claims } = sessions.require(ctx);
            return { notes: [{ text: `Welcome, ${claims.name}!` }] };
          },
        }),
    }),
    fallback(request, response) {
      const path = request.url?.split("?", 1)[0];
      const handler = pages[`${request.method} ${path}`];
      if (handler === undefined) {
        backChannelLogout(request, response); // or 404
        return;
      }
      void answer(handler, request as IncomingMessage, response as ServerResponse);
    },
  });
  return { sessions, handle: adapter };
}

type Handler = (request: IncomingMessage, response: ServerResponse) => void | Promise<void>;

async function answer(
  handler: Handler,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  try {
    await handler(request, response);
  } catch (error) {
    // What the provider or the visitor sent was wrong, or the session was refused.
    response.writeHead(error instanceof SessionError ? error.statusCode : 400);
    response.end(
      error instanceof SessionError ? error.message : "The sign-in failed. Start again.",
    );
  }
}

function redirect(response: ServerResponse, location: string): void {
  response.writeHead(303, { location }).end();
}

/** The cookie must come along with the redirect from the provider's site, so it is SameSite=Lax. */
function cookieWith(pending: Pending | undefined): string {
  const value =
    pending === undefined ? "" : Buffer.from(JSON.stringify(pending)).toString("base64url");
  const maxAge = pending === undefined ? 0 : 600;
  return `${pendingCookie}=${value}; Max-Age=${maxAge}; Path=/; HttpOnly; Secure; SameSite=Lax`;
}

function pendingOf({ headers }: IncomingMessage): Pending | undefined {
  const value = headers.cookie
    ?.split("; ")
    .find((pair) => pair.startsWith(`${pendingCookie}=`))
    ?.slice(pendingCookie.length + 1);
  try {
    const { state, nonce, verifier } = JSON.parse(
      Buffer.from(value ?? "", "base64url").toString(),
    ) as Record<string, unknown>;
    return typeof state === "string" && typeof nonce === "string" && typeof verifier === "string"
      ? { state, nonce, verifier }
      : undefined;
  } catch {
    return undefined;
  }
}

const page = `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Sign in with OpenID</title>
<h1>Notes</h1>
<p id="notes">…</p>
<p><a href="/sign-in">Sign in</a> <a href="/notes.txt">Download</a></p>
<form method="post" action="/sign-out"><button>Sign out</button></form>
<script type="module" src="/page.js"></script>
</html>`;
