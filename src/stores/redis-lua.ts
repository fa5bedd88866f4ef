import { keepChanges, keepEnded } from "./retention.ts";

// Each script is one atomic step of the store: Redis runs nothing beside it, and writes what it
// changed to replicas and to the append-only file as one transaction. It is not undone when it
// fails midway, so every script reads, then appends to the log, then writes the row: whatever can
// fail (a key of another type, memory that is full) fails at its first write.
//
// KEYS always begin with the meta key, so that a cluster finds the shard. Numbers travel as text:
// Redis would cut them to integers, and clients map them as they are told.

/** Sets `now`: the server's clock in milliseconds, which stands still within a script. */
export const serverTime = `
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
`;

const text = `
local function text(number) return string.format('%.0f', number) end
`;

const answer = `
local function answer(flag, key)
  local reply = key and redis.call('HGETALL', key) or {}
  table.insert(reply, 1, text(now))
  table.insert(reply, 2, flag)
  return reply
end
`;

// Ids of the log never go back, even where the clock does: a reader that has seen one will be
// given every later entry.
const endSession = `
local function endSession(key, id, endedBy)
  local row = redis.call('HMGET', key, 'id', 'revokedAt')
  if not row[1] or row[2] then return false end
  local last = redis.call('HMGET', KEYS[1], 'ms', 'seq')
  local ms, seq = tonumber(last[1] or 0), tonumber(last[2] or 0)
  if now > ms then ms, seq = now, 0 else seq = seq + 1 end
  redis.call('XADD', KEYS[2],
    text(ms) .. '-' .. text(seq), 'session', id, 'endedBy', endedBy, 'at', text(now))
  redis.call('HSET', KEYS[1], 'ms', text(ms), 'seq', text(seq))
  redis.call('HSET', key, 'revokedAt', text(now), 'endedBy', endedBy)
  redis.call('PEXPIREAT', key, text(now + ${keepEnded}))
  return true
end
`;

/** KEYS meta, log, session, replaced; ARGV idle, absolute, id of the replaced, fields and values. */
const insert = `
if redis.call('EXISTS', KEYS[3]) == 1 then return answer('taken') end
local idle, absolute = tonumber(ARGV[1]), tonumber(ARGV[2])
local replaced = KEYS[4] ~= nil and endSession(KEYS[4], ARGV[3], 'replaced')
local idleEnd, time = now + math.min(idle, absolute), text(now)
redis.call('HSET', KEYS[3], 'generation', '0', 'claimsVersion', '0', 'version', '0',
  'rotatedAt', time, 'createdAt', time, 'authTime', time, 'lastSeenAt', time,
  'idleExpiresAt', text(idleEnd), 'expiresAt', text(now + absolute), unpack(ARGV, 4))
redis.call('PEXPIREAT', KEYS[3], text(idleEnd + ${keepEnded}))
return answer(replaced and 'replaced' or '', KEYS[3])
`;

/** KEYS meta, session. */
const load = "return answer('', KEYS[2])";

/** KEYS meta, session; ARGV kind, generation, idle, settle or '', generation to write, secret id. */
const refresh = `
local row = redis.call('HMGET', KEYS[2],
  'generation', 'revokedAt', 'idleExpiresAt', 'expiresAt', 'rotatedAt', 'confirmedAt')
if not row[1] or tonumber(row[1]) ~= tonumber(ARGV[2]) or row[2]
  or tonumber(row[3]) <= now or tonumber(row[4]) <= now then
  return answer('')
end
local idleEnd = math.min(now + tonumber(ARGV[3]), tonumber(row[4]))
redis.call('HSET', KEYS[2], 'lastSeenAt', text(now), 'idleExpiresAt', text(idleEnd))
redis.call('PEXPIREAT', KEYS[2], text(idleEnd + ${keepEnded}))
if ARGV[1] ~= 'keep' then
  redis.call('HSET', KEYS[2], 'generation', ARGV[5], 'secretId', ARGV[6], 'rotatedAt', text(now))
  redis.call('HDEL', KEYS[2], 'confirmedAt')
elseif ARGV[4] ~= '' and not row[6]
  and math.max(0, now - tonumber(row[5])) >= tonumber(ARGV[4]) then
  redis.call('HSET', KEYS[2], 'confirmedAt', text(now))
end
return answer('', KEYS[2])
`;

/** KEYS meta, session; ARGV generation, settle. */
const confirm = `
local row = redis.call('HMGET', KEYS[2], 'generation', 'revokedAt', 'rotatedAt', 'confirmedAt')
local used = tonumber(ARGV[1])
if not row[1] or row[2] or tonumber(row[1]) > used then return answer('done') end
-- A generation ahead of the row was lost by the store; it may be current again one day.
if tonumber(row[1]) < used then return answer('') end
if row[4] then return answer('done') end
if math.max(0, now - tonumber(row[3])) < tonumber(ARGV[2]) then return answer('') end
redis.call('HSET', KEYS[2], 'confirmedAt', text(now))
return answer('done')
`;

