--- include: rows

-- Scripts for many sessions at once. KEYS begin with meta, log, ends, revoking.

-- Lua compares text by the server's locale, Redis sorts it by its bytes.
local function isBefore(a, b)
  for place = 1, math.min(#a, #b) do
    local left, right = string.byte(a, place), string.byte(b, place)
    if left ~= right then return left < right end
  end
  return #a < #b
end

-- KEYS index; ARGV createdAt and id of the last session of the page before, or twice '', how many are
-- wanted, how many ids to look at, tenant?. Returns 'more' if there may be more, createdAt and id of
-- the last id looked at, and, for each session, the number of texts that follow, and its fields and
-- values.
function list()
  local owned, from, tenant = KEYS[5], 0, optional(ARGV[5])
  if ARGV[1] ~= '' then
    -- That session may be gone by now. Find where it would be, among those of its time.
    from = redis.call('ZCOUNT', owned, '(' .. ARGV[1], '+inf')
    local behind = redis.call('ZCOUNT', owned, ARGV[1], '+inf')
    while from < behind do
      local middle = math.floor((from + behind) / 2)
      local id = redis.call('ZREVRANGE', owned, text(middle), text(middle))[1]
      if isBefore(id, ARGV[2]) then behind = middle else from = middle + 1 end
    end
  end
  local look, wanted, seen, gone = tonumber(ARGV[4]), tonumber(ARGV[3]), 0, {}
  local ids = redis.call('ZREVRANGE', owned, text(from), text(from + look - 1), 'WITHSCORES')
  local reply = { text(now), '', ARGV[1], ARGV[2] }
  for each = 1, #ids, 2 do
    local id = ids[each]
    if isLive(id) then
      local row = redis.call('HGETALL', sessionKey(id))
      if not tenant or redis.call('HGET', sessionKey(id), 'tenantId') == tenant then
        table.insert(reply, text(#row))
        for _, field in ipairs(row) do table.insert(reply, field) end
        seen = seen + 1
      end
    elseif redis.call('EXISTS', sessionKey(id)) == 0 then
      table.insert(gone, id)
    end
    reply[3], reply[4] = ids[each + 1], id
    if seen == wanted then break end
  end
  for _, id in ipairs(gone) do redis.call('ZREM', owned, id) end
  if seen < wanted and #ids == 2 * look then reply[2] = 'more' end
  return reply
end

-- ARGV cursor, about how many. Flag: the next cursor, '0' at the end. Returns ids of live sessions.
function liveIds()
  local scanned = redis.call('ZSCAN', ends, ARGV[1], 'COUNT', ARGV[2])
  local reply = answer(scanned[1])
  for each = 1, #scanned[2], 2 do
    local id = cjson.decode(scanned[2][each])[1]
    if isLive(id) then table.insert(reply, id) end
  end
  return reply
end

-- KEYS the sessions; ARGV ended by, ids. Returns the ids that this call ended.
function revokeIds()
  local reply = answer('')
  for each = 2, #ARGV do
    endIfPending(ARGV[each])
    if endSession(ARGV[each], ARGV[1]) then table.insert(reply, ARGV[each]) end
  end
  return reply
end

-- The first step of a revokeAll of an owner's sessions.
--
-- KEYS index, and the tenant's index if both user and tenant are given; ARGV ended by, except?,
-- tenant? if both are given, how many may be ended at once, 'indexed' if no session can be missing in
-- the index. Flag 'unindexed' when one can be missing, and nothing was done. Otherwise the flag is the
-- number of the revokeAll that was begun because there are too many sessions for one step, or ''; then
-- how many other revokeAlls are unfinished, their numbers, and the ids that were ended.
function revokeOwned()
  if ARGV[5] == '' and redis.call('HEXISTS', meta, 'mixedUntil') == 1 then
    return answer('unindexed')
  end
  local owned, endedBy, except, tenant = KEYS[5], ARGV[1], optional(ARGV[2]), optional(ARGV[3])
  local others = redis.call('HKEYS', revoking)
  local reply = { text(now), '', text(#others), unpack(others) }
  if redis.call('ZCARD', owned) <= tonumber(ARGV[4]) then
    for _, id in ipairs(redis.call('ZRANGE', owned, '0', '-1')) do
      endIfPending(id)
      local theirs = not tenant or redis.call('HGET', sessionKey(id), 'tenantId') == tenant
      if id ~= except and theirs and endSession(id, endedBy) then table.insert(reply, id) end
    end
    return reply
  end
  local number = text(redis.call('HINCRBY', meta, 'revocations', '1'))
  local set = revoking .. ':' .. number
  if tenant then
    redis.call('ZINTERSTORE', set, '2', owned, KEYS[6], 'AGGREGATE', 'MIN')
    if except then redis.call('ZREM', set, except) end
  else
    redis.call('RENAME', owned, set)
    local createdAt = except and redis.call('ZSCORE', set, except)
    if createdAt then
      redis.call('ZREM', set, except)
      redis.call('ZADD', owned, createdAt, except)
    end
  end
  redis.call('HSET', revoking, number, endedBy)
  reply[2] = number
  return reply
end

-- KEYS its set; ARGV number of a revokeAll, how many to end. Flag 'more' if there may be more.
function continueRevoking()
  local set, most = KEYS[5], tonumber(ARGV[2])
  if redis.call('HEXISTS', revoking, ARGV[1]) == 0 then return answer('') end
  local ids = redis.call('ZRANGEBYSCORE', set, '(-inf', '+inf', 'LIMIT', '0', ARGV[2])
  for _, id in ipairs(ids) do
    endIfPending(id)
    if redis.call('ZSCORE', set, id) ~= '-inf' then redis.call('ZREM', set, id) end
  end
  if #ids == most then return answer('more') end
  redis.call('HDEL', revoking, ARGV[1])
  -- The server that began it takes the ids it ended from this set. If that server is gone, the set
  -- expires.
  redis.call('PEXPIRE', set, '600000')
  return answer('')
end

-- KEYS its set; ARGV how many at most. Removes the ids that a revokeAll ended from its set and returns
-- them.
function takeRevoked()
  local reply = answer('')
  for _, id in ipairs(redis.call('ZRANGE', KEYS[5], '0', text(ARGV[1] - 1))) do
    table.insert(reply, id)
  end
  redis.call('ZREMRANGEBYRANK', KEYS[5], '0', text(ARGV[1] - 1))
  return reply
end

-- Returns the numbers of all unfinished revokeAlls.
function unfinishedRevocations()
  local reply = answer('')
  for _, number in ipairs(redis.call('HKEYS', revoking)) do table.insert(reply, number) end
  return reply
end
