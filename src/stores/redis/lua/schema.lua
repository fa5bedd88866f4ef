--- include: base

-- Milliseconds after an upgrade during which servers of the former schema may still create sessions.
local mixedFor = 24 * 3600000

-- KEYS meta; ARGV the schema that this version writes, and the oldest one whose servers work with it.
-- Returns the eviction policy and the replication id of the server, '' where INFO does not report them,
-- and both schemas of the data.
function open()
  local function info(section, name)
    local reply = redis.pcall('INFO', section)
    return type(reply) == 'string' and string.match(reply, name .. ':([%w-]+)') or ''
  end
  local policy, replid = info('memory', 'maxmemory_policy'), info('replication', 'master_replid')
  if policy == 'noeviction' and replid ~= '' and redis.call('HSETNX', KEYS[1], 'schema', ARGV[1]) == 1 then
    -- Every server that ever uses this data can read tokens of format 2.
    redis.call('HSET', KEYS[1], 'compatibleFrom', ARGV[2], 'tokenFormat', '2')
  end
  local schema = redis.call('HGET', KEYS[1], 'schema') or ''
  return { policy, replid, schema, redis.call('HGET', KEYS[1], 'compatibleFrom') or schema }
end

-- KEYS meta. Flag: the newest format of tokens that all servers can read.
function tokenFormat()
  return answer(redis.call('HGET', KEYS[1], 'tokenFormat') or '1')
end

-- KEYS meta; ARGV both schemas. Called once all sessions of the former schema are indexed.
function recordUpgrade()
  if tonumber(redis.call('HGET', KEYS[1], 'schema')) < tonumber(ARGV[1]) then
    redis.call('HSET', KEYS[1], 'schema', ARGV[1], 'compatibleFrom', ARGV[2], 'mixedUntil', text(now + mixedFor))
  end
  return answer('')
end

-- KEYS meta. Flag 'due' when servers of the former schema no longer create sessions.
function finalIndexDue()
  local mixedUntil = redis.call('HGET', KEYS[1], 'mixedUntil')
  return answer(mixedUntil and tonumber(mixedUntil) <= now and 'due' or '')
end

-- KEYS meta. Called once all sessions are indexed after that.
function recordFinalIndex()
  redis.call('HDEL', KEYS[1], 'mixedUntil')
  return answer('')
end
