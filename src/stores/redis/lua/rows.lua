--- include: log
--- constant: keepEnded

-- Helpers of every script that touches sessions. KEYS begin with meta, log, ends, revoking.
--
-- The indexes are sorted sets: one per user and one per tenant, with session ids by createdAt; and
-- "ends", with the time at which to check whether Redis has dropped a session, so that its id leaves
-- the indexes. An id stays in them as long as its row is kept, unless the session was revoked: if the
-- clock goes back, an expired session may be live again.
--
-- The indexes by external id are sorted sets of the same kind. They expire with the last of their
-- sessions, because older servers, which write beside newer ones, would leave ids in them.

local meta, log, ends, revoking = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local prefix = string.sub(meta, 1, -5)

-- The caller declares in KEYS the keys that it can know. It cannot know those made from ids in an
-- index or from a session's owner. They share the hash tag of all others.
local function sessionKey(id) return prefix .. 'session:' .. id end
local function userKey(userId) return prefix .. 'user:' .. userId end
local function tenantKey(tenantId) return prefix .. 'tenant:' .. tenantId end

-- Optional arguments: '' means absent, any other value begins with '='.
local function optional(arg)
  return arg ~= '' and string.sub(arg, 2) or nil
end

-- Names all owners, because the row can no longer be read once Redis has dropped it.
local function endsMember(id, userId, tenantId)
  return cjson.encode({ id, userId, tenantId or nil })
end

local function index(id, row)
  redis.call('ZADD', ends, text(row.idleEnd + keepEnded), endsMember(id, row.userId, row.tenantId))
  redis.call('ZADD', userKey(row.userId), row.createdAt, id)
  if row.tenantId then redis.call('ZADD', tenantKey(row.tenantId), row.createdAt, id) end
end

local function unindex(id, userId, tenantId)
  redis.call('ZREM', ends, endsMember(id, userId, tenantId))
  redis.call('ZREM', userKey(userId), id)
  if tenantId then redis.call('ZREM', tenantKey(tenantId), id) end
end

-- The keys that index a session by its external id; none if the issuer is nil or false.
local function externalKeys(issuer, sid, sub)
  local keys = {}
  local function add(by, name) table.insert(keys, prefix .. by .. ':' .. issuer .. ' ' .. name) end
  if issuer and sid then add('sid', sid) end
  if issuer and sub then add('sub', sub) end
  if issuer and sub and not sid then add('subWithoutSid', sub) end
  return keys
end

-- Adds a session to an index by external id, and lets the index last as long as its row. Does nothing
-- new a second time.
local function indexExternal(key, id, createdAt, idleEnd)
  redis.call('ZADD', key, createdAt, id)
  local time, left = redis.call('TIME'), redis.call('PTTL', key)
  local ends = left < 0 and 0 or time[1] * 1000 + math.floor(time[2] / 1000) + left
  redis.call('PEXPIREAT', key, text(math.max(ends, idleEnd + keepEnded)))
end

-- Looks at a few ids of an index and removes those whose sessions Redis has dropped. Done at every
-- insert, this keeps the number of such ids at about a tenth of all.
local function cleanExternal(key)
  for _, id in ipairs(redis.call('ZRANDMEMBER', key, '10')) do
    if redis.call('EXISTS', sessionKey(id)) == 0 then redis.call('ZREM', key, id) end
  end
end

-- Returns whether this call ended the session.
local function endSession(id, endedBy)
  local key = sessionKey(id)
  local row = redis.call('HMGET', key, 'userId', 'revokedAt', 'tenantId', 'externalIssuer',
    'externalSid', 'externalSub')
  if not row[1] or row[2] then return false end
  append(id, 'endedBy', endedBy)
  redis.call('HSET', key, 'revokedAt', text(now), 'endedBy', endedBy)
  redis.call('PEXPIREAT', key, text(now + keepEnded))
  unindex(id, row[1], row[3])
  for _, external in ipairs(externalKeys(row[4], row[5], row[6])) do
    redis.call('ZREM', external, id)
  end
  return true
end

-- A revokeAll of many sessions takes away their index in one step and ends them in several. All of
-- them must appear to end at once, so any script that touches one of them ends it first. The score
-- -inf marks a session that was ended on behalf of that revokeAll.
local pending
local function endIfPending(id)
  pending = pending or redis.call('HGETALL', revoking)
  for each = 1, #pending, 2 do
    local set = revoking .. ':' .. pending[each]
    if redis.call('ZSCORE', set, id) and endSession(id, pending[each + 1]) then
      redis.call('ZADD', set, '-inf', id)
    end
  end
end

-- Sessions that one script ends; see `revokeStep`.
local endAtOnce = 500

-- Sets sessions of one owner apart, like a revokeAll of many sessions. Returns its number.
local function setApart(ids, endedBy, userId, tenantId)
  local number = text(redis.call('HINCRBY', meta, 'revocations', '1'))
  for from = 1, #ids, 1000 do
    local some, scored = {}, {}
    for each = from, math.min(from + 999, #ids) do
      table.insert(some, ids[each])
      table.insert(scored, '0')
      table.insert(scored, ids[each])
    end
    redis.call('ZADD', revoking .. ':' .. number, unpack(scored))
    redis.call('ZREM', userKey(userId), unpack(some))
    if tenantId then redis.call('ZREM', tenantKey(tenantId), unpack(some)) end
  end
  redis.call('HSET', revoking, number, endedBy)
  return number
end

local function isLiveRow(revokedAt, idleEnd, absoluteEnd)
  return idleEnd and not revokedAt and tonumber(idleEnd) > now and tonumber(absoluteEnd) > now
end

local function isLive(id)
  endIfPending(id)
  return isLiveRow(unpack(redis.call('HMGET', sessionKey(id), 'revokedAt', 'idleExpiresAt', 'expiresAt')))
end

-- ARGV cursor, how many keys to scan. Adds sessions that are missing in the indexes; idempotent.
-- Returns the next cursor, '0' at the end.
function indexSessions()
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
end

-- ARGV limit. Removes ids from the indexes whose sessions Redis has dropped. Flag 'more' if there may
-- be more.
function pruneIndexes()
  local due = redis.call('ZRANGEBYSCORE', ends, '-inf', '(' .. text(now), 'LIMIT', '0', ARGV[1])
  for _, member in ipairs(due) do
    local id, userId, tenantId = unpack(cjson.decode(member))
    local row = redis.call('HMGET', sessionKey(id), 'idleExpiresAt', 'revokedAt')
    local gone = row[1] and not row[2] and tonumber(row[1]) + keepEnded
    if gone and gone >= now then
      redis.call('ZADD', ends, text(gone), member)
    else
      unindex(id, userId, tenantId)
    end
  end
  return answer(#due == tonumber(ARGV[1]) and 'more' or '')
end
