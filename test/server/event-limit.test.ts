// Events and log lines that anybody can cause by sending requests.
import type { SessionEvent } from "rpc-session";
import { SessionError } from "rpc-session";
import { createFakeClock, type TestSessionsOptions, testSessions } from "rpc-session/testing";
import { describe, expect, it } from "vitest";
import { NotesService } from "../../examples/gen/notes/v1/notes_pb.ts";
import { EventLimit } from "../../src/base/event-limit.ts";
import { apiOf } from "../helpers/api.ts";
import { watchedStore } from "../helpers/watched-store.ts";

/** A server, the events that it emits, and the lines of its log. */
function createWorld(options: Partial<TestSessionsOptions> = {}) {
  const events: SessionEvent[] = [];
  const lines: object[] = [];
  const write = (fields: object) => void lines.push(fields);
  const sessions = testSessions({
    public: [NotesService.method.signIn],
    ...options,
    logger: { info: write, warn: write, error: write },
    onEvent: (event) => void events.push(event),
  });
  return { sessions, api: apiOf(sessions), events, lines };
}

type World = ReturnType<typeof createWorld>;

/** Signs an access token under a key that a server does not know, as of now. */
async function foreign({ clock }: World["sessions"]): Promise<string> {
  return (await testSessions({ clock }).issue({ userId: "mallory" })).tokens.accessToken;
}

const crossSite = { origin: "https://evil.example", "sec-fetch-site": "cross-site" };

/** Requests that need no session, and the events that one of them causes. */
// biome-ignore format: a table
const junk: readonly (readonly [string, readonly SessionEvent["type"][], (world: World, i: number) => Promise<unknown>])[] = [
  ["without a token", ["refused"], ({ api }) => api.call({}, () => {})],
  ["with junk as an access token", ["refused"], ({ api }, i) => api.call({ bearer: `junk${i}` }, () => {})],
  ["with a token that another server signed just now", ["refused"], async ({ api, sessions }) => api.call({ bearer: await foreign(sessions) }, () => {})],
  ["with junk as a refresh token", ["refused"], ({ api }, i) => api.refresh("header", `junk${i}`)],
  ["with cookies from another site", ["csrfRefused", "refused"], ({ api }, i) => api.call({ access: `junk${i}`, headers: crossSite }, () => {})],
];

describe("sec:V10 300 requests", () => {
  it.each(junk)(
    "%s cause ten lines for each cause, and one with the count",
    async (_, types, send) => {
      const world = createWorld();
      for (let i = 0; i < 300; i++) {
        await send(world, i);
      }
      expect(world.events).toHaveLength(10 * types.length);
      expect(new Set(world.events.map(({ type }) => type))).toEqual(new Set(types));
      world.sessions.clock.advance("1s");
      const counts = world.events.filter((event) => event.type === "omitted");
      expect(counts.map(({ of, count }) => [of, count])).toEqual(types.map((type) => [type, 290]));
      expect(world.lines).toHaveLength(11 * types.length);
      // The next second begins anew.
      await send(world, 300);
      expect(world.events).toHaveLength(12 * types.length);
    },
  );
});

describe("the limit of events", () => {
  const refused = (reason: "TOKEN_INVALID" | "SESSION_REVOKED"): SessionEvent => ({
    ...{ type: "refused", procedure: "a/B", reason, sessionId: undefined, userId: undefined },
  });
  const failed = (message: string): SessionEvent => ({
    type: "failed",
    procedure: "a/B",
    error: new SessionError("unavailable", "AUTH_UNAVAILABLE", { message }),
  });
  const limited = () => {
    const clock = createFakeClock();
    const events: SessionEvent[] = [];
    const limit = new EventLimit((event) => events.push(event), clock);
    const emit = (event: SessionEvent, times: number): void => {
      for (let i = 0; i < times; i++) {
        limit.emit(event);
      }
    };
    return { clock, events, limit, emit };
  };

  it("counts each cause for itself, so that junk cannot hide an outage or another refusal", () => {
    const { clock, events, emit } = limited();
    emit(refused("TOKEN_INVALID"), 50);
    emit(failed("the keys could not be read"), 50);
    events.length = 0;
    emit(refused("SESSION_REVOKED"), 1);
    emit(failed("the store could not be reached"), 1);
    expect(events).toHaveLength(2);
    clock.advance("1s");
    expect(events.slice(2)).toEqual([
      { type: "omitted", of: "refused", reason: "TOKEN_INVALID", count: 40 },
      { type: "omitted", of: "failed", reason: "AUTH_UNAVAILABLE", count: 40 },
    ]);
  });

  it("says nothing after a second in which nothing was left out", () => {
    const { clock, events, emit } = limited();
    emit(refused("TOKEN_INVALID"), 10);
    clock.advance("5s");
    expect(events).toHaveLength(10);
  });

  it("does not apply to what happens to sessions", () => {
    const { events, emit } = limited();
    emit({ type: "created", sessionId: "a", userId: "b" }, 100);
    emit({ type: "revoked", sessionId: "a", endedBy: "signOut" }, 100);
    expect(events).toHaveLength(200);
  });

  it("tells at most 100 causes apart, and keeps counting beyond that", () => {
    const { clock, events, emit } = limited();
    for (let i = 0; i < 500; i++) {
      emit(failed(`outage ${i}`), 1);
    }
    expect(events).toHaveLength(110);
    clock.advance("1s");
    expect(events.slice(110)).toEqual([
      { type: "omitted", of: "failed", reason: undefined, count: 390 },
    ]);
    emit(failed("outage 500"), 1);
    expect(events).toHaveLength(112);
  });

  it("reports the counts when the server closes", async () => {
    const world = createWorld();
    await world.sessions.ready();
    for (let i = 0; i < 12; i++) {
      await world.api.call({}, () => {});
    }
    await world.sessions.close();
    expect(world.events.at(-1)).toEqual({
      ...{ type: "omitted", of: "refused", reason: "SESSION_MISSING", count: 2 },
    });
  });

  it("an outage under a flood of junk is still reported", async () => {
    const store = watchedStore();
    const world = createWorld({ store: store.store });
    const { tokens } = await world.sessions.issue({ userId: "alice" });
    for (let i = 0; i < 300; i++) {
      await world.api.refresh("header", `junk${i}`);
    }
    store.failing.add("load");
    await world.api.refresh("header", tokens.refreshToken);
    expect(world.events.at(-1)).toMatchObject({ type: "failed" });
  });
});

describe("sec:V10 texts of a request in events and log lines", () => {
  it("are cut: an Origin of 12 kB is not logged whole", async () => {
    const { api, events, lines } = createWorld();
    const origin = `https://${"a".repeat(12_000)}.example`;
    await api.call(
      { access: "junk", headers: { origin, "sec-fetch-site": "cross-site" } },
      () => {},
    );
    const { origin: emitted } = events.find((event) => event.type === "csrfRefused") ?? {
      origin: "",
    };
    expect(emitted).toBe(`${origin.slice(0, 255)}…`);
    expect(JSON.stringify([events, lines]).length).toBeLessThan(2_000);
  });

  it("a text that fits stays as it is", async () => {
    const { api, events } = createWorld();
    await api.call({ access: "junk", headers: crossSite }, () => {});
    expect(events[0]).toMatchObject({ type: "csrfRefused", origin: "https://evil.example" });
  });
});
