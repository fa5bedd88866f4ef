import { expect, it } from "vitest";
import { parseRefreshToken } from "../../src/engine/refresh/format.ts";
import { confirmOne } from "../../src/testing/store-contract/fixture.ts";
import { inEveryOrder } from "./every-order.ts";
import {
  failure,
  meetAt,
  minute,
  type NewSharedStore,
  recordOf,
  ripe,
  times,
  tokenOf,
} from "./rules-helpers.ts";
import { directly, type Servers, startServers } from "./servers.ts";

/** R01, R03, R05, R06 and R08: races between refreshes, revocations and crashes. */
export function describeRaces(newStore: NewSharedStore): void {
  it("sec:R01: 64 concurrent refreshes on 4 servers create one generation and one successor", async () => {
    await using servers = await startServers(newStore());
    const { id, token } = await ripe(servers);
    const before = refreshWrites(servers);
    // Every server has sent its write before any of them takes place.
    meetAt(servers, "advance");
    const answers = await Promise.all(times(64, (i) => servers.at(i).exchange(token)));
    // One advances. The others find it done, read the row and send its token again.
    expect(refreshWrites(servers) - before).toBe(4 + 3);
    expect(answers.map(({ record }) => record.generation)).toEqual(times(64, () => 1));
    const [successor = "", ...others] = new Set(answers.map((answer) => answer.refreshToken));
    expect(others).toEqual([]);
    expect(parseRefreshToken(successor)?.generation).toBe(1);
    // One chain: on every server the parent leads to the same successor, and the successor is alive.
    await servers.pass(2_000);
    for (const server of servers.all) {
      expect((await server.exchange(token)).refreshToken).toBe(successor);
      expect((await server.exchange(successor)).record.generation).toBe(1);
    }
    expect(await recordOf(servers, id)).toMatchObject({ generation: 1, revokedAt: null });
    expect(servers.thefts()).toEqual([]);
  });

  it("sec:R03: a server that crashes around the write leaves either the old or the new state", async () => {
    await using servers = await startServers(newStore());
    for (const written of [true, false]) {
      const { id, token } = await ripe(servers);
      servers.at(0).hook = async (method, run) => {
        if (method !== "advance") {
          return run();
        }
        if (written) {
          await run();
        }
        throw new Error("the connection was lost");
      };
      expect(await failure(servers.at(0).exchange(token))).toMatchObject({
        kind: "unavailable",
        clearTokens: false,
      });
      servers.at(0).hook = directly;
      expect((await recordOf(servers, id)).generation).toBe(written ? 1 : 0);
      const again = await Promise.all(servers.all.map((server) => server.exchange(token)));
      const record = await recordOf(servers, id);
      expect(record).toMatchObject({ generation: 1, confirmedAt: null });
      const successor = await tokenOf(servers.at(3), record, token);
      expect(new Set(again.map(({ refreshToken }) => refreshToken))).toEqual(new Set([successor]));
    }
    expect(servers.thefts()).toEqual([]);
  });

  it("sec:R05: the loser of a race does not end the session of the winner, in any order", async () => {
    // No settling time, so that the successor may be confirmed while the loser is in flight.
    await using servers = await startServers(newStore(), { refresh: { settle: "0s" } });
    const firsts = new Set<string>();
    const races = await inEveryOrder(async () => {
      const { id, token } = await ripe(servers);
      const refreshed = [0, 1].map((i) => ({
        server: servers.at(i),
        work: () => servers.at(i).exchange(token),
        answer: undefined as string | undefined,
      }));
      const racers = refreshed.map((racer) => ({
        server: racer.server,
        async work() {
          racer.answer = (await racer.work()).refreshToken;
        },
      }));
      const confirm = () => confirmOne(servers.at(2).store, id, 1, 0);
      return {
        racers: [...racers, { server: servers.at(2), work: confirm }],
        async after(order) {
          firsts.add(order.find((call) => call.endsWith("advance")) ?? "");
          const record = await recordOf(servers, id);
          expect(record, order.join()).toMatchObject({ generation: 1, revokedAt: null });
          const successor = await tokenOf(servers.at(3), record, token);
          expect(refreshed.map(({ answer }) => answer)).toEqual([successor, successor]);
        },
      };
    });
    expect(firsts).toEqual(new Set(["0:advance", "1:advance"]));
    expect(races).toBe(8);
    expect(servers.thefts()).toEqual([]);
  });

  it("sec:R05: a parent that arrives together with its confirmed child does not end the session either", async () => {
    await using servers = await startServers(newStore());
    const outcomes = new Set<boolean>();
    const races = await inEveryOrder(async () => {
      const { id, token } = await ripe(servers);
      const { refreshToken: child = "", access } = await servers.at(3).exchange(token);
      await servers.pass(minute);
      const confirm = async (): Promise<void> => {
        servers.at(2).used(access.claims);
        await servers.at(2).settled();
      };
      return {
        racers: [
          { server: servers.at(0), work: () => servers.at(0).exchange(child) },
          { server: servers.at(1), work: () => servers.at(1).exchange(token) },
          { server: servers.at(2), work: confirm },
        ],
        async after(order) {
          const record = await recordOf(servers, id);
          // The parent has the child sent again. If that comes first, the child settles anew.
          const uses = ["0:refresh", "2:confirm"].map((call) => order.indexOf(call));
          const first = Math.min(...uses.filter((at) => at >= 0));
          const isConfirmed = first < order.indexOf("1:refresh");
          outcomes.add(isConfirmed);
          expect(record, order.join()).toMatchObject({
            generation: 1,
            confirmedAt: isConfirmed ? servers.shared.now() : null,
            revokedAt: null,
          });
          expect((await servers.at(3).exchange(child)).record.generation).toBe(1);
        },
      };
    });
    expect(outcomes).toEqual(new Set([true, false]));
    expect(races).toBe(30);
    expect(servers.thefts()).toEqual([]);
  });

  it("sec:R06: no server mints a successor after a revocation or sign-out is acknowledged", async () => {
    await using servers = await startServers(newStore());
    let [minted, refused] = [0, 0];
    const races = await inEveryOrder(async () => {
      const { id, token } = await ripe(servers);
      let answer: Awaited<ReturnType<typeof failure>> & { refreshToken?: string | undefined } = {};
      const ended: boolean[] = [];
      const end = (server: number, by: "revoked" | "signOut") => ({
        server: servers.at(server),
        work: async () => ended.push(await servers.at(server).revoke(id, by)),
      });
      const refresh = async (): Promise<void> => {
        answer = await servers
          .at(0)
          .exchange(token)
          .catch((error: typeof answer) => error);
      };
      return {
        racers: [{ server: servers.at(0), work: refresh }, end(1, "revoked"), end(2, "signOut")],
        async after(order) {
          const acknowledged = order.findIndex((call) => call.endsWith("revoke"));
          const written = order.findIndex((call) => call.endsWith("advance"));
          const first = written >= 0 && written < acknowledged;
          expect(answer.kind, order.join()).toBe(first ? undefined : "unauthorized");
          expect((await recordOf(servers, id)).generation).toBe(first ? 1 : 0);
          minted += first ? 1 : 0;
          refused += first ? 0 : 1;
          expect(ended.filter(Boolean)).toHaveLength(1);
          await allRefused(servers, [token, answer.refreshToken ?? token]);
        },
      };
    });
    expect(races).toBe(minted + refused);
    expect(minted).toBeGreaterThan(0);
    expect(refused).toBeGreaterThan(minted);
  });

  it("sec:R06: a server does not repeat a shared answer after another server's revocation", async () => {
    await using servers = await startServers(newStore());
    const { id, token } = await ripe(servers);
    await servers.at(0).exchange(token);
    const log = Promise.withResolvers<void>();
    servers.at(0).hook = async (method, run) => {
      // A fast notification must not reach the server before it is asked.
      await (method === "changes" ? log.promise : undefined);
      return run();
    };
    await servers.at(1).revoke(id, "revoked");
    expect(servers.at(0).revocations.get(id)).toBeUndefined();
    await allRefused(servers, [token]);
    log.resolve();
  });

  it("sec:R08: only the store decides; earlier reads and memory of a server do not count", async () => {
    const refresh = { settle: "0s", overlap: "2ms", clientTimeout: "1ms" } as const;
    await using servers = await startServers(newStore(), { refresh });
    const { id, token } = await servers.at(0).signIn();
    await servers.at(1).exchange(token);
    await servers.pass(3);
    // The first server would share its answer for a second; meanwhile the others continue.
    const child = (await servers.at(0).exchange(token)).refreshToken ?? "";
    await servers.at(1).exchange(child);
    await servers.pass(3);
    const grandchild = (await servers.at(2).exchange(child)).refreshToken ?? "";
    expect(parseRefreshToken(grandchild)?.generation).toBe(2);
    expect(await failure(servers.at(0).exchange(token))).toMatchObject({ reason: "TOKEN_THEFT" });
    expect((await recordOf(servers, id)).endedBy).toBe("theft");
  });

  it("sec:R08: a write based on an outdated read changes nothing", async () => {
    await using servers = await startServers(newStore(), { wrong: [0, 0] });
    const { id, token } = await ripe(servers);
    let meanwhile: string | undefined;
    servers.at(0).hook = async (method, run) => {
      if (method === "advance" && meanwhile === undefined) {
        meanwhile = (await servers.at(1).exchange(token)).refreshToken ?? "";
      }
      return run();
    };
    const before = refreshWrites(servers);
    expect((await servers.at(0).exchange(token)).refreshToken).toBe(meanwhile);
    expect(refreshWrites(servers) - before).toBe(3);
    expect((await recordOf(servers, id)).generation).toBe(1);
  });
}

function refreshWrites(servers: Servers): number {
  return servers.all
    .flatMap(({ calls }) => calls)
    .filter((call) => call === "refresh" || call === "advance").length;
}

async function allRefused(servers: Servers, tokens: readonly string[]): Promise<void> {
  for (const token of tokens) {
    for (const server of servers.all) {
      expect(await failure(server.exchange(token))).toMatchObject({
        kind: "unauthorized",
        reason: "SESSION_REVOKED",
      });
    }
  }
}
