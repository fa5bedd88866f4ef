// A real OpenID provider on this machine (npm oidc-provider), and a client of it (openid-client).
import { createServer, type RequestListener } from "node:http";
import type { AddressInfo } from "node:net";
import { Provider } from "oidc-provider";
import * as oidc from "openid-client";
import type { ExternalId, SessionError, SessionEvent } from "rpc-session";
import { backChannelLogoutFallback } from "rpc-session/http";
import { sqliteStore } from "rpc-session/stores/sqlite";
import { createFakeClock, testSessions } from "rpc-session/testing";
import { describe, expect, it, onTestFinished } from "vitest";
import { generateSigningKey } from "../../src/jwt/keys.ts";
import { exchangeOf } from "../helpers/exchanges.ts";
import { newJar } from "../helpers/jar.ts";
import { createSqlite } from "../stores/sqlite-fixture.ts";

describe("feat:G10 feat:A14 signing out at a real OpenID provider", () => {
  it("ends the session of that browser on every server, and no other one", async () => {
    const world = await startWorld({ backchannel_logout_session_required: true });
    const [here, elsewhere] = [await world.signIn("ann"), await world.signIn("ann")];
    expect(here.externalId).toEqual({ issuer: world.issuer, sid: expect.any(String), sub: "ann" });
    expect(here.externalId.sid).not.toBe(elsewhere.externalId.sid);
    await here.browser.signOut();
    expect(world.delivered).toEqual(["success"]);
    expect(await world.reasonOf(here.bearer)).toBe("SESSION_REVOKED");
    expect(await world.reasonOf(elsewhere.bearer)).toBeUndefined();
    const ended = { type: "revoked", sessionId: here.id, endedBy: "externalLogout" };
    expect(world.events.filter(({ type }) => type === "revoked")).toEqual([ended]);
  });

  it("ends all sessions of the user if the provider's logout tokens name no session", async () => {
    const world = await startWorld({ backchannel_logout_session_required: false });
    const [first, second] = [await world.signIn("ann"), await world.signIn("ann")];
    const other = await world.signIn("ben");
    expect(first.externalId).toEqual({ issuer: world.issuer, sub: "ann" });
    await first.browser.signOut();
    expect(await world.reasonOf(first.bearer)).toBe("SESSION_REVOKED");
    expect(await world.reasonOf(second.bearer)).toBe("SESSION_REVOKED");
    expect(await world.reasonOf(other.bearer)).toBeUndefined();
  });

  it("tells the provider of a failure while the store is down", async () => {
    const world = await startWorld({ backchannel_logout_session_required: true });
    const { browser, bearer } = await world.signIn("ann");
    world.broken.on = true;
    await browser.signOut();
    expect(world.delivered).toEqual(["error"]);
    expect(await world.reasonOf(bearer)).toBeUndefined();
  });
});

const clientId = "notes";

/** A provider, and two servers of ours that share a store. The provider calls the first. */
async function startWorld(client: { readonly backchannel_logout_session_required: boolean }) {
  const fixture = await createSqlite();
  onTestFinished(() => fixture.close());
  const broken = { on: false };
  const events: SessionEvent[] = [];
  const clock = createFakeClock(Date.now());
  const serverOf = (store: ReturnType<typeof sqliteStore>) =>
    testSessions({ store, clock, onEvent: (event) => void events.push(event) });
  const file = sqliteStore(fixture.file);
  const sessions = serverOf({
    ...file,
    name: file.name,
    revokeAll: (...given) =>
      broken.on ? Promise.reject(new Error("down")) : file.revokeAll(...given),
  });
  const other = serverOf(sqliteStore(fixture.file));
  onTestFinished(async () => {
    await Promise.all([sessions.close(), other.close()]);
  });

  const [provider, app] = [await listen(), await listen()];
  const redirectUri = `${app.url}/callback`;
  const delivered: string[] = [];
  provider.serve(
    await providerOf(provider.url, delivered, {
      ...client,
      redirect_uris: [redirectUri],
      backchannel_logout_uri: `${app.url}/backchannel-logout`,
    }),
  );
  const config = await oidc.discovery(new URL(provider.url), clientId, undefined, oidc.None(), {
    execute: [oidc.allowInsecureRequests],
  });
  app.serve(
    backChannelLogoutFallback(sessions, {
      issuer: config.serverMetadata().issuer,
      clientId,
      jwks: config.serverMetadata().jwks_uri ?? "",
      clock,
    }),
  );

  const signIn = async (login: string) => {
    const browser = browserOf(provider.url);
    const verifier = oidc.randomPKCECodeVerifier();
    const request = oidc.buildAuthorizationUrl(config, {
      ...{ redirect_uri: redirectUri, scope: "openid", state: "state" },
      code_challenge: await oidc.calculatePKCECodeChallenge(verifier),
      code_challenge_method: "S256",
    });
    const callback = await browser.signIn(request.href, login, redirectUri);
    const tokens = await oidc.authorizationCodeGrant(config, callback, {
      ...{ pkceCodeVerifier: verifier, expectedState: "state", idTokenExpected: true },
    });
    const idToken = tokens.claims();
    const sub = idToken?.sub ?? "";
    const sid = typeof idToken?.sid === "string" ? idToken.sid : undefined;
    const externalId = { issuer: idToken?.iss ?? "", sid, sub };
    const issued = await sessions.issue({ userId: sub, externalId });
    const info = await issued.session.info();
    return {
      ...{ browser, id: info.id, bearer: issued.tokens.accessToken },
      externalId: info.externalId as ExternalId,
    };
  };
  // The server that the provider did not call: it learns of the end from the change log.
  const reasonOf = async (bearer: string): Promise<string | undefined> => {
    clock.advance("6s");
    try {
      await other.getSession(exchangeOf({ bearer }));
      return undefined;
    } catch (error) {
      return (error as SessionError).reason;
    }
  };
  return { issuer: provider.url, signIn, reasonOf, delivered, events, broken };
}

