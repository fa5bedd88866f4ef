import { testSessions } from "rpc-session/testing";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { SessionService } from "../../gen/rpcsession/v1/service_pb.ts";
import {
  byCookie,
  byHeader,
  cookieHeader,
  forge,
  issue,
  type Presented,
  present,
  realm,
  sameOrigin,
  withHeaders,
  withSignatureOf,
} from "./presented.ts";
import type { NotesServer, TestSessionsOptions } from "./server.ts";
import { watchedStore } from "./watched-store.ts";
import { callWire } from "./wire.ts";

/** Adds one note while the session is still good. */
type Seed = (headers: Record<string, string>) => Promise<void>;

/** The state of the session of a request. */
export interface State {
  readonly options?: TestSessionsOptions;
  present(server: NotesServer, seed: Seed): Promise<Presented>;
}

/** A valid cookie session, whose requests are then changed. */
function cookies(change: (good: Presented) => Presented): State {
  return {
    async present(server, seed) {
      const good = await present(server, "cookie");
      await seed(good.headers);
      return change(good);
    },
  };
}

export const valid: State = cookies((good) => good);
export const none: State = { present: async () => ({ headers: {}, session: "", secrets: [] }) };

export const refreshOnly: State = {
  async present(server) {
    const { session, tokens } = await issue(server, "cookie");
    return byCookie(session.id, { refresh: tokens.refresh });
  },
};

export const expired: State = {
  async present(server) {
    const good = await present(server, "cookie");
    server.sessions.clock.advance("15m");
    return good;
  },
};

/** An access cookie derived from that of a valid session, next to its refresh cookie. */
function spoilt(
  spoil: (access: string, server: NotesServer, session: string) => Promise<string>,
): State {
  return {
    async present(server) {
      const { session, tokens } = await issue(server, "cookie");
      const access = await spoil(tokens.access, server, session.id);
      return byCookie(session.id, { ...tokens, access });
    },
  };
}

export const malformed: State = spoilt(async (access) => `${access}!`);
export const foreignKey: State = spoilt((_access, server, session) =>
  forge(server, { session, age: 600 }),
);
/** Its `iat` is later than the last time the server read its keys. */
export const newerKey: State = spoilt((_access, server, session) =>
  forge(server, { session, age: 0 }),
);
export const wrongSignature: State = spoilt(async (access, server) =>
  withSignatureOf(access, (await issue(server, "cookie")).tokens.access),
);

/** A request to a server that could not read a part of its store a moment ago. */
function outOfReach(
  part: "signingKeys" | "changes",
  request: (server: NotesServer) => Promise<Presented>,
): State {
  const { store, failing } = watchedStore();
  return {
    options: { store },
    async present(server) {
      const presented = await request(server);
      failing.add(part);
      server.sessions.clock.advance("10s");
      const exchange = {
        requestHeader: new Headers(presented.headers),
        responseHeader: new Headers(),
      };
      await server.sessions.getSession({ ...exchange, requestMethod: "POST" }).catch(() => {});
      return presented;
    },
  };
}

/** A token under a key that may be newer than those of this server, which cannot read them now. */
export const keysOutOfReach: State = outOfReach("signingKeys", async (server) => {
  const { session, tokens } = await issue(server, "cookie");
  const access = await forge(server, { session: session.id, age: -10 });
  return byCookie(session.id, { ...tokens, access });
});

/** A valid token, while the server cannot learn which sessions have ended. */
export const changesOutOfReach: State = outOfReach("changes", (server) =>
  present(server, "cookie"),
);

/** The cookies of another service that uses the same names. */
export const foreignIssuer: State = {
  async present(server) {
    const { clock } = server.sessions;
    const other = testSessions({ issuer: "https://other.example", clock });
    const { tokens } = await other.issue({ userId: "alice", transport: "cookie" });
    return byCookie("", { access: tokens.accessToken, refresh: tokens.refreshToken });
  },
};

export const malformedAlone: State = {
  async present(server) {
    const { session, tokens } = await issue(server, "cookie");
    return byCookie(session.id, { access: `${tokens.access}!` });
  },
};

export const twoSessions: State = {
  async present(server) {
    const one = await issue(server, "cookie");
    const other = await issue(server, "cookie");
    const { cookie } = byCookie(other.session.id, { access: other.tokens.access }).headers;
    const first = byCookie(one.session.id, one.tokens);
    return withHeaders(first, { cookie: `${first.headers.cookie}; ${cookie}` });
  },
};

export const revoked: State = {
  async present(server) {
    const { session, tokens } = await issue(server, "cookie");
    await session.revoke();
    return byCookie(session.id, tokens);
  },
};

