import type { SessionEvent } from "rpc-session";
import { type TestSessionsOptions, testSessions } from "rpc-session/testing";
import { describe, expect, it } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { SessionService } from "../../gen/rpcsession/v1/service_pb.ts";
import { apiOf, refreshOf } from "../helpers/api.ts";
import { exchangeOf, sessionErrorOf } from "../helpers/exchanges.ts";

const addNote = "notes.v1.NotesService/AddNote";
const refresh = "rpcsession.v1.SessionService/Refresh";

/** A server with a session of alice, and the refusals that it reports. */
async function createWorld(
  options: Partial<TestSessionsOptions> = {},
  transport: "cookie" | "header" = "header",
) {
  const events: SessionEvent[] = [];
  const sessions = testSessions({
    public: [NotesService.method.signIn],
    ...options,
    onEvent: (event) => void events.push(event),
  });
  const api = apiOf(sessions);
  const { session, tokens } = await sessions.issue({ userId: "alice", transport });
  const refusals = () => events.filter((event) => event.type === "refused");
  return {
    sessions,
    api,
    session,
    access: tokens.accessToken,
    refresh: tokens.refreshToken,
    refusals,
  };
}

type World = Awaited<ReturnType<typeof createWorld>>;

interface Refusal {
  readonly name: string;
  readonly options?: Partial<TestSessionsOptions>;
  readonly transport?: "cookie" | "header";
  readonly cause: (world: World) => Promise<unknown>;
  readonly reason: string;
  readonly procedure?: string;
  /** Whether the token proved the session, and named its user. */
  readonly proven: "session and user" | "session" | "nothing";
}

const nothing = (): void => {};

// biome-ignore format: a table
const table: readonly Refusal[] = [
  { name: "a call without tokens", cause: ({ api }) => api.call({}, nothing), reason: "SESSION_MISSING", proven: "nothing" },
  { name: "junk as an access token", cause: ({ api }) => api.call({ bearer: "junk" }, nothing), reason: "TOKEN_INVALID", proven: "nothing" },
  { name: "a forged access token", cause: ({ api, access }) => api.call({ bearer: `${access.slice(0, -6)}AAAAAA` }, nothing), reason: "TOKEN_INVALID", proven: "nothing" },
  { name: "an expired access token", cause: ({ api, access, sessions }) => { sessions.clock.advance("16m"); return api.call({ bearer: access }, nothing); }, reason: "TOKEN_EXPIRED", proven: "session and user" },
  { name: "only a refresh cookie", transport: "cookie", cause: ({ api, refresh }) => api.call({ refresh }, nothing), reason: "ACCESS_TOKEN_MISSING", proven: "nothing" },
  { name: "an access token of a revoked session", cause: async ({ api, access, sessions, session }) => { await sessions.revoke(session.id); await api.call({ bearer: access }, nothing); }, reason: "SESSION_REVOKED", proven: "session and user" },
  { name: "the same, checked in the store", options: { revocation: "strict" }, cause: async ({ api, access, sessions, session }) => { await sessions.revoke(session.id); await api.call({ bearer: access }, nothing); }, reason: "SESSION_REVOKED", proven: "session and user" },
  { name: "a token of the other transport", cause: ({ api, access }) => api.call({ access }, nothing), reason: "TOKEN_CONFLICT", proven: "nothing" },
  { name: "claims that the policy refuses", options: { methods: { [addNote]: { claims: { role: ["admin"] } } } }, cause: ({ api, access }) => api.call({ bearer: access }, nothing), reason: "CLAIM_REJECTED", proven: "session and user" },
  { name: "an authentication too long ago, by policy", options: { methods: { [addNote]: { freshWithin: "1m" } } }, cause: ({ api, access, sessions }) => { sessions.clock.advance("5m"); return api.call({ bearer: access }, nothing); }, reason: "STEP_UP_REQUIRED", proven: "session and user" },
  { name: "an authentication too long ago, by requireFresh", cause: ({ api, access, sessions }) => { sessions.clock.advance("5m"); return api.call({ bearer: access }, (ctx) => sessions.requireFresh(ctx, "1m")); }, reason: "STEP_UP_REQUIRED", proven: "session and user" },
  { name: "a page of another site", transport: "cookie", cause: ({ api, access }) => api.call({ access, headers: { "sec-fetch-site": "cross-site" } }, nothing), reason: "CROSS_SITE", proven: "nothing" },
  { name: "a missing anti-CSRF token", options: { antiCsrf: "token" }, transport: "cookie", cause: ({ api, access }) => api.call({ access }, nothing), reason: "ANTI_CSRF", proven: "session and user" },
  { name: "junk as a refresh token", procedure: refresh, cause: ({ api }) => api.refresh("header", "junk"), reason: "TOKEN_INVALID", proven: "nothing" },
  { name: "a refresh of a revoked session", procedure: refresh, cause: async ({ api, sessions, session, ...w }) => { await sessions.revoke(session.id); await api.refresh("header", w.refresh); }, reason: "SESSION_REVOKED", proven: "session and user" },
  { name: "a refresh of an expired session", procedure: refresh, options: { lifetimes: { idle: "1h" } }, cause: async ({ api, sessions, ...w }) => { sessions.clock.advance("2h"); await api.refresh("header", w.refresh); }, reason: "SESSION_EXPIRED", proven: "session and user" },
  { name: "a sign-in at the limit of sessions", procedure: "notes.v1.NotesService/SignIn", options: { sessionsPerUser: { max: 1, overflow: "reject" } }, cause: ({ api, sessions }) => api.open({}, (ctx) => sessions.create(ctx, { userId: "alice" })), reason: "SESSION_LIMIT", proven: "nothing" },
  { name: "sessions.require where a session is optional", options: { methods: { [addNote]: { auth: "optional" } } }, cause: ({ api, sessions }) => api.call({}, (ctx) => sessions.require(ctx)), reason: "SESSION_MISSING", proven: "nothing" },
];

