// After a failover that lost commits: how many calls read their session, once every client has refreshed.
import { setTimeout as pause } from "node:timers/promises";
import { SessionService } from "../../gen/rpcsession/v1/service_pb.ts";
import { header } from "../../src/base/wire.ts";
import { createSessions, type Sessions } from "../../src/index.ts";
import { postgresStore } from "../../src/stores/postgres/index.ts";
import { exchangeOf } from "../../test/helpers/exchanges.ts";
import { type WireServer, wireServer } from "../../test/helpers/wire-server.ts";
import { startBlackHole } from "../../test/servers/black-hole.ts";
import { PostgresPairs, postgresPairMissing } from "../../test/servers/postgres-pair.ts";
import { type Figures, requireService, type ScenarioOptions } from "./scenario.ts";
import { forEach } from "./sessions.ts";

const clients = 2_000;
/** Calls that are under way at the same time. */
const atOnce = 32;

interface Tokens {
  readonly access: string;
  readonly refresh: string;
}

export async function doubts({ quick, log }: ScenarioOptions): Promise<Figures> {
  requireService(postgresPairMissing);
  await using pairs = new PostgresPairs();
  const primary = await pairs.primary();
  const target = { host: "127.0.0.1", port: primary.port };
  await using address = await startBlackHole(target);
  const { sessions, reads } = await startServer(
    `postgres://postgres@127.0.0.1:${address.port}/postgres`,
  );
  const standby = await primary.standby();

  // 1. The clients sign in. The standby has all of them, but not what is written just before the failure.
  const tokens: Tokens[] = [];
  await forEach(Array(clients).keys(), atOnce, async (client) => {
    const { tokens: issued } = await sessions.issue({ userId: `user ${client}` });
    tokens[client] = { access: issued.accessToken, refresh: issued.refreshToken };
  });
  const before = await measure(sessions, reads, tokens, 2_000);
  standby.kill();
  await sessions.issue({ userId: "lost" });

  // 2. The standby takes over.
  primary.kill();
  standby.start();
  standby.promote();
  target.port = standby.port;
  const lost = performance.now();
  while (sessions.health().status !== "unsure") {
    await pause(50);
  }
  const doubted = await measure(sessions, reads, tokens, 2_000);

  // 3. Every client refreshes, and a minute passes.
  const service = wireServer(sessions.protect({ routes: () => {} }));
  await forEach([...tokens.entries()], atOnce, async ([client, present]) => {
    tokens[client] = await refresh(service, present.refresh);
  });
  await pause(Math.max(0, (quick ? 20_000 : 60_000) - (performance.now() - lost)));
  const after = await measure(sessions, reads, tokens, quick ? 2_000 : 10_000);
  log(
    `calls/s before, after the loss, and once all have refreshed: ${[before, doubted, after].map(({ rate }) => rate.toFixed(0)).join(", ")}`,
  );
  await sessions.close();
  return {
    doubted_calls_ratio: after.ratio,
    doubted_calls_ratio_before_refresh: doubted.ratio,
    calls_per_s_before_loss: Math.round(before.rate),
    calls_per_s_after_loss: Math.round(doubted.rate),
    calls_per_s_after_refresh: Math.round(after.rate),
  };
}

/** A server, and how often it has read a session. */
async function startServer(url: string) {
  const store = postgresStore(url);
  const reads = { count: 0 };
  const sessions = createSessions({
    issuer: "https://api.example.com",
    secret: "a secret of at least 32 bytes, for a benchmark",
    store: {
      ...store,
      load: (id) => {
        reads.count += 1;
        return store.load(id);
      },
    },
    onEvent: () => {},
  });
  await sessions.ready();
  return { sessions, reads };
}

async function refresh(server: WireServer, refreshToken: string): Promise<Tokens> {
  const { headers, error } = await server.call(SessionService.method.refresh, { refreshToken });
  const access = headers.get(header.accessToken);
  if (error !== undefined || access === null) {
    throw error ?? new Error("the refresh gave no access token");
  }
  return { access, refresh: headers.get(header.refreshToken) ?? refreshToken };
}

/** Calls of all clients in turn, for some milliseconds. */
async function measure(
  sessions: Sessions,
  reads: { readonly count: number },
  tokens: readonly Tokens[],
  ms: number,
) {
  const from = reads.count;
  const began = performance.now();
  let calls = 0;
  const worker = async (): Promise<void> => {
    while (performance.now() - began < ms) {
      const { access = "" } = tokens[calls % tokens.length] ?? {};
      calls += 1;
      await sessions.getSession(exchangeOf({ bearer: access }));
    }
  };
  await Promise.all(Array.from({ length: atOnce }, worker));
  const rate = calls / ((performance.now() - began) / 1000);
  return { rate, ratio: Number(((reads.count - from) / calls).toPrecision(3)) };
}
