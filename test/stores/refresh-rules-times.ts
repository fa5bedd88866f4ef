import fc from "fast-check";
import { expect, it } from "vitest";
import { describeSkew } from "./refresh-rules-skew.ts";
import {
  acceptedBy,
  day,
  failure,
  hour,
  meetAt,
  minute,
  type NewSharedStore,
  pollBound,
  recordOf,
  ripe,
  ripeTwice,
  second,
  times,
  use,
} from "./rules-helpers.ts";
import { directly, type Servers, startServers } from "./servers.ts";

/** R02, R04, R09, R13, R14, R15 and R16: refresh tokens over time. */
export function describeTimes(newStore: NewSharedStore): void {
  it("sec:R02: a lost response is recovered at any time before the idle end", async () => {
    await using servers = await startServers(newStore());
    for (const delay of [0, second, 31 * second, hour, 5 * day, 14 * day - 1]) {
      const { id, token } = await ripe(servers);
      const lost = await servers.at(0).exchange(token);
      await servers.pass(delay);
      const again = await servers.at(1).exchange(token);
      expect(again.refreshToken, `${delay}`).toBe(lost.refreshToken);
      await servers.pass(delay);
      // Lost once more: each retry extends the idle end.
      expect((await servers.at(2).exchange(token)).refreshToken).toBe(lost.refreshToken);
      const { record } = await servers.at(3).exchange(lost.refreshToken ?? "");
      expect(record).toMatchObject({ id, generation: 1, revokedAt: null });
      expect(await acceptedBy(servers, again.access)).toEqual(
        delay < 15 * minute ? [0, 1, 2, 3] : [],
      );
    }
    const { token } = await ripe(servers);
    await servers.at(0).exchange(token);
    await servers.pass(14 * day);
    expect(await failure(servers.at(1).exchange(token))).toMatchObject({
      reason: "SESSION_EXPIRED",
    });
    expect(servers.thefts()).toEqual([]);
  });

  it("sec:R04: the parent is valid until the overlap after the confirmation is over, and no longer", async () => {
    await using servers = await startServers(newStore());
    for (const since of [30 * second, 30 * second + 1]) {
      const { id, token } = await ripe(servers);
      const { refreshToken = "", access } = await servers.at(0).exchange(token);
      await servers.pass(minute);
      await use(servers.at(1), access);
      await servers.pass(since);
      const { refreshToken: again, reason } = await outcome(servers.at(2).exchange(token));
      if (since === 30 * second) {
        expect(again).toBe(refreshToken);
        expect((await recordOf(servers, id)).revokedAt).toBeNull();
      } else {
        expect(reason).toBe("TOKEN_THEFT");
        await deadEverywhere(servers, { tokens: [token, refreshToken], access });
      }
    }
    expect(servers.thefts()).toHaveLength(1);
  });

  it("sec:R04: the grandparent is theft even within the overlap and before the confirmation", async () => {
    await using servers = await startServers(newStore());
    for (const confirmed of [true, false]) {
      const { token, successor } = await ripeTwice(servers);
      const { refreshToken: child = "", access } = await servers.at(0).exchange(successor);
      if (confirmed) {
        await servers.pass(minute);
        await use(servers.at(1), access);
      }
      expect(await failure(servers.at(2).exchange(token))).toMatchObject({
        reason: "TOKEN_THEFT",
        clearTokens: true,
      });
      await deadEverywhere(servers, { tokens: [token, successor, child], access });
    }
    expect(servers.thefts()).toHaveLength(2);
  });

  it("sec:R09: the idle and the absolute end apply to the millisecond, and refreshes never extend the latter", async () => {
    const [idle, absolute] = [2 * day, 5 * day];
    await using servers = await startServers(newStore(), {
      lifetimes: { idle: "2d", absolute: "5d" },
    });
    const pause = fc.constantFrom(minute, 20 * hour, 30 * hour, idle - 1, idle);
    await fc.assert(
      fc.asyncProperty(fc.array(pause, { minLength: 3, maxLength: 8 }), async (pauses) => {
        await servers.pass(second - (servers.shared.now() % second));
        const { id, token } = await servers.at(0).signIn();
        const end = servers.shared.now() + absolute;
        let [idleEnd, present] = [servers.shared.now() + idle, token];
        for (const [turn, ms] of [...pauses, idle].entries()) {
          // Does not reach an end, except for `idle`, which reaches it exactly.
          const left = idleEnd - servers.shared.now();
          await servers.pass(ms === idle ? left : Math.min(ms, left - 1));
          const now = servers.shared.now();
          const { record, access, refreshToken, reason } = await outcome(
            servers.at(turn).exchange(present),
          );
          if (now >= idleEnd) {
            expect(reason).toBe("SESSION_EXPIRED");
            return;
          }
          idleEnd = Math.min(now + idle, end);
          expect(record).toMatchObject({ id, idleExpiresAt: idleEnd, expiresAt: end });
          expect(access?.claims.exp).toBeLessThanOrEqual(idleEnd / 1000);
          present = refreshToken ?? present;
        }
        expect.unreachable("the absolute end has passed");
      }),
      { numRuns: 15 },
    );
    expect(servers.thefts()).toEqual([]);
  });

  it("sec:R09: a server does not repeat a shared answer for a session that has just expired", async () => {
    await using servers = await startServers(newStore(), {
      lifetimes: { idle: "1d", absolute: "1d" },
    });
    const { token } = await servers.at(0).signIn();
    await servers.pass(day - 1);
    await servers.at(0).exchange(token);
    await servers.pass(1);
    expect((await outcome(servers.at(0).exchange(token))).reason).toBe("SESSION_EXPIRED");
  });

  describeSkew(newStore);

  it("sec:R14: 1,000 replays on 4 servers cause one theft and one event", async () => {
    await using servers = await startServers(newStore());
    const { id, token } = await ripeTwice(servers);
    // All four servers detect the theft before any of them writes it.
    meetAt(servers, "revoke");
    const found = await Promise.all(times(64, (i) => failure(servers.at(i).exchange(token))));
    for (const server of servers.all) {
      server.hook = directly;
    }
    for (let i = 0; i < 936; i += 36) {
      const more = times(36, (n) => failure(servers.at(n).exchange(token)));
      found.push(...(await Promise.all(more)));
    }
    expect(found).toHaveLength(1_000);
    expect(new Set(found.map(({ reason }) => reason))).toEqual(new Set(["TOKEN_THEFT"]));
    const at = servers.shared.now();
    expect(servers.thefts()).toEqual([
      {
        type: "theft",
        kind: "previous",
        sessionId: id,
        userId: "alice",
        presented: 0,
        generation: 1,
        at,
      },
    ]);
    const { entries } = await servers.at(0).store.changes(undefined, hour);
    expect(entries).toEqual([{ kind: "revoked", session: id, endedBy: "theft", at }]);
  });

  it("sec:R15: after the end, access tokens are refused at once on the same server and soon on the others", async () => {
    await using servers = await startServers(newStore());
    for (const endedBy of ["theft", "revoked", "signOut"] as const) {
      const { id, token, successor, newAccess } = await ripeTwice(servers);
      const fresh = await servers.at(0).exchange(successor);
      expect(await acceptedBy(servers, newAccess)).toHaveLength(servers.all.length);
      await (endedBy === "theft"
        ? failure(servers.at(2).exchange(token))
        : servers.at(2).revoke(id, endedBy));
      expect(await acceptedBy(servers, newAccess)).not.toContain(2);
      await servers.pass(pollBound);
      for (const access of [newAccess, fresh.access]) {
        expect(await acceptedBy(servers, access), endedBy).toEqual([]);
      }
      for (const server of servers.all) {
        expect(server.revocations.get(id)).toMatchObject({ endedBy });
      }
      // A server that starts later knows it too.
      const late = await servers.add();
      expect(late.revocations.get(id)).toMatchObject({ endedBy });
    }
  });

  it("sec:R16: a cookie jar with an old refresh token and a new access token becomes consistent again", async () => {
    await using servers = await startServers(newStore());
    const { token, access: old } = await ripe(servers);
    const { refreshToken: successor = "", access } = await servers.at(0).exchange(token);
    // Used early, left unused for long, and used again after it expired: it confirms nothing.
    for (const pause of [0, 59 * second]) {
      await servers.pass(pause);
      await use(servers.at(1), access);
      expect((await servers.at(2).exchange(token)).refreshToken).toBe(successor);
    }
    await servers.pass(3 * day);
    const again = await servers.at(3).exchange(token);
    expect(again.refreshToken).toBe(successor);
    // The other way round: an old access token with the new refresh token.
    await use(servers.at(0), old);
    await servers.pass(2 * second);
    expect(await servers.at(1).exchange(successor)).toMatchObject({
      refreshToken: undefined,
      record: { generation: 1, revokedAt: null },
    });
    expect(servers.thefts()).toEqual([]);
  });

  it("sec:R16: the old refresh token is valid until the access token has confirmed its generation and the overlap is over", async () => {
    await using servers = await startServers(newStore());
    const { id, token } = await ripe(servers);
    const { refreshToken: successor, access } = await servers.at(0).exchange(token);
    await servers.pass(minute);
    await use(servers.at(1), access);
    await servers.pass(30 * second);
    expect((await servers.at(2).exchange(token)).refreshToken).toBe(successor);
    await servers.pass(1);
    expect((await outcome(servers.at(3).exchange(token))).reason).toBe("TOKEN_THEFT");
    expect((await recordOf(servers, id)).endedBy).toBe("theft");
  });
}

interface Remains {
  readonly tokens: readonly string[];
  readonly access: Parameters<typeof acceptedBy>[1];
}

/** Refresh tokens are refused at once, and access tokens once the log was read. */
async function deadEverywhere(servers: Servers, { tokens, access }: Remains): Promise<void> {
  expect(await acceptedBy(servers, access)).not.toContain(2);
  for (const server of servers.all) {
    for (const token of tokens) {
      expect(await failure(server.exchange(token))).toMatchObject({ reason: "TOKEN_THEFT" });
    }
  }
  await servers.pass(pollBound);
  expect(await acceptedBy(servers, access)).toEqual([]);
}

type Answer = Awaited<ReturnType<Servers["all"][number]["exchange"]>>;

async function outcome(
  work: Promise<Answer>,
): Promise<Partial<Answer> & { readonly reason?: string | undefined }> {
  return work.catch((error: { readonly reason: string }) => ({ reason: error.reason }));
}
