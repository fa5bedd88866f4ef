// An OpenID provider on this machine, in place of the one that you use. It accepts any name and password.
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { Provider } from "oidc-provider";

/** The app, as the provider knows it. */
export interface AppAtProvider {
  readonly clientId: string;
  readonly clientSecret: string;
  /** The origin of the app, such as "http://localhost:8080". */
  readonly origin: string;
}

export interface RunningProvider {
  readonly issuer: string;
  close(): Promise<void>;
}

/** Starts the provider on a free port. Its host is another site than "localhost", as in real life. */
export async function startProvider(app: AppAtProvider): Promise<RunningProvider> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const issuer = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const provider = new Provider(issuer, {
    clients: [
      {
        client_id: app.clientId,
        client_secret: app.clientSecret,
        redirect_uris: [`${app.origin}/callback`],
        post_logout_redirect_uris: [`${app.origin}/`],
        backchannel_logout_uri: `${app.origin}/backchannel-logout`,
        backchannel_logout_session_required: true,
      },
    ],
    claims: { openid: ["sub"], profile: ["name"] },
    conformIdTokenClaims: false, // the name is in the ID token
    cookies: { keys: ["only for this example"] },
    findAccount: (_ctx, sub) => ({
      accountId: sub,
      claims: () => ({ sub, name: sub.slice(0, 1).toUpperCase() + sub.slice(1) }),
    }),
    // The user is not asked whether this app may know the name.
    async loadExistingGrant(ctx) {
      const { client, session } = ctx.oidc;
      if (client === undefined || session?.accountId === undefined) {
        return undefined;
      }
      const grant = new ctx.oidc.provider.Grant({
        clientId: client.clientId,
        accountId: session.accountId,
      });
      grant.addOIDCScope("openid profile");
      await grant.save();
      return grant;
    },
    // It refuses to call this machine, unless its dispatcher is left out.
    fetch: (url, options) =>
      globalThis.fetch(url, Object.assign({}, options, { dispatcher: undefined })),
    features: {
      backchannelLogout: { enabled: true },
      rpInitiatedLogout: {
        logoutSource: (ctx, form) => {
          ctx.body = `<!doctype html><title>Sign out</title>${form}<button form="op.logoutForm" name="logout" value="yes">Sign out at the provider too</button>`;
        },
      },
    },
  });
  const handle = provider.callback();
  server.on("request", (request, response) => void handle(request, response));
  return {
    issuer,
    close: () =>
      new Promise((resolve) => {
        server.closeAllConnections();
        server.close(() => resolve());
      }),
  };
}
