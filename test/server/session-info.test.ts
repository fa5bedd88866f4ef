import { Code } from "@connectrpc/connect";
import type { SessionStore } from "rpc-session";
import { memoryStore } from "rpc-session/stores/memory";
import { type TestSessions, testSessions } from "rpc-session/testing";
import { describe, expect, it } from "vitest";
import { Action, Reason, Tokens } from "../../gen/rpcsession/v1/hint_pb.ts";
import { SessionService } from "../../gen/rpcsession/v1/service_pb.ts";
import { clearsCookies, cookieEffects, type Presented } from "../helpers/exchanges.ts";
import { issueOn } from "../helpers/refreshing.ts";
import { wireServer } from "../helpers/wire-server.ts";

const ask = (sessions: TestSessions, presented: Presented) =>
  wireServer(sessions.protect({ routes: () => {} })).call(
    SessionService.method.getSession,
    {},
    presented,
  );

/** Sessions with a silent change log: changes of another server are not visible yet. */
function deafSessions(changed: Partial<SessionStore> = {}) {
  const inner = memoryStore();
  const sessions = testSessions({ store: { ...inner, onChange: () => () => {}, ...changed } });
  return { inner, sessions };
}

describe("SessionService.GetSession", () => {
  it("feat:P4 returns who the caller is and when the session ends", async () => {
    const { sessions } = deafSessions();
    const { id, access } = await issueOn(sessions, "cookie");
    sessions.clock.advance("1m");
    const { message } = await ask(sessions, { access });
    expect(message?.session).toMatchObject({ id, userId: "alice" });
    const seconds = (at?: { readonly seconds: bigint }) => Number(at?.seconds);
    const began = sessions.clock.now() / 1000 - 60;
    expect(seconds(message?.session?.createdAt)).toBe(began);
    expect(seconds(message?.session?.authenticatedAt)).toBe(began);
    expect(seconds(message?.session?.idleExpiresAt)).toBe(began + 14 * 86_400);
    expect(seconds(message?.session?.expiresAt)).toBe(began + 90 * 86_400);
    const left = seconds(message?.session?.accessExpiresIn);
    expect(left).toBeGreaterThan(0.95 * 900 - 62);
    expect(left).toBeLessThanOrEqual(900 - 60);
  });

  it("feat:P4 an access token that has expired by the store's clock has no time left", async () => {
    const load: SessionStore["load"] = async (id) => {
      const { record, now } = await inner.load(id);
      return { record, now: now + 16 * 60_000 };
    };
    const { inner, sessions } = deafSessions({ load: (id) => load(id) });
    const { access } = await issueOn(sessions, "cookie");
    const { message } = await ask(sessions, { access });
    expect(message?.session?.accessExpiresIn).toMatchObject({ seconds: 0n, nanos: 0 });
  });

  it("requires a session", async () => {
    const { hint } = await ask(deafSessions().sessions, {});
    expect(hint).toMatchObject({ action: Action.SIGN_IN, reason: Reason.SESSION_MISSING });
  });

  it("does not describe a session as alive that another server has ended", async () => {
    const { inner, sessions } = deafSessions();
    const { id, access } = await issueOn(sessions, "cookie");
    await inner.revoke(id, "revoked");
    const { hint, headers, message } = await ask(sessions, { access });
    expect(message).toBeUndefined();
    expect(hint).toMatchObject({ reason: Reason.SESSION_REVOKED, tokens: Tokens.CLEAR });
    expect(cookieEffects(headers)).toEqual(clearsCookies);
  });

  it("a session lost by the store: SIGN_IN, tokens cleared", async () => {
    const lost: SessionStore["load"] = async () => ({ now: 0, record: undefined });
    const { sessions } = deafSessions({ load: lost });
    const { access } = await issueOn(sessions, "cookie");
    const { hint, headers } = await ask(sessions, { access });
    expect(hint).toMatchObject({ action: Action.SIGN_IN, reason: Reason.SESSION_UNKNOWN });
    expect(cookieEffects(headers)).toEqual(clearsCookies);
  });

  it("an outage: Unavailable, tokens kept", async () => {
    const { sessions } = deafSessions({ load: () => Promise.reject(new Error("down")) });
    const { access } = await issueOn(sessions, "cookie");
    const { error, headers } = await ask(sessions, { access });
    expect(error?.code).toBe(Code.Unavailable);
    expect(cookieEffects(headers)).toEqual([]);
  });
});
