import { copyFileSync, mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { inspect } from "node:util";
import type { SessionEvent, SessionLogger } from "rpc-session";
import { backChannelLogoutHandler } from "rpc-session/http";
import { memoryStore } from "rpc-session/stores/memory";
import { sqliteStore } from "rpc-session/stores/sqlite";
import { createFakeClock, type TestSessionsOptions, testSessions } from "rpc-session/testing";
import { describe, expect, it } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { openSecretRing, readSecretOption } from "../../src/base/crypto.ts";
import { logEvents } from "../../src/base/events.ts";
import { mintRooted } from "../../src/engine/refresh/format.ts";
import { accessOf, apiOf, refreshOf } from "../helpers/api.ts";
import { exchangeOf } from "../helpers/exchanges.ts";
import { watchedStore } from "../helpers/watched-store.ts";
import { wireServer } from "../helpers/wire-server.ts";

interface Line {
  readonly level: "info" | "warn" | "error";
  readonly fields: { readonly event?: string; readonly [name: string]: unknown };
  readonly message: string;
}

/** Sessions with all their events and log lines, and every token that they ever returned. */
function createWorld(options: Partial<TestSessionsOptions> = {}) {
  const events: SessionEvent[] = [];
  const lines: Line[] = [];
  const write = (level: Line["level"]) => (fields: object, message: string) =>
    void lines.push({ level, fields: fields as Line["fields"], message });
  const logger: SessionLogger = { info: write("info"), warn: write("warn"), error: write("error") };
  const sessions = testSessions({
    public: [NotesService.method.signIn],
    ...options,
    logger,
    onEvent: (event) => void events.push(event),
  });
  const api = apiOf(sessions);
  const secrets: string[] = [];
  const issue = async (transport: "cookie" | "header" = "header") => {
    const { session, tokens } = await sessions.issue({
      userId: "alice",
      transport,
      claims: { note: "CANARY-claim" },
      data: { note: "CANARY-data" },
    });
    secrets.push(tokens.accessToken, tokens.refreshToken);
    return { id: session.id, access: tokens.accessToken, refresh: tokens.refreshToken };
  };
  const exchange = async (refresh: string) => {
    const answer = await api.refresh("header", refresh);
    secrets.push(...[accessOf(answer), refreshOf(answer)].filter((token) => token !== undefined));
    return refreshOf(answer) ?? refresh;
  };
  // For what has a listener of its own beside the sessions.
  const listen = (event: SessionEvent) => {
    logEvents(logger)(event);
    events.push(event);
  };
  return { sessions, api, events, lines, secrets, issue, exchange, listen };
}

type World = ReturnType<typeof createWorld>;

/** Every event, each caused as in production. */
const stories: { readonly [T in SessionEvent["type"]]: () => Promise<World> } = {
  async created() {
    const world = createWorld();
    await world.issue();
    return world;
  },
  async adoptionRefused() {
    const world = createWorld();
    await world.issue();
    const externalId = { issuer: "former", sid: "CANARY-secret" };
    const createdAt = new Date(world.sessions.clock.now());
    const adopt = () => world.sessions.adopt({ userId: "alice", externalId, createdAt });
    const { tokens } = await adopt();
    world.secrets.push(tokens.accessToken, tokens.refreshToken);
    await adopt().catch(() => {});
    return world;
  },
  async gateThrew() {
    const world = createWorld();
    const { access } = await world.issue();
    const server = wireServer(
      world.sessions.protect({
        routes: (router) => router.service(NotesService, {}),
        requestGate() {
          throw new Error("the quota could not be read");
        },
      }),
    );
    await server.call(NotesService.method.addNote, {}, { bearer: access });
    return world;
  },
  async claimSourceFailed() {
    const world = createWorld({
      claimSources: {
        note: {
          maxAge: "1m",
          fetch() {
            throw new Error("the directory is down");
          },
        },
      },
    });
    const { id } = await world.issue();
    world.sessions.clock.advance("2m");
    await world.sessions.check(id, { note: [] }).catch(() => {});
    return world;
  },
  async refreshed() {
    const world = createWorld();
    const { refresh } = await world.issue();
    await world.exchange(refresh);
    return world;
  },
  async recovered() {
    const world = createWorld();
    const { refresh } = await world.issue();
    await advance(world, refresh);
    world.sessions.clock.advance("5m");
    await world.exchange(refresh);
    return world;
  },
  async claimsChanged() {
    const world = createWorld();
    const { id } = await world.issue();
    await world.sessions.updateClaims(id, { note: "CANARY-claim", n: 2 });
    return world;
  },
  async dataChanged() {
    const world = createWorld();
    const { id } = await world.issue();
    await world.sessions.updateData(id, { note: "CANARY-data" });
    return world;
  },
  async revoked() {
    const world = createWorld();
    await world.sessions.revoke((await world.issue()).id);
    return world;
  },
  async logoutRefused() {
    const world = createWorld();
    const { access } = await world.issue();
    const handle = backChannelLogoutHandler(world.sessions, {
      issuer: "https://login.example.com",
      clientId: "notes",
      jwks: await world.sessions.jwks(),
      onEvent: world.listen,
      clock: world.sessions.clock,
    });
    // An access token, which must not end anything.
    const body = new URLSearchParams({ logout_token: access });
    await handle(
      new Request("https://api.example.com/backchannel-logout", { method: "POST", body }),
    );
    return world;
  },
  async expired() {
    const world = createWorld({ lifetimes: { idle: "1h" } });
    const { refresh } = await world.issue();
    world.sessions.clock.advance("2h");
    await world.exchange(refresh);
    return world;
  },
  async theft() {
    const world = createWorld();
    const { refresh } = await world.issue();
    const next = await advance(world, refresh);
    await advance(world, next);
    await world.exchange(refresh);
    return world;
  },
  async refused() {
    const world = createWorld();
    const { id, access } = await world.issue();
    await world.sessions.revoke(id);
    await world.api.call({ bearer: access }, () => {});
    return world;
  },
  async omitted() {
    const world = createWorld();
    const { access } = await world.issue();
    for (let i = 0; i < 30; i++) {
      await world.api.call({ bearer: `${access}x` }, () => {});
    }
    world.sessions.clock.advance("1s");
    return world;
  },
  async warning() {
    const world = createWorld();
    await world.issue();
    wireServer(world.sessions.protect({ routes: (router) => router.service(NotesService, {}) }));
    return world;
  },
  async csrfRefused() {
    const world = createWorld({ antiCsrf: "token" });
    const { access } = await world.issue("cookie");
    const evil = { origin: "https://evil.example", "sec-fetch-site": "cross-site" };
    await world.api.call({ access, headers: evil }, () => {});
    await world.api.call({ access }, () => {});
    return world;
  },
  async failed() {
    const store = watchedStore();
    const world = createWorld({ store: store.store });
    const { refresh } = await world.issue();
    store.failing.add("load").add("refresh");
    await world.exchange(refresh);
    return world;
  },
  async feedStale() {
    const store = watchedStore();
    const world = createWorld({ store: store.store });
    const { access } = await world.issue();
    store.failing.add("changes");
    world.sessions.clock.advance("6s");
    await world.api.call({ bearer: access }, () => {});
    return world;
  },
  async feedRecovered() {
    const store = watchedStore();
    const world = createWorld({ store: store.store });
    const { access } = await world.issue();
    store.failing.add("changes");
    world.sessions.clock.advance("6s");
    await world.api.call({ bearer: access }, () => {});
    store.failing.delete("changes");
    await world.api.call({ bearer: access }, () => {});
    return world;
  },
  async unknownSecret() {
    const store = memoryStore();
    const clock = createFakeClock();
    const [mine, other] = ["CANARY-secret-1", "CANARY-secret-2"].map((s) => s.padEnd(40, "x"));
    const first = createWorld({ store, clock, secret: mine ?? "" });
    const { refresh } = await first.issue();
    const world = createWorld({ store, clock, secret: other ?? "" });
    world.secrets.push(refresh, mine ?? "", other ?? "");
    await world.exchange(refresh);
    await world.exchange(refresh);
    return world;
  },
  async storeWentBack() {
    const dir = mkdtempSync(join(tmpdir(), "events-"));
    const [file, copy] = [join(dir, "sessions.db"), join(dir, "copy.db")];
    const secret = "CANARY-secret".padEnd(40, "x");
    const clock = createFakeClock(Date.now());
    const first = createWorld({ store: sqliteStore(file), clock, secret });
    const { refresh } = await first.issue();
    await first.sessions.close();
    copyFileSync(file, copy);
    const second = createWorld({ store: sqliteStore(file), clock, secret });
    const next = await advance(second, refresh);
    await second.sessions.close();
    const world = createWorld({ store: sqliteStore(copy), clock, secret });
    world.secrets.push(...first.secrets, ...second.secrets, secret);
    await world.exchange(next);
    await world.sessions.close();
    return world;
  },
  async proofRefused() {
    const store = memoryStore();
    const world = createWorld({ store, clock: createFakeClock() });
    const { refresh } = await world.issue();
    const [, id = ""] = refresh.split(".");
    const keep = { kind: "keep", settle: null, id, generation: 0, idle: 60_000 } as const;
    await store.refresh({ ...keep, boundKey: "A".repeat(43) });
    await world.exchange(refresh);
    return world;
  },
  async impossibleGeneration() {
    const secret = "CANARY-secret".padEnd(40, "x");
    const world = createWorld({ store: memoryStore(), clock: createFakeClock(), secret });
    const { refresh } = await world.issue();
    const [secretId, session = "", , , root = ""] = refresh.split(".");
    const { current } = await openSecretRing(readSecretOption(secret), "https://test.example");
    const far = { transport: "header", session, generation: 9, root } as const;
    const forged = await mintRooted({ ...current, id: secretId ?? "" }, far);
    world.secrets.push(forged, secret);
    await world.exchange(forged);
    return world;
  },
};

/** Advances to the next generation. */
async function advance({ sessions, exchange }: World, refresh: string): Promise<string> {
  sessions.clock.advance("61s");
  await exchange(refresh);
  sessions.clock.advance("31s");
  return exchange(refresh);
}

const levels: { readonly [T in SessionEvent["type"]]: Line["level"] } = {
  ...{ created: "info", refreshed: "info", recovered: "info", claimsChanged: "info" },
  ...{ dataChanged: "info", adoptionRefused: "warn" },
  ...{
    revoked: "info",
    logoutRefused: "warn",
    expired: "info",
    csrfRefused: "warn",
    claimSourceFailed: "error",
    theft: "warn",
    proofRefused: "warn",
  },
  ...{
    storeWentBack: "error",
    impossibleGeneration: "error",
    failed: "error",
    unknownSecret: "error",
  },
  ...{ feedStale: "error", feedRecovered: "info" },
  ...{ refused: "info", gateThrew: "warn", omitted: "warn", warning: "warn" },
} as const;

describe.each(Object.keys(stories) as SessionEvent["type"][])("%s", (type) => {
  it(`feat:N5 feat:N6 is reported to onEvent and to the logger, without a secret: ${type}`, async () => {
    const { events, lines, secrets } = await stories[type]();
    expect(events.map((event) => event.type)).toContain(type);
    // A line for every event, in order, with its fields.
    expect(lines.map(({ fields }) => fields)).toEqual(
      events.map(({ type: event, ...fields }) => ({ event, ...fields })),
    );
    const line = lines.find(({ fields }) => fields.event === type);
    expect(line?.level).toBe(levels[type]);
    expect(line?.message).toMatch(/^[a-z]+( [a-z]+,?| CSRF)+$/);
    const said = inspect([events, lines], { depth: 20, maxStringLength: null, showHidden: true });
    expect(secrets.length).toBeGreaterThan(0);
    for (const secret of [...secrets, "CANARY-claim", "CANARY-data", "CANARY-secret"]) {
      expect(said.includes(secret)).toBe(false);
    }
    // Nor the last part of a token, which proves it.
    for (const secret of secrets) {
      expect(said.includes(secret.split(".").at(-1) ?? "?")).toBe(false);
    }
  });
});

describe("events", () => {
  it("feat:N6 feat:F1 each change of private data is one event, with its version; a refused one is none", async () => {
    const { sessions, api, events, issue } = createWorld();
    const { id, access } = await issue();
    await sessions.updateData(id, { n: 1 });
    await api.call({ bearer: access }, (ctx) => sessions.require(ctx).updateData({ n: 2 }));
    await expect(sessions.updateData(id, () => null as never)).rejects.toThrow();
    await sessions.updateData("unknown", { n: 3 });
    expect(events.filter(({ type }) => type === "dataChanged")).toEqual([
      { type: "dataChanged", sessionId: id, version: 1 },
      { type: "dataChanged", sessionId: id, version: 2 },
    ]);
  });

  it("feat:N6 include the user, the session, the reason and the time", async () => {
    const { events } = await stories.theft();
    const created = events.find((e) => e.type === "created");
    const theft = events.filter((e) => e.type === "theft");
    expect(created).toMatchObject({
      userId: "alice",
      sessionId: expect.stringMatching(/^[\w-]{22}$/),
    });
    expect(theft).toEqual([
      {
        type: "theft",
        kind: "older",
        sessionId: created?.sessionId,
        userId: "alice",
        presented: 0,
        generation: 2,
        at: expect.any(Number),
      },
    ]);
    const csrf = (await stories.csrfRefused()).events.filter((e) => e.type === "csrfRefused");
    expect(csrf).toEqual([
      {
        type: "csrfRefused",
        check: "crossSite",
        origin: "https://evil.example",
        advice:
          'if the page is yours, add its origin to the option origins: "https://evil.example"',
      },
      { type: "csrfRefused", check: "token", origin: null },
    ]);
    const secret = (await stories.unknownSecret()).events.filter((e) => e.type === "unknownSecret");
    expect(secret).toHaveLength(1);
  });

  it("feat:N6 report each end of a session once, with its cause", async () => {
    const world = createWorld({ sessionsPerUser: { max: 4 } });
    const { sessions, api, events } = world;
    const [a, b, c, d] = [
      await world.issue(),
      await world.issue(),
      await world.issue(),
      await world.issue(),
    ];
    sessions.clock.advance("1s");
    await world.issue();
    const oldest = events.find((e) => e.type === "revoked")?.sessionId;
    const left = [a, b, c, d].filter(({ id }) => id !== oldest);
    const [x, y, z] = left;
    await api.call({ bearer: x?.access ?? "" }, (ctx) => sessions.require(ctx).revoke());
    await sessions.revokeAll({ userId: "alice", except: z?.id ?? "" });
    await sessions.revoke(y?.id ?? "");
    await api.open({ bearer: z?.access ?? "" }, (ctx) => sessions.create(ctx, { userId: "alice" }));
    const ends = events.flatMap((e) => (e.type === "revoked" ? [[e.sessionId, e.endedBy]] : []));
    expect(ends).toContainEqual([oldest, "evicted"]);
    expect(ends).toContainEqual([x?.id, "signOut"]);
    expect(ends).toContainEqual([y?.id, "revoked"]);
    expect(ends).toContainEqual([z?.id, "replaced"]);
    expect(new Set(ends.map(([id]) => id)).size).toBe(ends.length);
  });

  it("feat:N6 report changes of their own process only", async () => {
    const store = memoryStore();
    const one = createWorld({ store });
    const two = createWorld({ store, clock: one.sessions.clock });
    await two.sessions.ready();
    const { id } = await one.issue();
    await one.sessions.revoke(id);
    await two.sessions.revoke(id);
    expect([one.events.length, two.events.length]).toEqual([2, 0]);
  });
});

describe("broken listeners and loggers", () => {
  it("feat:N5 feat:N6 that throw or reject do not affect calls", async () => {
    const fail = (): never => {
      throw new Error("listener");
    };
    const logger: SessionLogger = { info: fail, warn: async () => fail(), error: fail };
    for (const onEvent of [fail, async () => fail()]) {
      const sessions = testSessions({ logger, onEvent });
      const { session, tokens } = await sessions.issue({ userId: "alice" });
      await sessions.updateClaims(session.id, { a: 1 });
      const found = await sessions.getSession(exchangeOf({ bearer: tokens.accessToken }));
      expect(found.id).toBe(session.id);
      expect(await sessions.revoke(session.id)).toBe(true);
    }
  });

  it("feat:N5 if one of the two throws, the other still receives everything", async () => {
    const events: string[] = [];
    const lines: string[] = [];
    const logger: SessionLogger = {
      info: (_, message) => void lines.push(message),
      warn: () => {},
      error: () => {},
    };
    const sessions = testSessions({
      logger,
      onEvent: ({ type }) => {
        events.push(type);
        throw new Error("listener");
      },
    });
    await sessions.issue({ userId: "alice" });
    expect([events, lines]).toEqual([["created"], ["created a session"]]);
  });

  it("feat:N5 feat:N4 an invalid logger is refused at construction; console is valid", async () => {
    expect(() => testSessions({ logger: { info() {}, warn() {} } as never })).toThrow(
      'logger has no method "error"; pass pino, console or an object with the same methods',
    );
    for (const logger of ["pino", 7, null, { info: 1, warn: 1, error: 1 }]) {
      expect(() => testSessions({ logger: logger as never })).toThrow(TypeError);
    }
    expect(() => testSessions({ logger: console })).not.toThrow();
    expect(() => testSessions({ onEvent: "x" as never })).toThrow("onEvent must be a function");
  });

  it("feat:N5 methods are called on their logger, as pino requires", async () => {
    class Logger {
      readonly lines: string[] = [];
      info(_: object, message: string): void {
        this.lines.push(message);
      }
      warn(): void {}
      error(): void {}
    }
    const logger = new Logger();
    await testSessions({ logger }).issue({ userId: "alice" });
    expect(logger.lines).toEqual(["created a session"]);
  });
});