/** A server on a free local port, which is told later what to serve. */
async function listen() {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  onTestFinished(() => {
    server.closeAllConnections();
    server.close();
  });
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    serve: (listener: RequestListener) => server.on("request", listener),
  };
}

/** Any name and password will do. */
async function providerOf(issuer: string, delivered: string[], client: object) {
  const { privateJwk } = await generateSigningKey("ES256");
  const provider = new Provider(issuer, {
    clients: [
      {
        ...{ client_id: clientId, token_endpoint_auth_method: "none" },
        ...{ id_token_signed_response_alg: "ES256", ...client },
      },
    ],
    cookies: { keys: ["only for this test"] },
    features: {
      backchannelLogout: { enabled: true },
      rpInitiatedLogout: {
        logoutSource: (ctx, form) => {
          ctx.body = form;
        },
      },
    },
    // The provider refuses to call this machine, unless its dispatcher is left out.
    fetch: (url, options) =>
      globalThis.fetch(url, Object.assign({}, options, { dispatcher: undefined })),
    findAccount: (_ctx, sub) => ({ accountId: sub, claims: () => ({ sub }) }),
    jwks: { keys: [privateJwk] },
    async loadExistingGrant({ oidc: { client: known, session, provider: own } }) {
      const owner = { clientId: known?.clientId ?? "", accountId: session?.accountId ?? "" };
      const grant = new own.Grant(owner);
      grant.addOIDCScope("openid");
      await grant.save();
      return grant;
    },
  });
  provider.on("backchannel.success", () => void delivered.push("success"));
  provider.on("backchannel.error", () => void delivered.push("error"));
  return provider.callback();
}

/** A browser of its own at the provider. */
function browserOf(issuer: string) {
  const jar = newJar();
  const open = async (url: string, form?: Readonly<Record<string, string>>): Promise<Response> => {
    const response = await fetch(url, {
      ...(form && { method: "POST", body: new URLSearchParams(form) }),
      headers: { cookie: await jar.getCookieString(url) },
      redirect: "manual",
    });
    for (const one of response.headers.getSetCookie()) {
      await jar.setCookie(one, url, { ignoreError: true });
    }
    return response;
  };
  /** Follows redirects to a page, or until one leads to `stop`. */
  const follow = async (first: Promise<Response>, stop: string) => {
    let response = await first;
    for (;;) {
      const to = response.headers.get("location");
      if (to === null || to.startsWith(stop)) {
        return { to, page: await response.text() };
      }
      response = await open(new URL(to, issuer).href);
    }
  };
  const fieldOf = (page: string, pattern: RegExp): string => pattern.exec(page)?.[1] ?? "";
  return {
    async signIn(url: string, login: string, redirectUri: string): Promise<URL> {
      const { page } = await follow(open(url), redirectUri);
      const action = fieldOf(page, /action="([^"]+)"/);
      const answer = { prompt: "login", login, password: "any" };
      const { to } = await follow(open(new URL(action, issuer).href, answer), redirectUri);
      return new URL(to ?? "");
    },
    async signOut(): Promise<void> {
      const page = await (await open(`${issuer}/session/end`)).text();
      const form = { xsrf: fieldOf(page, /name="xsrf" value="([^"]+)"/), logout: "yes" };
      await open(fieldOf(page, /action="([^"]+)"/), form);
    },
  };
}