describe("feat:N6 a refused call is reported once, with its method and its reason", () => {
  it.each(table)(
    "$name",
    async ({ options, transport, cause, reason, procedure = addNote, proven }) => {
      const world = await createWorld(options, transport);
      await cause(world);
      const { id, userId } = world.session;
      expect(world.refusals()).toEqual([
        {
          type: "refused",
          procedure,
          reason,
          sessionId: proven === "nothing" ? undefined : id,
          userId: proven === "session and user" ? userId : undefined,
        },
      ]);
    },
  );

  it("a theft is reported as a refusal too", async () => {
    const world = await createWorld();
    const { api, sessions } = world;
    for (let token = world.refresh, i = 0; i < 2; i++) {
      sessions.clock.advance("61s");
      token = refreshOf(await api.refresh("header", token)) ?? token;
      sessions.clock.advance("31s");
      token = refreshOf(await api.refresh("header", token)) ?? token;
    }
    await api.refresh("header", world.refresh);
    expect(world.refusals()).toEqual([
      {
        ...{ type: "refused", procedure: refresh, reason: "TOKEN_THEFT" },
        ...{ sessionId: world.session.id, userId: "alice" },
      },
    ]);
  });

  it("an open stream that ends with its session is reported too", async () => {
    const world = await createWorld();
    const { api, access, sessions, session } = world;
    await api.stream({ bearer: access }, nothing, () => sessions.revoke(session.id));
    expect(world.refusals()).toEqual([
      {
        ...{ type: "refused", procedure: "notes.v1.NotesService/WatchNotes" },
        ...{ reason: "SESSION_REVOKED", sessionId: session.id, userId: "alice" },
      },
    ]);
  });

  it("getSession outside an RPC has no method", async () => {
    const { sessions, refusals } = await createWorld();
    await sessionErrorOf(sessions.getSession(exchangeOf({})));
    expect(refusals()).toMatchObject([{ procedure: undefined, reason: "SESSION_MISSING" }]);
  });

  it("an outage, a bug and an accepted call are no refusals", async () => {
    const { api, access, refusals } = await createWorld();
    await api.call({ bearer: access }, nothing);
    await api.call({ bearer: access }, () => {
      throw new Error("bug");
    });
    expect(refusals()).toEqual([]);
  });

  it("the user never reaches the client", async () => {
    const { api, sessions, session, access } = await createWorld();
    await sessions.revoke(session.id);
    const { body, headers } = await api.call({ bearer: access }, nothing);
    expect(readable(body) + JSON.stringify([...headers])).not.toContain("alice");
    const gone = await api.server.call(SessionService.method.getSession, {}, { bearer: access });
    expect(readable(gone.body)).toContain(session.id);
    expect(readable(gone.body)).not.toContain("alice");
  });
});

/** A body with the bytes of its error details, which are base64. */
function readable(body: string): string {
  const details = [...body.matchAll(/"value":\s*"([^"]+)"/g)];
  return body + details.map(([, value = ""]) => Buffer.from(value, "base64").toString()).join();
}