/** Ended by the RPC that ends sessions. */
export const justSignedOut: State = {
  async present(server) {
    const good = await present(server, "cookie");
    await signOut(server, good);
    return good;
  },
};

export const signedOut: State = {
  async present(server) {
    const good = await justSignedOut.present(server, async () => {});
    server.sessions.clock.advance("61s");
    return good;
  },
};

async function signOut(server: NotesServer, { headers }: Presented): Promise<void> {
  const wire = { protocol: "connect-json", http: "h1" } as const;
  const method = SessionService.method.signOut;
  const { code } = await callWire(server, wire, { method, messages: [{}], headers });
  if (code !== "ok") {
    throw new Error(`sign-out: ${code}`);
  }
}

/** Signs in over the wire, for the anti-CSRF token that comes with it. */
function withAntiCsrf(send: (token: string) => Record<string, string>): State {
  return {
    options: { antiCsrf: "token" },
    async present(server, seed) {
      const wire = { protocol: "connect-json", http: "h1" } as const;
      const signedIn = await callWire(server, wire, {
        method: NotesService.method.signIn,
        messages: [{ user: "alice" }],
        headers: sameOrigin,
      });
      const pairs = signedIn.setCookie.map((cookie) => cookie.split(";", 1)[0] ?? "");
      const cookie = ["theme=dark", ...pairs].join("; ");
      const token = signedIn.headers.get("rpcsession-csrf") ?? "";
      const session = new URLSearchParams(signedIn.headers.get("rpcsession-session") ?? "");
      await seed({ cookie, ...sameOrigin, "rpcsession-csrf": token });
      return {
        headers: { cookie, ...sameOrigin, ...send(token) },
        session: session.get("session") ?? "",
        secrets: [token, ...pairs.map((pair) => pair.slice(pair.indexOf("=") + 1))],
      };
    },
  };
}

export const antiCsrf: State = withAntiCsrf((token) => ({ "rpcsession-csrf": token }));
export const noAntiCsrf: State = withAntiCsrf(() => ({}));
export const badAntiCsrf: State = withAntiCsrf((token) => ({
  "rpcsession-csrf": `${token.slice(0, 10)}${"A".repeat(token.length - 10)}`,
}));

/** Cookies in a request from another site. */
function from(site: Record<string, string>): State {
  return cookies(({ headers: { cookie = "" }, ...good }) => ({
    ...good,
    headers: { cookie, ...site },
  }));
}

export const byOriginAlone: State = from({ origin: realm });
export const crossSite: State = from({
  "sec-fetch-site": "cross-site",
  origin: "https://evil.example",
});
export const sameSite: State = from({
  "sec-fetch-site": "same-site",
  origin: "https://other.test.example",
});
export const unknownSite: State = from({});
export const noPage: State = from({ "sec-fetch-site": "none" });

export const headerValid: State = {
  async present(server, seed) {
    const good = await present(server, "header");
    await seed(good.headers);
    return good;
  },
};
export const headerCrossSite: State = {
  async present(server, seed) {
    const site = { "sec-fetch-site": "cross-site", origin: "https://evil.example" };
    return withHeaders(await headerValid.present(server, seed), site);
  },
};
export const headerNoAntiCsrf: State = { ...headerValid, options: { antiCsrf: "token" } };
export const headerExpired: State = {
  async present(server) {
    const good = await present(server, "header");
    server.sessions.clock.advance("15m");
    return good;
  },
};
export const headerMalformed: State = {
  present: async () => byHeader("", "no.token.at-all"),
};
export const headerMalformedBesideCookies: State = {
  async present(server) {
    const good = await present(server, "cookie");
    return withHeaders(good, { authorization: "Bearer no.token.at-all" });
  },
};
export const headerForeignKey: State = {
  async present(server) {
    const { session } = await issue(server, "header");
    return byHeader(session.id, await forge(server, { session: session.id, age: 600 }));
  },
};
export const cookieTokenInHeader: State = {
  async present(server) {
    const { session, tokens } = await issue(server, "cookie");
    return byHeader(session.id, tokens.access);
  },
};
export const headerBesideOtherCookies: State = {
  async present(server, seed) {
    const good = await present(server, "header");
    await seed(good.headers);
    const { tokens } = await issue(server, "cookie");
    return withHeaders(good, { cookie: cookieHeader(tokens), ...sameOrigin });
  },
};
export const headerRevoked: State = {
  async present(server) {
    const { session, tokens } = await issue(server, "header");
    await session.revoke();
    return byHeader(session.id, tokens.access);
  },
};
export const headerJustSignedOut: State = {
  async present(server) {
    const good = await present(server, "header");
    await signOut(server, good);
    return good;
  },
};
