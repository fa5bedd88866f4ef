import { Client } from "pg";
import { systemClock } from "../../src/base/clock.ts";
import { readLifetimes } from "../../src/engine/lifetimes.ts";
import { RevocationLog } from "../../src/engine/revocation/log.ts";
import type { SessionStore } from "../../src/engine/store.ts";
import { postgresStore } from "../../src/stores/postgres/index.ts";
import { redisStore } from "../../src/stores/redis/index.ts";
import { postgresMissing, startPostgres } from "../../test/servers/postgres.ts";
import { redisMissing, startRedis } from "../../test/servers/redis.ts";
import { type Figures, requireService, type ScenarioOptions } from "./scenario.ts";

const entries = 1_000_000;

/**
 * How long a server reads the change log when it starts, if a million sessions ended in the minutes
 * that still matter.
 */
export async function start({ log }: ScenarioOptions): Promise<Figures> {
  requireService(postgresMissing);
  const postgres = await onPostgres();
  log(`PostgreSQL: ${postgres} s`);
  if (redisMissing !== undefined) {
    log(`Redis: not measured: ${redisMissing}`);
    return { start_1e6_s: postgres };
  }
  const redis = await onRedis();
  log(`Redis: ${redis} s`);
  // The slower of both.
  return { start_1e6_s: Math.max(postgres, redis), start_1e6_redis_s: redis };
}

async function onPostgres(): Promise<number> {
  const server = await startPostgres();
  const url = server.url("public");
  const store = postgresStore(url);
  await store.open({ clock: systemClock });
  const admin = new Client({ connectionString: url });
  await admin.connect();
  // One transaction for every hundred, as if users had signed out everywhere.
  await admin.query(`do $$ begin
    for part in 1..${entries / 100} loop
      insert into rpcsession_changes (kind, session, ended_by, at)
        select 'revoked', substr(md5(part || '-' || n), 1, 22), 'signOut',
          floor(extract(epoch from now()) * 1000)::bigint + part - 10000
        from generate_series(1, 100) as n;
      commit;
    end loop;
  end $$`);
  await admin.query("vacuum analyze rpcsession_changes");
  const seconds = await secondsToRead(store);
  await store.close();
  await admin.end();
  await server.stop();
  return seconds;
}

async function onRedis(): Promise<number> {
  const server = await startRedis();
  const client = await server.connect();
  const store = redisStore(client);
  await store.open({ clock: systemClock });
  // As `append` in log.lua writes them.
  const script = `local ms = tonumber(ARGV[1])
    for n = 1, 10000 do
      redis.call('XADD', KEYS[2], ARGV[1] .. '-' .. n, 'session',
        string.format('%s%010d', ARGV[1], n), 'endedBy', 'signOut', 'at', ARGV[1])
    end
    redis.call('HSET', KEYS[1], 'ms', ARGV[1], 'seq', '10000')
    return {}`;
  const keys = ["{rpc-session}:meta", "{rpc-session}:log"];
  const begin = Date.now() - 60_000;
  for (let part = 0; part < entries / 10_000; part++) {
    await client.eval(script, { keys, arguments: [String(begin + part)] });
  }
  const seconds = await secondsToRead(store);
  await store.close();
  await server.stop();
  return seconds;
}

/** What `sessions.ready()` waits for, beside keys. */
async function secondsToRead(store: SessionStore): Promise<number> {
  const revocations = new RevocationLog({
    ...{ store, clock: systemClock, emit: () => {}, maxStaleness: 5_000 },
    window: readLifetimes({}, {}).access + 60_000,
    onKeys: async () => {},
    onLoss: () => {},
  });
  const begun = performance.now();
  await revocations.open();
  const seconds = (performance.now() - begun) / 1000;
  revocations.close();
  if (revocations.size !== entries) {
    throw new Error(`${revocations.size} of ${entries} entries were read`);
  }
  return Number(seconds.toFixed(2));
}