/** KEYS meta, log, session; ARGV id, ended by. */
const revoke = `
local ended = endSession(KEYS[3], ARGV[1], ARGV[2])
return answer(ended and 'revoked' or '', KEYS[3])
`;

/** KEYS meta, keys. */
const signingKeys = "return answer('', KEYS[2])";

/** KEYS meta, keys; ARGV slot, JSON. */
const addSigningKey = `
local added = redis.call('HSETNX', KEYS[2], ARGV[1], text(now) .. ':' .. ARGV[2])
return answer(added == 1 and 'added' or '')
`;

/** KEYS meta, keys; ARGV slot. */
const removeSigningKeysBelow = `
for _, slot in ipairs(redis.call('HKEYS', KEYS[2])) do
  if tonumber(slot) < tonumber(ARGV[1]) then redis.call('HDEL', KEYS[2], slot) end
end
return answer('')
`;

/** KEYS meta, log; ARGV limit. Replies how many entries went. Sessions expire by themselves. */
const prune = `
local last = math.max(0, now - ${keepChanges} - 1)
local old = redis.call('XRANGE', KEYS[2], '-', text(last), 'COUNT', text(ARGV[1] + 1))
local kept = old[ARGV[1] + 1]
return answer(text(redis.call('XTRIM', KEYS[2], 'MINID', '=', kept and kept[1] or text(last + 1))))
`;

/** KEYS meta, lease; ARGV holder, ttl. The value is when it ends, a colon, and the holder. */
const lease = `
local ends, holder = string.match(redis.call('GET', KEYS[2]) or '', '^(%d+):(.*)$')
if holder and holder ~= ARGV[1] and tonumber(ends) > now then return answer('') end
local untilTime = text(now + ARGV[2])
redis.call('SET', KEYS[2], untilTime .. ':' .. ARGV[1], 'PXAT', untilTime)
return answer('held')
`;

/** KEYS meta; ARGV the schema this version writes. Replies what the server and the data say. */
const open = `
local function said(section, name)
  local reply = redis.pcall('INFO', section)
  return type(reply) == 'string' and string.match(reply, name .. ':([%w-]+)') or ''
end
local policy, replid = said('memory', 'maxmemory_policy'), said('replication', 'master_replid')
if policy == 'noeviction' and replid ~= '' then redis.call('HSETNX', KEYS[1], 'schema', ARGV[1]) end
return { policy, replid, redis.call('HGET', KEYS[1], 'schema') or '' }
`;

/**
 * KEYS meta, log; ARGV lineage, replication id and entry of the cursor (or three times ''), window,
 * a lineage to begin with where there is none, how many entries at most.
 */
const changes = `
local meta = redis.call('HMGET', KEYS[1], 'lineage', 'replid', 'created', 'lostAt', 'ms', 'seq')
local replid = string.match(redis.call('INFO', 'replication'), 'master_replid:(%w+)')
local lineage, created, lostAt = meta[1], tonumber(meta[3] or now), tonumber(meta[4] or 0)
if not lineage then
  lineage = ARGV[5]
  redis.call('HSET', KEYS[1], 'lineage', lineage, 'replid', replid, 'created', text(now))
elseif meta[2] ~= replid then
  lostAt = now
  redis.call('HSET', KEYS[1], 'replid', replid, 'lostAt', text(lostAt))
end
if ARGV[1] ~= '' and ARGV[1] ~= lineage and lostAt < created then
  lostAt = created
  redis.call('HSET', KEYS[1], 'lostAt', text(lostAt))
end
local goesOn = ARGV[1] == lineage and ARGV[2] == replid
local from = goesOn and '(' .. ARGV[3] or text(math.max(0, now - tonumber(ARGV[4])))
local found = redis.call('XRANGE', KEYS[2], from, '+', 'COUNT', ARGV[6])
local full = #found == tonumber(ARGV[6])
local last = full and found[#found][1] or (meta[5] or '0') .. '-' .. (meta[6] or '0')
local reply = { text(now), full and 'full' or '', lineage, replid, last, text(lostAt) }
for _, entry in ipairs(found) do
  for field = 2, 6, 2 do table.insert(reply, entry[2][field]) end
end
return reply
`;

/** The scripts of a store. */
export type RedisScriptName =
  | "open"
  | "insert"
  | "load"
  | "refresh"
  | "confirm"
  | "revoke"
  | "changes"
  | "signingKeys"
  | "addSigningKey"
  | "removeSigningKeysBelow"
  | "prune"
  | "lease";

/** The scripts of a store, by name. @param time Lua that sets `now` */
export function redisScripts(time: string): Readonly<Record<RedisScriptName, string>> {
  const base = time + text + answer;
  return {
    open,
    insert: base + endSession + insert,
    load: base + load,
    refresh: base + refresh,
    confirm: base + confirm,
    revoke: base + endSession + revoke,
    changes: time + text + changes,
    signingKeys: base + signingKeys,
    addSigningKey: base + addSigningKey,
    removeSigningKeysBelow: base + removeSigningKeysBelow,
    prune: base + prune,
    lease: base + lease,
  };
}
