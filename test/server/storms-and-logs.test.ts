import { createFakeClock, testSessions } from "rpc-session/testing";
import { describe, expect, it } from "vitest";
import { exchangeOf, sessionErrorOf } from "../helpers/exchanges.ts";
import { advanced, issueOn, refreshed } from "../helpers/refreshing.ts";
import { watchedStore } from "../helpers/watched-store.ts";

describe("sec:V09 tokens of many clients that start at once", () => {
  it("do not all expire at once: expiry and early refreshes spread over 5 % of the lifetime", async () => {
    const sessions = testSessions();
    const ends: number[] = [];
    for (let batch = 0; batch < 20; batch++) {
      const issued = await Promise.all(
        Array.from({ length: 100 }, () => sessions.issue({ userId: "alice" })),
      );
      ends.push(...issued.map(({ session }) => session.accessExpiresAt.getTime()));
    }
    const [first, last] = [Math.min(...ends), Math.max(...ends)];
    const now = sessions.clock.now();
    expect(last - now).toBeLessThanOrEqual(900_000);
    expect(first - now).toBeGreaterThanOrEqual(855_000 - 1_000);
    // 2,000 over 45 s: 44 a second on average, compared with 2,000 at once.
    const perSecond = Map.groupBy(ends, (end) => Math.floor(end / 1_000));
    expect(Math.max(...[...perSecond.values()].map(({ length }) => length))).toBeLessThan(100);
    expect(perSecond.size).toBeGreaterThan(40);
  });
});

describe("sec:V10 events and log lines", () => {
  it("never contain a token, and a token in a URL is not accepted", async () => {
    const clock = createFakeClock();
    const store = watchedStore();
    const told: unknown[] = [];
    const log = (fields: object, message: string) => told.push(fields, message);
    const sessions = testSessions({
      clock,
      store: store.store,
      onEvent: (event) => told.push(event),
      logger: { info: log, warn: log, error: log },
    });
    const cookie = await issueOn(sessions, "cookie");
    const header = await issueOn(sessions, "header");
    const next = await advanced(sessions, cookie.refresh);
    const tokens = [cookie.access, cookie.refresh, header.access, header.refresh];
    tokens.push(next.access, next.refresh);
    await sessions.updateClaims(header.id, { role: "admin" });
    const reissued = exchangeOf({ bearer: header.access });
    const { session } = await sessions
      .getSession(reissued)
      .then((live) => ({ session: live }))
      .catch(() => ({ session: undefined }));
    tokens.push(reissued.responseHeader.get("rpcsession-access-token") ?? "no token");
    // A theft, an outage, and junk.
    clock.advance("2m");
    await refreshed(sessions, next.refresh).catch(() => {});
    clock.advance("2m");
    await refreshed(sessions, cookie.refresh).catch(() => {});
    store.failing.add("changes");
    clock.advance("6s");
    await new Promise((resolve) => setImmediate(resolve));
    await sessionErrorOf(sessions.getSession(exchangeOf({ bearer: header.access })));
    await sessionErrorOf(sessions.getSession(exchangeOf({ bearer: `${header.access}x` })));
    const types = told.map((event) => (event as { readonly type?: string }).type);
    for (const type of ["created", "refreshed", "theft", "claimsChanged", "feedStale", "failed"]) {
      expect(types).toContain(type);
    }
    const text = JSON.stringify(told, (_, value: unknown) =>
      value instanceof Error ? [value.message, value.stack, value.cause] : value,
    );
    for (const token of tokens) {
      expect(token.length).toBeGreaterThan(20);
      expect(text).not.toContain(token);
      // Nor the secret part of it.
      expect(text).not.toContain(token.split(".").at(-1));
    }
    expect(session).toBeDefined();
    const inUrl = new Request(`https://test.example/?access_token=${header.access}`);
    const error = await sessionErrorOf(
      sessions.getSession({
        requestHeader: inUrl.headers,
        responseHeader: new Headers(),
        requestMethod: "GET",
      }),
    );
    expect(error.reason).toBe("SESSION_MISSING");
  });
});
