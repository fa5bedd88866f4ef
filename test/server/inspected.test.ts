// What people print while they look for a mistake: no object that they hold shows a token.
import { inspect } from "node:util";
import {
  ConnectError,
  createClient,
  createRouterTransport,
  type Interceptor,
} from "@connectrpc/connect";
import { SessionError } from "rpc-session";
import { createSessionClient } from "rpc-session/client";
import { testSessions } from "rpc-session/testing";
import { verifySessions } from "rpc-session/verify";
import { describe, expect, it } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { accessOf, apiOf, refreshOf } from "../helpers/api.ts";
import { exchangeOf } from "../helpers/exchanges.ts";

const secret = "CANARY-secret".padEnd(40, "x");
const { signIn } = NotesService.method;

/** Everything that an object shows, however deep. */
const shown = (value: unknown): string =>
  inspect(value, { depth: 10, showHidden: true, maxStringLength: null, maxArrayLength: null });

/** The tokens of a session, and the parts of them that prove something. */
function canaries(...tokens: readonly (string | undefined)[]): string[] {
  const all = tokens.filter((token) => token !== undefined);
  expect(all.length).toBeGreaterThan(0);
  return [secret, ...all, ...all.map((token) => token.split(".").at(-1) ?? "?")];
}

function expectHidden(values: Readonly<Record<string, unknown>>, secrets: readonly string[]): void {
  for (const [name, value] of Object.entries(values)) {
    const text = shown(value);
    expect(secrets.filter((one) => text.includes(one)).map(() => name)).toEqual([]);
  }
}

const options = { public: [signIn], secret, antiCsrf: "token" } as const;

describe("sec:C10 util.inspect prints no token", () => {
  it("of cookies in the context of a handler, its session, and the sessions", async () => {
    const sessions = testSessions({ ...options, antiCsrf: "off" });
    const api = apiOf(sessions);
    const claims = { note: "CANARY-claim" };
    const { tokens } = await sessions.issue({ userId: "alice", transport: "cookie", claims });
    const secrets = canaries(tokens.accessToken, tokens.refreshToken);
    const both = { access: tokens.accessToken, refresh: tokens.refreshToken };
    const { result } = await api.call(both, (context) => {
      const session = sessions.require(context);
      expectHidden({ context, session, values: context.values, sessions }, secrets);
      expect(shown(context)).not.toContain("CANARY-claim");
      expect(shown(context)).toContain("admitted: true");
      return true;
    });
    expect(result).toBe(true);
  });

  it("of a bearer token in the context of a handler", async () => {
    const sessions = testSessions({ ...options, antiCsrf: "off" });
    const { tokens } = await sessions.issue({ userId: "alice" });
    const { result } = await apiOf(sessions).call({ bearer: tokens.accessToken }, (context) => {
      expectHidden({ context, headers: context.requestHeader }, canaries(tokens.accessToken));
      expect(shown(context.requestHeader)).toContain("content-type");
      return context.requestHeader.get("authorization") === `Bearer ${tokens.accessToken}`;
    });
    // The handler itself can still read it.
    expect(result).toBe(true);
  });

  it.each(["cookie", "header"] as const)(
    "in the context of a handler that signs in, by %s",
    async (transport) => {
      const sessions = testSessions(options);
      const api = apiOf(sessions);
      const headers = {
        "rpcsession-transport": transport,
        ...(transport === "cookie" && { "sec-fetch-site": "same-origin" }),
      };
      let printed = "";
      const answer = await api.open({ headers }, async (context) => {
        const session = await sessions.create(context, { userId: "alice" });
        printed = shown([context, session, context.responseHeader]);
      });
      const csrf = answer.headers.get("rpcsession-csrf") ?? undefined;
      for (const one of canaries(accessOf(answer), refreshOf(answer), csrf)) {
        expect(printed.includes(one)).toBe(false);
      }
      // The other headers are printed.
      expect(printed).toContain("no-store");
      expect(printed).toContain("[hidden]");
    },
  );

  it("in the errors of the server", async () => {
    const sessions = testSessions(options);
    const { tokens } = await sessions.issue({ userId: "alice" });
    const { accessToken: bearer, refreshToken } = tokens;
    const secrets = canaries(bearer, refreshToken);
    sessions.clock.advance("16m");
    const error = await sessions.getSession(exchangeOf({ bearer })).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(SessionError);
    const api = apiOf(sessions);
    const junk = `${bearer.slice(0, -4)}AAAA`;
    const refused = (await api.call({ bearer: junk }, () => {})).error;
    const refresh = (await api.refresh("cookie", refreshToken)).error;
    expectHidden({ error, refused, refresh }, [...secrets, junk]);
  });

  it("in sessions that are only verified", async () => {
    const issuer = testSessions(options);
    const { tokens } = await issuer.issue({ userId: "alice" });
    const sessions = verifySessions({
      ...{ issuer: "https://test.example", jwks: await issuer.jwks(), clock: issuer.clock },
    });
    const session = await sessions.getSession(exchangeOf({ bearer: tokens.accessToken }));
    expectHidden({ session, sessions }, canaries(tokens.accessToken, tokens.refreshToken));
    expect(shown(session)).toContain("alice");
  });

  it("in a client, its errors and its events", async () => {
    const sessions = testSessions(options);
    const secrets: string[] = [secret];
    const events: unknown[] = [];
    const spy: Interceptor = (next) => async (request) => {
      const response = await next(request);
      for (const name of ["rpcsession-access-token", "rpcsession-refresh-token"]) {
        secrets.push(response.header.get(name) ?? "?none");
      }
      return response;
    };
    const { routes, ...router } = sessions.protect({
      readMaxBytes: 2 ** 20,
      routes: (given) =>
        given.service(NotesService, {
          async signIn(_, context) {
            await sessions.create(context, { userId: "alice" });
            return {};
          },
          async addNote(_, context) {
            await sessions.require(context).updateClaims({ role: "admin" });
            throw new ConnectError("the handler failed");
          },
        }),
    });
    const client = createSessionClient({
      transport: ({ interceptors }) =>
        createRouterTransport(routes, {
          router,
          transport: { interceptors: [...interceptors, spy] },
        }),
      onEvent: (event) => events.push(event),
    });
    const notes = createClient(NotesService, client.transport);
    await notes.signIn({});
    expect(secrets.filter((one) => one.length > 20)).toHaveLength(3);
    const error = await notes.addNote({}).catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(ConnectError);
    expectHidden(
      { client, state: client.state, transport: client.transport, notes, error, events },
      secrets,
    );
  });
});
