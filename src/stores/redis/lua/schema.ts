/** Milliseconds after an upgrade for which servers of before it may still begin sessions. */
const mixedFor = 24 * 3_600_000;

/** KEYS meta; ARGV the schema this version writes. Replies what the server and the data say. */
export const open: string = `
local function said(section, name)
  local reply = redis.pcall('INFO', section)
  return type(reply) == 'string' and string.match(reply, name .. ':([%w-]+)') or ''
end
local policy, replid = said('memory', 'maxmemory_policy'), said('replication', 'master_replid')
if policy == 'noeviction' and replid ~= '' then redis.call('HSETNX', KEYS[1], 'schema', ARGV[1]) end
return { policy, replid, redis.call('HGET', KEYS[1], 'schema') or '' }
`;

/**
 * Adds sessions without an index to the indexes; more often does nothing. ARGV cursor, how many keys
 * to look at. Replies the next cursor, '0' at the end.
 */
export const indexSessions: string = `
local step = redis.call('SCAN', ARGV[1], 'MATCH', sessionKey('*'), 'COUNT', ARGV[2], 'TYPE', 'hash')
for _, key in ipairs(step[2]) do
  local id = string.sub(key, #sessionKey('') + 1)
  local row = redis.call('HMGET', key,
    'userId', 'tenantId', 'createdAt', 'idleExpiresAt', 'revokedAt')
  if row[1] and not row[5] then
    index(id, { userId = row[1], tenantId = row[2], createdAt = row[3], idleEnd = row[4] })
  end
end
return answer(step[1])
`;

/** KEYS meta; ARGV schema. Called when all sessions of before are indexed. */
export const upgraded: string = `
if tonumber(redis.call('HGET', KEYS[1], 'schema')) < tonumber(ARGV[1]) then
  redis.call('HSET', KEYS[1], 'schema', ARGV[1], 'mixedUntil', text(now + ${mixedFor}))
end
return answer('')
`;

/** KEYS meta. Replies 'due' when servers of before the upgrade begin no sessions any more. */
export const mixedEnds: string = `
local mixedUntil = redis.call('HGET', KEYS[1], 'mixedUntil')
return answer(mixedUntil and tonumber(mixedUntil) <= now and 'due' or '')
`;

/** KEYS meta. Called when all sessions are indexed after that. */
export const mixedEnded: string = `
redis.call('HDEL', KEYS[1], 'mixedUntil')
return answer('')
`;
