--- include: base

-- The audit log. Of each user, "places" is a sorted set of ids by time, and "rows" is a hash by id; a value
-- is when the entry ends, a space, and JSON. "ends" is a sorted set for all users, of ids with their user,
-- by the time of their end.

-- KEYS meta, ends, places, rows; ARGV user, and of each entry: id, age, for how long it is kept, JSON.
function appendAudit()
  for each = 2, #ARGV, 4 do
    local id, at = ARGV[each], now - ARGV[each + 1]
    if redis.call('HEXISTS', KEYS[4], id) == 0 then
      local ends = text(at + ARGV[each + 2])
      redis.call('ZADD', KEYS[2], ends, id .. ' ' .. ARGV[1])
      redis.call('ZADD', KEYS[3], text(at), id)
      redis.call('HSET', KEYS[4], id, ends .. ' ' .. ARGV[each + 3])
    end
  end
  return answer('')
end

-- KEYS meta, places, rows; ARGV time and id of the last entry of the page before (or twice ''), how many
-- entries, tenant or '', whether only this tenant counts or ''. Returns id, time and JSON of each entry.
function listAudit()
  local reply, rank, wanted = answer(''), 0, tonumber(ARGV[3])
  if ARGV[1] ~= '' then rank = redis.call('ZCOUNT', KEYS[2], '(' .. ARGV[1], '+inf') end
  while #reply < 2 + 3 * wanted do
    local page = redis.call('ZREVRANGE', KEYS[2], rank, rank + 99, 'WITHSCORES')
    if #page == 0 then break end
    rank = rank + #page / 2
    for each = 1, #page, 2 do
      local id, at = page[each], text(page[each + 1])
      local ends, json = string.match(redis.call('HGET', KEYS[3], id) or '', '^(%d+) (.*)$')
      local seen = at == ARGV[1] and id >= ARGV[2]
      if ends and not seen and tonumber(ends) > now and #reply < 2 + 3 * wanted then
        if ARGV[5] == '' or cjson.decode(json).tenantId == ARGV[4] then
          table.insert(reply, id)
          table.insert(reply, at)
          table.insert(reply, json)
        end
      end
    end
  end
  return reply
end

-- KEYS meta, ends, places, rows; ARGV user, tenant or '', whether only this tenant counts or ''.
function forgetAudit()
  local fields = redis.call('HGETALL', KEYS[4])
  for each = 1, #fields, 2 do
    local json = string.match(fields[each + 1], '^%d+ (.*)$')
    if ARGV[3] == '' or cjson.decode(json).tenantId == ARGV[2] then
      redis.call('ZREM', KEYS[2], fields[each] .. ' ' .. ARGV[1])
      redis.call('ZREM', KEYS[3], fields[each])
      redis.call('HDEL', KEYS[4], fields[each])
    end
  end
  return answer('')
end

-- KEYS meta, ends; ARGV limit. Returns the ids, with their user, of entries that are no longer to be kept.
function endedAudit()
  local reply = answer('')
  local ended = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', text(now), 'LIMIT', 0, ARGV[1])
  for _, each in ipairs(ended) do table.insert(reply, each) end
  return reply
end

-- KEYS meta, ends, places, rows; ARGV user, ids. Removes these entries. Flag: how many were there.
function pruneAudit()
  local gone = 0
  for each = 2, #ARGV do
    redis.call('ZREM', KEYS[3], ARGV[each])
    redis.call('HDEL', KEYS[4], ARGV[each])
    gone = gone + redis.call('ZREM', KEYS[2], ARGV[each] .. ' ' .. ARGV[1])
  end
  return answer(text(gone))
end
