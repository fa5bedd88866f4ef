import { expect, it, vi } from "vitest";
import {
  acceptedBy,
  day,
  failure,
  minute,
  type NewSharedStore,
  ripe,
  ripeTwice,
  second,
  use,
} from "./rules-helpers.ts";
import { type Servers, startServers } from "./servers.ts";

const wrong = [5 * minute, -5 * minute, 4 * minute, 0];

/** R13: servers whose wall clocks are wrong. */
export function describeSkew(newStore: NewSharedStore): void {
  it("sec:R13: servers with clocks 5 minutes off sign nobody out and report no false theft", async () => {
    await using servers = await startServers(newStore(), { wrong });
    const { id, token } = await servers.at(0).signIn();
    let present = token;
    let lost = 0;
    for (let turn = 0; turn < 60; turn++) {
      await servers.pass(([2, 31, 61, 700][turn % 4 ? (turn * 7) % 4 : 1] as number) * second);
      const answer = await servers.at(turn * 3).exchange(present);
      expect(answer.now).toBe(servers.shared.now());
      expect(answer.access.claims.iat).toBe(Math.floor(servers.shared.now() / 1000));
      expect(answer.record).toMatchObject({ id, lastSeenAt: servers.shared.now() });
      expect(await acceptedBy(servers, answer.access)).toEqual([0, 1, 2, 3]);
      if (turn % 5 === 4) {
        lost += answer.refreshToken === undefined ? 0 : 1;
      } else {
        present = answer.refreshToken ?? present;
        await use(servers.at(turn), answer.access);
      }
    }
    const { record } = await servers.at(0).load(id);
    expect(record).toMatchObject({ revokedAt: null });
    expect(record?.generation).toBeGreaterThan(8);
    expect(lost).toBeGreaterThan(1);
    const types = servers.all.flatMap(({ events }) => events.map(({ type }) => type));
    // Moving the clock makes the log stale, and it recovers.
    expect(new Set(types.filter((type) => !type.startsWith("feed")))).toEqual(
      new Set(["created", "refreshed", "recovered"]),
    );
  });

  it("sec:R13: overlap, confirmation and idle end follow the store's clock to the millisecond everywhere", async () => {
    await using servers = await startServers(newStore(), { wrong });
    for (const server of servers.all) {
      const { token } = await ripe(servers);
      const { refreshToken = "", access } = await server.exchange(token);
      await servers.pass(minute - 1);
      await use(server, access);
      // Sent again, so the generation settles anew.
      expect((await server.exchange(token)).refreshToken).toBe(refreshToken);
      await servers.pass(minute - 1);
      await use(server, access);
      expect((await server.exchange(refreshToken)).record.confirmedAt).toBeNull();
      await servers.pass(1);
      expect((await server.exchange(refreshToken)).record.confirmedAt).toBe(servers.shared.now());
      await servers.pass(30 * second);
      expect((await server.exchange(token)).refreshToken).toBe(refreshToken);
      expect((await server.exchange(refreshToken)).refreshToken).toBeUndefined();
      await servers.pass(14 * day - 1);
      expect((await server.exchange(refreshToken)).record.generation).toBe(2);
      await servers.pass(14 * day);
      expect(await failure(server.exchange(refreshToken))).toMatchObject({
        reason: "SESSION_EXPIRED",
      });
      const other = await ripeTwice(servers);
      expect(await failure(server.exchange(other.token))).toMatchObject({ reason: "TOKEN_THEFT" });
    }
    expect(servers.thefts()).toHaveLength(4);
  });

  it("sec:R13: servers with wrong clocks do not sign with a key before all of them have it", async () => {
    await using servers = await startServers(newStore(), { wrong });
    const [first, ...others] = new Set(await kids(servers));
    expect(others).toEqual([]);
    await servers.pass(30 * day - 10 * minute - 1);
    await kids(servers);
    expect(await keysIn(servers)).toHaveLength(1);
    await servers.pass(1);
    await kids(servers);
    await vi.waitFor(async () => expect(await keysIn(servers)).toHaveLength(2));
    await servers.pass(10 * minute - 1);
    expect(new Set(await kids(servers))).toEqual(new Set([first]));
    await servers.pass(1);
    const [, next] = await keysIn(servers);
    expect(new Set(await kids(servers))).toEqual(new Set([next?.kid]));
  });
}

async function keysIn(servers: Servers) {
  return (await servers.at(0).store.signingKeys()).keys;
}

/** The keys with which the servers sign now. Every server must accept the tokens of all others. */
async function kids(servers: Servers): Promise<string[]> {
  const found: string[] = [];
  for (const server of servers.all) {
    const { token } = await server.signIn();
    const { access } = await server.exchange(token);
    expect(await acceptedBy(servers, access)).toEqual([0, 1, 2, 3]);
    const header = Buffer.from(access.token.split(".")[0] ?? "", "base64url").toString();
    found.push((JSON.parse(header) as { readonly kid: string }).kid);
    await server.settled();
  }
  return found;
}
